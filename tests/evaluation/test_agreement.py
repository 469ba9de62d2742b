"""What counts as the same: errors relative to each image, first classes, nearest neighbours, accuracy."""

import math

import numpy as np
import pytest

from vitlet.evaluation.agreement import FP32, INT8, agreement, relative_error, same_neighbours

DRAW = np.random.Generator(np.random.Philox(key=3))
LOGITS = DRAW.standard_normal((1000, 5)).astype(np.float32)
LABELS = LOGITS.argmax(axis=1)


def changed(row: int) -> np.ndarray:
    """The logits with another first class in one row."""
    other = LOGITS.copy()
    other[row] = np.roll(other[row], 1)
    return other


def test_the_same_is_within_every_tolerance() -> None:
    found = agreement({"logits": LOGITS}, {"logits": LOGITS.copy()}, labels=LABELS)
    assert (found.max_relative_error, found.top1_agreement, found.n) == (0.0, 1.0, 1000)
    assert found.accuracy is not None
    assert (found.accuracy.original, found.accuracy.difference) == (1.0, 0.0)
    assert found.shortcomings(FP32) == found.shortcomings(INT8) == []


def test_two_other_classes_in_a_thousand_are_too_many_for_fp32_and_not_for_int8() -> None:
    two = changed(1)
    two[2] = np.roll(two[2], 1)
    found = agreement({"logits": LOGITS}, {"logits": two}, labels=LABELS)
    assert found.top1_agreement == 0.998
    assert found.accuracy is not None
    assert found.accuracy.difference == pytest.approx(-0.002)
    error, same = found.shortcomings(FP32)
    assert "relative error" in error
    assert "99.8 % of 1000 images, 99.9 % needed" in same
    assert found.shortcomings(INT8) == []


def test_an_error_is_relative_to_its_own_image() -> None:
    """One faint image that is wholly wrong would vanish beside a bright one."""
    faint = np.array([[1.0, 0.5], [1e-4, 0.0]], dtype=np.float32)
    wrong = np.array([[1.0, 0.5], [2e-4, 0.0]], dtype=np.float32)
    assert relative_error(faint, wrong) == pytest.approx(1.0)


def test_what_is_no_number_is_beyond_every_tolerance() -> None:
    broken = LOGITS.copy()
    broken[0, 0] = math.nan
    found = agreement({"logits": LOGITS}, {"logits": broken}, labels=LABELS)
    assert found.shortcomings(FP32)
    assert found.shortcomings(INT8)


def test_lost_accuracy_is_a_shortcoming_of_its_own() -> None:
    """Thirty of a thousand: 97 % still agree, but those were the right ones."""
    other = LOGITS.copy()
    other[:30] = np.roll(other[:30], 1, axis=1)
    (lost,) = agreement({"logits": LOGITS}, {"logits": other}, labels=LABELS).shortcomings(INT8)
    assert "3.0 points of accuracy lost" in lost


def test_images_without_a_label_do_not_count_for_accuracy() -> None:
    labels = np.where(np.arange(1000) < 10, LABELS, -1)
    found = agreement({"logits": LOGITS}, {"logits": LOGITS}, labels=labels)
    assert found.accuracy is not None
    assert found.accuracy.n == 10
    assert agreement({"logits": LOGITS}, {"logits": LOGITS}, labels=labels * 0 - 1).accuracy is None


def test_neighbours_at_the_same_distance_are_the_same() -> None:
    """Three images, two of them doubles: which double comes first says nothing."""
    here = np.array([[1, 0], [1, 1e-3], [1, 1e-3], [0, 1]], dtype=np.float32)
    there = here + np.array([[0, 0], [0, 1e-7], [0, 0], [0, 0]], dtype=np.float32)
    assert same_neighbours(here, there).all()
    moved = here.copy()
    moved[0] = [0, 1]
    assert not same_neighbours(here, moved).all()


def test_encoders_are_judged_by_neighbours() -> None:
    features = DRAW.standard_normal((50, 8)).astype(np.float32)
    found = agreement({"features": features}, {"features": features}, labels=np.full(50, -1))
    assert (found.top1_of, found.top1_agreement, found.accuracy) == ("nearest neighbour", 1.0, None)
