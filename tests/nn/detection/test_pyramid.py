"""The pyramid: five levels at their strides."""

import torch

from vitlet.nn.detection.pyramid import LEVELS, SimpleFeaturePyramid


def test_levels_have_their_strides() -> None:
    pyramid = SimpleFeaturePyramid(16, channels=8)
    found = pyramid(torch.zeros(2, 16, 10, 10))
    assert list(found) == list(LEVELS)
    assert [tuple(level.shape) for level in found.values()] == [(2, 8, side, side) for side in (40, 20, 10, 5, 3)]


def test_sizes_are_those_of_vitdet() -> None:
    """192 → 96 → 48 to stride 4, 192 → 96 to stride 8; 1×1 and 3×3 convolutions without bias, a norm after each."""
    pyramid = SimpleFeaturePyramid(192, channels=256)
    up = (192 * 96 * 4 + 96) + 2 * 96 + (96 * 48 * 4 + 48) + (192 * 96 * 4 + 96)
    inside = 48 + 96 + 192 + 192
    out = inside * 256 + 4 * (256 * 256 * 9 + 2 * 2 * 256)
    assert sum(p.numel() for p in pyramid.parameters()) == up + out
