"""Accuracy as a function of a varied setting, and questions about it that are answered jointly.

A point is one value of the setting (labels, kept blocks, distilled layers), with the same arms at each. A question
pairs two arms at one point. There are many, so their paired t tests are corrected by Holm's step-down method (Holm
1979): with no true difference anywhere, the chance that even one answer is not "undecided" is at most about 5 %.

    answer yes        first > second, and the corrected p is at most 0.05
    answer no         first < second likewise
    answer undecided  otherwise, and if there is no test

There is no test with fewer than three seeds, nor if all differences are equal. Accuracies are counts of images, so
equal differences often occur by chance: were they taken as certain, two seeds on 100 images would answer one of twelve
questions without any effect in more than a third of all documents. Since equality is chance too, such a question still
counts among those asked; those with too few seeds do not.

Intervals are those of each arm or pair alone, not corrected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtr

from vitlet.evaluation.compare import Arm, Interval, mean_interval, paired_difference
from vitlet.text import counted, percent, points

LEVEL = 0.05
"""For the family of all questions in one document."""
MIN_PAIRS = 3
"""Seeds required for a test."""


@dataclass(frozen=True)
class Point:
    """One value of the varied setting."""

    x: float
    """Position on the axis."""
    label: str
    """For readers: `500 labels (1 %)`."""
    arms: tuple[Arm, ...]
    tick: str = ""
    """Tick label, if it differs from `x`."""


@dataclass(frozen=True)
class Curve:
    """One protocol over all points, on the same test images."""

    name: str
    title: str
    points: tuple[Point, ...]
    n: int
    """Number of test images."""
    split: str
    references: tuple[Arm, ...] = ()
    """Arms that do not depend on the varied setting."""
    metric: str = "top1"

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values, with mean and interval of each arm."""
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
    """As used in the answer: `fine-tuning with 500 labels`."""
    first: Arm
    second: Arm
    n: int
    split: str


def _summary(arm: Arm) -> dict[str, Any]:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(arm).items()}
    return plain | mean_interval(arm.values).to_json()


def paired_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t test; None for fewer than `MIN_PAIRS` pairs or if all differences are equal.

    Equal differences have no spread to test against.
    """
    assert len(a) == len(b) > 0
    differences = np.subtract(a, b)
    if len(differences) < MIN_PAIRS or np.ptp(differences) <= 1e-12:  # rounding; see `compare.mean_interval`
        return None
    t = differences.mean() / (differences.std(ddof=1) / len(differences) ** 0.5)
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def holm(values: Sequence[float]) -> list[float]:
    """Holm-corrected p of each of `values`, in their order: the smallest times m, the next times m − 1, …."""
    order = np.argsort(values, kind="stable")
    corrected, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def answers(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Answer each question, in plain values: `answer`, `sentence`, the paired difference, p before and after Holm.

    Questions with too few seeds for a test do not count as asked; those with equal differences do.
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
    difference = paired_difference(question.first.values, question.second.values)
    answer = _answer(difference.interval, corrected)
    return {
        "question": question.text,
        "answer": answer,
        "sentence": _sentence(question, difference.interval, answer, corrected, asked),
        "where": question.where,
        "first": question.first.name,
        "second": question.second.name,
        "n": question.n,
        "split": question.split,
        "difference": difference.to_json() | {"p": p, "p_holm": corrected, "questions": asked},
    }


def _answer(lead: Interval, corrected: float | None) -> Literal["yes", "no", "undecided"]:
    if corrected is None or corrected > LEVEL:
        return "undecided"
    return "yes" if lead.mean > 0 else "no"


def _sentence(question: Question, lead: Interval, answer: str, corrected: float | None, asked: int) -> str:
    first, second = (percent(float(np.mean(arm.values))) for arm in (question.first, question.second))
    reached = f"{question.where} reached {first} from {question.first.title} and {second} from {question.second.title}"
    sample = counted(lead.n, question.n, split=question.split)
    if lead.low is None or lead.high is None or corrected is None:
        few = {1: "one seed cannot", 2: "two seeds cannot"}.get(lead.n, "differences that are all equal do not")
        return f"Undecided: {reached} ({points(lead.mean)} points, {sample}); {few} tell effect from chance."
    family = f" after correction for {asked} questions" if asked > 1 else ""
    p = "p < 0.001" if corrected < 0.001 else f"p = {corrected:.3f}"
    evidence = f"({points(lead.mean)} points, {lead.in_points()}, {p}{family}, {sample})"
    if answer != "undecided":
        return f"{answer.capitalize()}: {reached} {evidence}."
    alone = lead.low > 0 or lead.high < 0
    why = "asked alone it would be an answer, among so many questions chance could explain it"
    return f"Undecided: {reached} {evidence}; {why if alone else 'chance could explain it'}."


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
    """Build the document behind page and ledger, in plain values.

    Args:
        kind: `compare`, `keep-blocks`, `distill-layers`.
        title: Title of the page.
        axis: `label` and `scale` (`log`, `linear`, `names`) of the varied setting.
        data: `name, fingerprint, num_train, num_test, classes`.
        starts: For each arm `name, title, source, encoder` (digest) and, if known, `pretraining_cpu_seconds`.
        curves: At least one; the questions are about the first.
        questions: All of them, since they are corrected jointly.
        budget: The budget of every fine-tuning: recipe, its fingerprint, duration, batch size.
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
