"""Accuracy over something that was varied, and questions about it that are answered together.

A point is one value of what was varied (labels, kept blocks, distilled layers) with the same arms at each. Questions
pair two arms at one point. They are many, so their paired t tests are corrected by Holm's step-down method (Holm
1979): with no true difference anywhere, the chance that even one answer is not "undecided" is about 5 % at most.

    answer yes        first > second, and the corrected p is at most 0.05
    answer no         first < second likewise
    answer undecided  else, and wherever there is no test

There is no test with fewer than three seeds, nor where all differences are equal. Accuracies are counts of images, so
equal differences are frequent by chance: taken for certainty, two seeds on 100 images would give some answer to twelve
questions about nothing in more than a third of all documents. That a question turned out so is chance too, so it
counts among those asked; those with too few seeds do not.

Intervals are those of each arm or pair by itself, not corrected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtr

from vitlet.evaluate.compare import Arm, Difference, mean_interval, paired_difference
from vitlet.text import plural

LEVEL = 0.05
"""Of the family of all questions of one document."""
MIN_PAIRS = 3
"""Seeds that a test needs."""


@dataclass(frozen=True)
class Point:
    """One value of what was varied."""

    x: float
    """Place on the axis."""
    label: str
    """As people read it: `500 labels (1 %)`."""
    arms: tuple[Arm, ...]
    tick: str = ""
    """Below the axis, where that is not `x`."""


@dataclass(frozen=True)
class Curve:
    """One protocol over all points, on the same test images."""

    name: str
    title: str
    points: tuple[Point, ...]
    n: int
    """Test images."""
    split: str
    references: tuple[Arm, ...] = ()
    """Arms that do not depend on what was varied."""
    metric: str = "top1"

    def to_json(self) -> dict[str, Any]:
        """Plain values with mean and interval of each arm."""
        return {
            "name": self.name,
            "title": self.title,
            "metric": self.metric,
            "n": self.n,
            "split": self.split,
            "points": [
                {"x": p.x, "label": p.label, "tick": p.tick, "arms": [_summary(arm) for arm in p.arms]}
                for p in self.points
            ],
            "references": [_summary(arm) for arm in self.references],
        }


@dataclass(frozen=True)
class Question:
    """Whether the first arm is better than the second."""

    text: str
    """`Did mae help with 500 labels?`"""
    where: str
    """As it stands in the answer: `fine-tuning with 500 labels`."""
    first: Arm
    second: Arm
    n: int
    split: str


def _summary(arm: Arm) -> dict[str, Any]:
    found = mean_interval(arm.values)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(arm).items()}
    return plain | {"mean": found.mean, "low": found.low, "high": found.high}


def paired_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t test; None from fewer than `MIN_PAIRS`, or where all differences are equal.

    Equal ones have no spread to be measured by.
    """
    assert len(a) == len(b) > 0
    differences = np.subtract(a, b)
    if len(differences) < MIN_PAIRS or np.ptp(differences) <= 1e-12:  # of rounding; see `compare.mean_interval`
        return None
    t = differences.mean() / (differences.std(ddof=1) / len(differences) ** 0.5)
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's corrected p of each of `values`, in their order: the smallest times m, the next times m − 1."""
    order = np.argsort(values, kind="stable")
    corrected, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def answers(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """One answer a question, plain values: `answer`, `sentence`, the paired difference, p before and after Holm.

    Questions with too few seeds for a test are not counted as asked; those with equal differences are.
    """
    values = [paired_p(q.first.values, q.second.values) for q in questions]
    asked = [len(q.first.values) >= MIN_PAIRS for q in questions]
    corrected = iter(holm([1.0 if p is None else p for p, is_asked in zip(values, asked, strict=True) if is_asked]))
    after = [next(corrected) if is_asked else None for is_asked in asked]
    return [
        _answered(q, p, None if p is None else p_holm, sum(asked))
        for q, p, p_holm in zip(questions, values, after, strict=True)
    ]


def _answered(question: Question, p: float | None, corrected: float | None, asked: int) -> dict[str, Any]:
    assert question.first.seeds == question.second.seeds, "pairs share a seed"
    found = paired_difference(question.first.values, question.second.values)
    answer = _answer(found, corrected)
    return {
        "question": question.text,
        "answer": answer,
        "sentence": _sentence(question, found, answer, corrected, asked),
        "where": question.where,
        "first": question.first.name,
        "second": question.second.name,
        "n": question.n,
        "split": question.split,
        "difference": asdict(found) | {"p": p, "p_holm": corrected, "questions": asked},
    }


def _answer(found: Difference, corrected: float | None) -> Literal["yes", "no", "undecided"]:
    if corrected is None or corrected > LEVEL:
        return "undecided"
    return "yes" if found.mean > 0 else "no"


def _sentence(question: Question, found: Difference, answer: str, corrected: float | None, asked: int) -> str:
    first, second = (f"{100 * float(np.mean(arm.values)):.1f} %" for arm in (question.first, question.second))
    reached = f"{question.where} reached {first} from {question.first.title} and {second} from {question.second.title}"
    counted = f"{plural(found.pairs, 'seed')}, {plural(question.n, f'{question.split} image')}"
    if found.low is None or found.high is None or corrected is None:
        few = {1: "one seed cannot", 2: "two seeds cannot"}.get(found.pairs, "differences that are all equal do not")
        return f"Undecided: {reached} ({_points(found.mean)} points, {counted}); {few} tell effect from chance."
    span = f"{100 * found.confidence:g} % interval {_points(found.low)} to {_points(found.high)}"
    family = f" after correction for {asked} questions" if asked > 1 else ""
    shown = "p < 0.001" if corrected < 0.001 else f"p = {corrected:.3f}"
    evidence = f"({_points(found.mean)} points, {span}, {shown}{family}, {counted})"
    if answer != "undecided":
        return f"{answer.capitalize()}: {reached} {evidence}."
    alone = found.low > 0 or found.high < 0
    why = "asked alone it would be an answer, among so many questions chance could explain it"
    return f"Undecided: {reached} {evidence}; {why if alone else 'chance could explain it'}."


def _points(share: float) -> str:
    points = round(100 * share, 1) + 0.0
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def document(
    kind: str,
    *,
    title: str,
    axis: Mapping[str, str],
    data: Mapping[str, Any],
    starts: Sequence[Mapping[str, Any]],
    curves: Sequence[Curve],
    questions: Sequence[Question],
    budget: Mapping[str, Any],
) -> dict[str, Any]:
    """What page and ledger are drawn from, plain values only.

    Args:
        kind: `compare`, `keep-blocks`, `distill-layers`.
        title: Over the page.
        axis: `label` and `scale` (`log`, `linear`, `names`) of what was varied.
        data: `name, fingerprint, num_train, num_test, classes`.
        starts: For each arm `name, title, source, encoder` (digest) and `pretraining_cpu_seconds` where known.
        curves: At least one; the first is what questions are about.
        questions: All of them, since they are corrected together.
        budget: What every fine-tuning had: recipe, its fingerprint, duration, batch size.
    """
    missing = {"name", "fingerprint", "num_train", "num_test", "classes"} - data.keys()
    assert not missing, missing
    return {
        "kind": kind,
        "title": title,
        "axis": dict(axis),
        "data": dict(data),
        "budget": dict(budget),
        "starts": [dict(start) for start in starts],
        "curves": [curve.to_json() for curve in curves],
        "questions": answers(questions),
        "correction": f"Holm over all questions, level {LEVEL:g}; two-sided paired t tests over seeds",
    }
