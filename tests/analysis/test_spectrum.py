"""Fourier amplitudes: the whole transform as oracle, waves and noise with known spectra."""

import math

import pytest
import torch

from vitlet.analysis.spectrum import Spectrum, diagonal_basis, frequencies, log_amplitudes


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [14, 8, 7, 3])
def test_the_diagonal_of_the_whole_transform(side: int) -> None:
    tokens = noise(3, side * side, 5)
    maps = tokens.transpose(1, 2).unflatten(-1, (side, side))
    log = torch.log(torch.fft.fft2(maps).abs() + 1e-6).mean(dim=1)
    expected = log[:, range(math.ceil(side / 2)), range(math.ceil(side / 2))]
    found = log_amplitudes(tokens, diagonal_basis((side, side)))
    assert torch.allclose(found, expected.double(), atol=1e-4)


def test_the_papers_grid_has_seven_frequencies_up_to_six_sevenths() -> None:
    assert frequencies((14, 14)) == [2 * k / 14 for k in range(7)]


def test_white_noise_is_flat_beside_the_step_at_zero() -> None:
    found = Spectrum(1, grid=(14, 14))
    for _ in range(4):
        found.update([noise(16, 196, 192)])
    curve = found.result()[0]
    assert (curve[1:] - curve[1:].mean()).abs().max() < 0.03
    assert abs(curve[1:].mean() - curve[0] - math.log(2) / 2) < 0.03
    assert found.delta().item() == pytest.approx((curve[-1] - curve[0]).item())


def test_a_smooth_map_is_negative_and_a_fast_wave_positive() -> None:
    place = torch.arange(14)
    phase = 2 * math.pi * 6 * (place[:, None] + place) / 14
    fast = phase.cos().reshape(1, 196, 1) + 0.01
    found = Spectrum(2, grid=(14, 14))
    found.update([torch.ones(1, 196, 1), fast])
    smooth, wave = found.delta().tolist()
    assert smooth < -10
    assert wave == pytest.approx(math.log(98 / 1.96), abs=1e-3)


def test_images_may_come_in_any_order() -> None:
    tokens = noise(10, 16, 6)
    whole, pieces = Spectrum(1, grid=(4, 4)), Spectrum(1, grid=(4, 4))
    whole.update([tokens])
    pieces.update([tokens[7:]])
    pieces.update([tokens[:7]])
    assert torch.allclose(pieces.result(), whole.result(), atol=1e-12)


def test_a_grid_that_is_not_square_is_sampled_along_its_shorter_side() -> None:
    assert diagonal_basis((4, 6)).shape == (24, 4)
    found = Spectrum(1, grid=(4, 6))
    found.update([noise(2, 24, 3)])
    assert found.result().isfinite().all()
