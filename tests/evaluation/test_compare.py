"""Paired statistics, the verdict that can say no, and the comparison document."""

import json

import numpy as np
import pytest
from scipy import stats

from vitlet.evaluation import compare
from vitlet.evaluation.compare import Arm, Protocol, difference_of, paired_difference

DATA = {
    "name": "digits",
    "fingerprint": "0123456789ab",
    "num_train": 4000,
    "num_labelled": 200,
    "num_test": 1000,
    "classes": ["0", "1"],
}


def _protocol(pretrained: list[float], scratch: list[float]) -> Protocol:
    seeds = tuple(range(len(pretrained)))
    arms = (
        Arm("pretrained", "MAE pre-training", tuple(pretrained), seeds, (10.0,) * len(seeds)),
        Arm("scratch", "random init", tuple(scratch), seeds, (9.0,) * len(seeds)),
    )
    return Protocol("finetune", "Fine-tuning with 200 labels", arms, n=1000)


def test_paired_difference_is_the_paired_t_test() -> None:
    a, b = [0.58, 0.60, 0.593, 0.571], [0.30, 0.29, 0.27, 0.31]
    found = compare.paired_difference(a, b, confidence=0.9)
    expected = stats.ttest_rel(a, b).confidence_interval(0.9)
    interval = found.interval
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert interval.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (interval.n, interval.confidence, found.method) == (4, 0.9, "paired t over seeds")


def test_pairing_removes_what_both_share() -> None:
    """Seeds differ by 20 points, the arms by 2: only the paired interval sees it."""
    scratch, pretrained = [0.3, 0.4, 0.5], [0.321, 0.419, 0.52]
    paired = compare.paired_difference(pretrained, scratch).interval
    assert paired.low is not None
    assert paired.low > 0
    first, second = compare.mean_interval(pretrained), compare.mean_interval(scratch)
    assert first.low is not None
    assert second.high is not None
    assert first.low < second.high  # the control: unpaired intervals overlap


def test_mean_interval_by_hand() -> None:
    found = compare.mean_interval([0.1, 0.2, 0.3])
    half = 4.302652729911275 * 0.1 / np.sqrt(3)  # t(0.975, 2 degrees of freedom) · s / √n
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert found.n == 3


def test_no_variance_gives_no_width() -> None:
    found = compare.paired_difference([0.591, 0.6, 0.3], [0.291, 0.3, 0.0])
    assert found.interval.low == found.interval.high == found.interval.mean == pytest.approx(0.3)
    assert found.method == "paired t over seeds, all differences equal"


def test_one_seed_gives_no_interval() -> None:
    found = compare.paired_difference([0.6], [0.3])
    interval = found.interval
    assert (interval.low, interval.high, interval.n, found.method) == (None, None, 1, "one pair, no interval")


def test_yes() -> None:
    assert compare.verdict(_protocol([0.60, 0.59, 0.583], [0.29, 0.295, 0.291])) == {
        "answer": "yes",
        "sentence": "Pre-training helped: fine-tuning with 200 labels reached 59.1 % instead of 29.2 % "
        "(+29.9 points, 95 % interval 27.5 to 32.3, 3 seeds, 1,000 test images).",
    }


def test_no_says_who_won() -> None:
    assert compare.verdict(_protocol([0.45, 0.46, 0.461], [0.50, 0.501, 0.499])) == {
        "answer": "no",
        "sentence": "Pre-training did not help: fine-tuning with 200 labels reached 45.7 %, and 50.0 % "
        "without it; random weights won by 4.3 points (95 % interval 2.7 to 5.9, 3 seeds, 1,000 test images).",
    }


def test_no_difference_at_all() -> None:
    assert compare.verdict(_protocol([0.5, 0.6], [0.5, 0.6])) == {
        "answer": "no",
        "sentence": "Pre-training made no difference: fine-tuning with 200 labels reached 55.0 % with and without "
        "it (2 seeds, 1,000 test images).",
    }


def test_undecided_when_the_interval_holds_zero() -> None:
    assert compare.verdict(_protocol([0.50, 0.52, 0.51], [0.505, 0.50, 0.51])) == {
        "answer": "undecided",
        "sentence": "Undecided: fine-tuning with 200 labels reached 51.0 %, and 50.5 % without it (+0.5 points, "
        "95 % interval −2.8 to 3.8, 3 seeds, 1,000 test images); the interval holds 0, so chance could explain it.",
    }


