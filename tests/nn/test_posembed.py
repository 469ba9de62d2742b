"""Positions: the closed form, what stands in which half, and resizing."""

import math

import pytest
import torch
import torch.nn.functional as F

from vitlet.nn.posembed import resize, sincos_2d


def _closed_form(width: int, grid: int, row: int, column: int) -> list[float]:
    quarter = width // 4

    def half(position: int) -> list[float]:
        angles = [position / 10000 ** (k / quarter) for k in range(quarter)]
        return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]

    return half(column) + half(row)


def test_the_table_is_the_closed_form_with_a_zero_row_for_the_class_token() -> None:
    table = sincos_2d(24, grid=5)
    assert table.shape == (1, 26, 24)
    assert not table[0, 0].any()
    naive = torch.tensor([_closed_form(24, 5, r, c) for r in range(5) for c in range(5)])
    torch.testing.assert_close(table[0, 1:], naive, rtol=0, atol=1e-7)


def test_the_first_half_is_the_column_for_mae_and_the_row_for_moco() -> None:
    mae, moco = sincos_2d(8, grid=3)[0, 1:], sincos_2d(8, grid=3, column_first=False)[0, 1:]
    assert torch.equal(mae[0, :4], mae[3, :4])  # first patches of two rows: the same column
    assert not torch.equal(mae[0, 4:], mae[3, 4:])
    assert torch.equal(mae, torch.cat([moco[:, 4:], moco[:, :4]], dim=1))


def test_the_same_grid_is_the_same_tensor() -> None:
    table = sincos_2d(8, grid=4)
    assert resize(table, grid=4) is table


@pytest.mark.parametrize("grid", [3, 7])
def test_resizing_is_bicubic_on_the_patches_and_keeps_the_class_row(grid: int) -> None:
    table = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0))
    resized = resize(table, grid=grid)
    assert resized.shape == (1, grid * grid + 1, 6)
    assert torch.equal(resized[:, 0], table[:, 0])
    for channel in range(6):
        image = table[0, 1:, channel].view(1, 1, 4, 4)
        there = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False, antialias=True)
        torch.testing.assert_close(resized[0, 1:, channel], there.flatten())


def test_a_constant_stays_constant() -> None:
    torch.testing.assert_close(resize(torch.ones(1, 17, 4), grid=9), torch.ones(1, 82, 4))


def test_a_table_that_is_no_square_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="not a square"):
        resize(torch.ones(1, 13, 4), grid=2)


def test_a_width_that_is_no_multiple_of_four_has_no_table() -> None:
    with pytest.raises(AssertionError, match="a width of 62"):
        sincos_2d(62, grid=2)
