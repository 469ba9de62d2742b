"""Masks: counts, independence between images, and from ranks and cuts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitlet.nn.masking import gather, num_kept, split_by_noise
from vitlet.rng import uniform


def _noise(rows: np.ndarray, *, key: int = 3, patches: int = 16) -> torch.Tensor:
    return torch.from_numpy(uniform(key, rows, patches))


def test_a_quarter_of_196_patches_is_49() -> None:
    assert num_kept(196, mask_ratio=0.75) == 49


@given(patches=st.integers(1, 1000), percent=st.integers(0, 100))
def test_the_count_is_the_floor_in_exact_arithmetic(patches: int, percent: int) -> None:
    assert num_kept(patches, mask_ratio=percent / 100) == patches * (100 - percent) // 100


def test_binary_fractions_lose_no_patch() -> None:
    assert int(10 * (1 - 0.9)) == 0  # the control: 0.999…
    assert num_kept(10, mask_ratio=0.9) == 1


def test_keep_and_removed_are_a_partition_with_the_smallest_noise_kept() -> None:
    noise = _noise(np.arange(5))
    keep, removed = split_by_noise(noise, kept=4)
    assert (keep.shape, removed.shape) == ((5, 4), (5, 12))
    assert torch.equal(torch.cat([keep, removed], dim=1).sort(dim=1).values, torch.arange(16).expand(5, -1))
    assert bool((noise.gather(1, keep).amax(dim=1) < noise.gather(1, removed).amin(dim=1)).all())


def test_images_get_different_masks_and_every_place_is_kept_equally_often() -> None:
    keep, _ = split_by_noise(_noise(np.arange(4000)), kept=4)
    assert len(set(map(tuple, keep.tolist()))) > 3500
    often = torch.bincount(keep.flatten(), minlength=16) / 4000
    # Standard deviation of a share of 1/4 over 4000 images: 0.0068.
    assert float((often - 0.25).abs().max()) < 5 * 0.0068


def test_a_mask_depends_on_the_slot_and_not_on_the_cut() -> None:
    whole, _ = split_by_noise(_noise(np.arange(8)), kept=4)
    halves = [split_by_noise(_noise(np.arange(i, i + 4)), kept=4)[0] for i in (0, 4)]
    ranks = [split_by_noise(_noise(np.arange(i, 8, 2)), kept=4)[0] for i in (0, 1)]
    assert torch.equal(whole, torch.cat(halves))
    assert torch.equal(whole, torch.stack(ranks, dim=1).flatten(0, 1))


def test_another_step_has_another_mask() -> None:
    assert not torch.equal(_noise(np.arange(4), key=3), _noise(np.arange(4), key=4))


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3), (2, 5, 3, 2)])
def test_gather_is_a_loop_over_images(shape: tuple[int, ...]) -> None:
    x = torch.arange(math.prod(shape)).view(shape)
    index = torch.tensor([[4, 0, 4], [1, 2, 3]])
    assert torch.equal(gather(x, index), torch.stack([x[b][index[b]] for b in range(2)]))