def test_undecided_with_one_seed_however_large_the_gain() -> None:
    assert compare.verdict(_protocol([0.9], [0.1])) == {
        "answer": "undecided",
        "sentence": "Undecided: fine-tuning with 200 labels reached 90.0 %, and 10.0 % without it (+80.0 points, "
        "1 seed, 1,000 test images), but one seed cannot tell effect from chance; run three or more.",
    }


def test_a_mean_that_rounds_to_zero_has_no_sign() -> None:
    sentence = compare.verdict(_protocol([0.4999, 0.5], [0.5, 0.5]))["sentence"]
    assert "(0.0 points, 95 % interval −0.1 to 0.1," in sentence


@pytest.mark.parametrize(
    ("low", "high", "margin", "answer"),
    [
        (0.01, 0.2, 0.0, "yes"),
        (0.0, 0.2, 0.0, "undecided"),
        (-0.2, 0.2, 0.0, "undecided"),
        (-0.2, 0.0, 0.0, "no"),
        (0.0, 0.0, 0.0, "no"),
        (0.1, 0.3, 0.05, "yes"),
        (0.1, 0.3, 0.3, "no"),
        (None, None, 0.0, "undecided"),
    ],
)
def test_the_one_rule_at_its_edges(low: float | None, high: float | None, margin: float, answer: str) -> None:
    assert compare.decide(compare.Interval(0.0, low, high, 0.95, n=3), margin=margin) == answer


def test_the_document() -> None:
    first, second = _protocol([0.60, 0.59], [0.29, 0.30]), _protocol([0.2, 0.2], [0.9, 0.9])
    document = compare.comparison(
        "Did pre-training help?", data=DATA, protocols=[first, second], commands=["vitlet demo"]
    )
    assert list(document) == ["question", "data", "protocols", "verdict", "commands"]
    assert document["data"] == DATA
    assert document["verdict"]["answer"] == "yes"  # the second protocol says no, and does not decide
    assert document["commands"] == ["vitlet demo"]
    shown = document["protocols"][0]
    assert {k: v for k, v in shown.items() if k not in ("arms", "difference")} == {
        "name": "finetune",
        "title": "Fine-tuning with 200 labels",
        "metric": "top1",
        "n": 1000,
        "split": "test",
    }
    assert shown["arms"][1] == {
        "name": "scratch",
        "title": "random init",
        "values": [0.29, 0.30],
        "seeds": [0, 1],
        "cpu_seconds": [9.0, 9.0],
        "runs": [],
        "once": False,
    }
    assert set(shown["difference"]) == {"mean", "low", "high", "confidence", "pairs", "method"}
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("values", [(59.1,), (), (float("nan"),)])
def test_an_arm_holds_shares_and_one_value_a_seed(values: tuple[float, ...]) -> None:
    with pytest.raises(AssertionError):
        Arm("pretrained", "MAE", values, (0,), (1.0,))


def test_arms_are_paired_by_seed() -> None:
    good = _protocol([0.5, 0.6], [0.5, 0.6])
    other = Arm("scratch", "random init", (0.5, 0.6), (1, 0), (1.0, 1.0))
    with pytest.raises(AssertionError, match="pairs share a seed"):
        Protocol("knn", "kNN", (good.arms[0], other), n=10).difference()


def test_a_value_measured_once_stands_for_every_seed_of_the_other() -> None:
    once = Arm("once", "", (0.5,), (0,), (1.0,), once=True)
    three = Arm("three", "", (0.3, 0.31, 0.29), (0, 1, 2), (1.0,) * 3)
    assert difference_of(once, three) == paired_difference((0.5, 0.5, 0.5), three.values)
    assert difference_of(three, once).interval == -difference_of(once, three).interval
    assert difference_of(once, once).interval.low is None, "nothing varies, so nothing has an interval"
    with pytest.raises(AssertionError, match="pairs share a seed"):
        difference_of(Arm("one", "", (0.5,), (0,), (1.0,)), three)
    with pytest.raises(AssertionError):
        Arm("twice", "", (0.5, 0.5), (0, 1), (1.0, 1.0), once=True)
