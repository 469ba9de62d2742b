"""What is taken for a number, a name and an outline; whatever is taken can be drawn."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitlet.data.detection.fields import file_name, finite, is_outline, shown, whole
from vitlet.data.detection.outlines import from_masks, to_mask

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]
HEIGHT, WIDTH = 16, 20
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_whole_numbers() -> None:
    assert [whole(v) for v in (0, -7, 3.0, 2**63 - 1)] == [0, -7, 3, 2**63 - 1]
    for wrong in (None, True, "3", [3], 3.5, float("nan"), float("inf"), 2**63, 1e30):
        assert whole(wrong) is None


def test_finite_numbers() -> None:
    assert [finite(v) for v in (0, -7, 3.5)] == [0.0, -7.0, 3.5]
    for wrong in (None, True, "3", [3], float("nan"), float("inf"), -float("inf"), 10**400, 1e300):
        assert finite(wrong) is None


def test_names() -> None:
    assert [file_name(v) for v in ("a.png", "\udcff.png")] == ["a.png", "\udcff.png"]
    for wrong in (None, 3, "", ["a"], "a\0b", "\ud800.png"):
        assert file_name(wrong) is None


@given(VALUES)
def test_nothing_raises(value: Any) -> None:
    whole(value), finite(value), file_name(value)
    assert len(shown(value)) <= 80
    is_outline(value, height=HEIGHT, width=WIDTH)
    is_outline([value], height=HEIGHT, width=WIDTH)
    is_outline({"size": value, "counts": value}, height=HEIGHT, width=WIDTH)
    is_outline({"size": [HEIGHT, WIDTH], "counts": value}, height=HEIGHT, width=WIDTH)


def test_outlines() -> None:
    for right in (SQUARE, [[-3, 2, 30.5, 2, 12, 40]], {"size": [16, 20], "counts": [0, 320]}):
        assert is_outline(right, height=HEIGHT, width=WIDTH)
    wrong = (
        None, [], [[]], [1, 2, 3, 4, 5, 6], "square", [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, np.inf]],
        [[1, 2, 3, 4, 5, "6"]], [[1, 2, 3, 4, 5, None]], [[1, 2, 3, 4, 5, True]], [[1, 2, 3, 4, 5, 10**400]],
        [[1, 2, 3, 4, 5, 1e9]], {"size": [20, 16], "counts": [0, 320]}, {"size": [16, 20], "counts": []},
        {"size": [16.0, 20], "counts": [0, 320]}, {"size": [16, 20], "counts": [0, 319]}, {"size": [16, 20]},
        {"size": [16, 20], "counts": [-5, 325]}, {"size": [16, 20], "counts": ["0", 320]}, {"counts": [0, 320]},
        {"size": [16, 20], "counts": [0, 320.0]}, {"size": [16, 20], "counts": "zzz"},
    )  # fmt: skip
    for outline in wrong:
        assert not is_outline(outline, height=HEIGHT, width=WIDTH)


@given(st.text(alphabet=[chr(48 + i) for i in range(64)], max_size=12) | st.text(max_size=6))
def test_run_lengths_that_are_taken_can_be_drawn(counts: str) -> None:
    outline = {"size": [1, 30], "counts": counts}
    if is_outline(outline, height=1, width=30):
        assert to_mask(outline, height=1, width=30).shape == (1, 30)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 1.0])
def test_run_lengths_of_real_masks_are_taken(share: float) -> None:
    draw = np.random.default_rng(3)
    masks = [(draw.random((HEIGHT, WIDTH)) < share).astype(np.uint8) for _ in range(20)]
    masks += [np.kron(mask, np.ones((40, 40), dtype=np.uint8)) for mask in masks[:5]]
    for mask, outline in zip(masks, from_masks(masks), strict=True):
        height, width = mask.shape
        assert is_outline(outline, height=height, width=width)
        assert np.array_equal(to_mask(outline, height=height, width=width), mask)
        for at in (0, len(outline["counts"]) - 1):  # the control: cut or changed, they fill another number of pixels
            cut = outline["counts"][:at]
            assert not is_outline(outline | {"counts": cut}, height=height, width=width)
