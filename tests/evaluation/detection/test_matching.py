"""Pairs of detections: what counts as the same, what is judged, and what no partner is found for."""

import numpy as np
import pytest

from vitlet.evaluation.agreement import FP32, agreement
from vitlet.evaluation.detection.matching import match


def found(*objects: tuple[int, float], places: int = 4, shift: float = 0.0) -> dict[str, np.ndarray]:
    """One image with objects by class and score, each at a place of its own; the rest is empty."""
    labels, scores = np.zeros((1, places), dtype=np.float32), np.zeros((1, places), dtype=np.float32)
    boxes = np.zeros((1, places, 4), dtype=np.float32)
    for row, (label, score) in enumerate(objects):
        labels[0, row], scores[0, row] = label, score
        boxes[0, row] = np.array([10, 10, 40 + label, 50]) + 100 * label + shift
    return {"boxes": boxes, "labels": labels, "scores": scores}


HERE = found((0, 0.9), (1, 0.5), (2, 0.1))


def test_the_same_in_another_order_is_the_same() -> None:
    """The lowest score of all is not judged; with a thousandth more it would be."""
    there = found((1, 0.90001), (0, 0.9), (2, 0.1))
    same = match(found((0, 0.9), (1, 0.9), (2, 0.1)), there)
    assert (same.share, same.num_judged) == (1.0, 4)
    assert same.relative_errors == {"boxes": 0.0, "scores": pytest.approx(1e-5 / 0.9, rel=0.05)}


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (found((0, 0.9), (1, 0.5), (2, 0.1)), 1.0),
        (found((0, 0.9), (1, 0.5)), 1.0),  # at the lowest score that is reported
        (found((0, 0.9), (2, 0.1)), 2 / 3),
        (found((0, 0.9), (3, 0.5), (2, 0.1)), 0.5),
        (found((0, 0.9), (1, 0.4), (2, 0.1)), 0.5),
        (found((0, 0.9), (1, 0.5), (2, 0.1), shift=1.0), 0.0),
        (found(), 0.0),
    ],
    ids=["same", "tie", "missing", "class", "score", "place", "nothing"],
)
def test_what_has_no_partner_counts(other: dict[str, np.ndarray], share: float) -> None:
    assert match(HERE, other).share == pytest.approx(share)
    assert match(other, HERE).share == pytest.approx(share)


def test_the_last_of_a_full_list_is_not_judged() -> None:
    """Rounding decides which of two nearly equal scores is the last that has a place."""
    full, other = (found((0, 0.9), (label, score), places=2) for label, score in ((1, 0.5), (2, 0.50001)))
    faint = found((0, 0.01), places=2)
    first, second = ({k: np.concatenate([v, faint[k]]) for k, v in image.items()} for image in (full, other))
    assert (match(first, second).share, match(first, second).num_judged) == (1.0, 2)


def test_one_partner_serves_one_detection() -> None:
    assert match(found((0, 0.9), (0, 0.9), (1, 0.1)), found((0, 0.9), (1, 0.1))).share == pytest.approx(2 / 3)


def test_errors_and_missing_detections_are_shortcomings_of_their_own() -> None:
    labels = np.array([-1])
    same = agreement(HERE, HERE, labels=labels)
    assert (same.top1_agreement, same.n, same.num_detections) == (1.0, 1, 4)
    assert same.shortcomings(FP32) == []
    (off,) = agreement(HERE, found((0, 0.9), (1, 0.5), (2, 0.1), shift=0.1), labels=labels).shortcomings(FP32)
    assert "relative error" in off
    (missing,) = agreement(HERE, found((0, 0.9), (2, 0.1)), labels=labels).shortcomings(FP32)
    assert "same class, box and score for 66.7 % of 3 detections, 99.9 % needed" in missing


def test_what_is_no_number_is_no_partner() -> None:
    broken = found((0, 0.9), (1, 0.5), (2, 0.1))
    broken["boxes"][0, 0] = np.nan
    assert match(HERE, broken).share == 0.5
    masks = {"masks": np.ones((1, 4, 2, 2), dtype=np.float32)}
    bad = {"masks": masks["masks"] * np.float32(np.nan)}
    assert agreement(HERE | masks, HERE | bad, labels=np.array([-1])).shortcomings(FP32)
