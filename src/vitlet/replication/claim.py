"""The parts of a claim, and the rules by which numbers decide it. The rules were fixed before any run.

A claim is a set of parts that must all hold. A part is a weighted sum of quantities and a margin; it is computed per
seed, where a seed is a whole chain of runs from pre-training to the number. Its mean gets the paired-t interval of
`vitlet.evaluation.compare` (95 %, not corrected for the number of claims) and is decided by the rule there.

    supported       the interval of every part lies above its margin
    not supported   the interval of some part ends at its margin or below
    undecided       otherwise, and always with a single seed
    not run         a quantity is missing for any of the planned seeds

So the number of seeds that decide is fixed before the runs as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vitlet.evaluation import compare
from vitlet.replication.steps import Finetune, Look, Probe

Answer = Literal["supported", "not supported", "undecided", "not run"]
_ANSWERS: dict[compare.Answer, Answer] = {"yes": "supported", "no": "not supported", "undecided": "undecided"}
Quantity = Literal[
    "top1",
    "cka-lower",
    "cka-higher",
    "distance-lower",
    "distance-higher",
    "entropy-higher",
    "head-spread-lower",
    "distance-gap",
    "entropy-gap",
    "embedding-frequencies",
    "patch-frequencies",
]
"""Quantity read from a step, as defined by `vitlet.replication.quantities`."""


@dataclass(frozen=True)
class Measure:
    """One number per seed."""

    step: Finetune | Probe | Look
    quantity: Quantity = "top1"
    subject: str = ""
    """The subject within a look."""


@dataclass(frozen=True)
class Part:
    """Σ weight · measure > margin."""

    title: str
    terms: tuple[tuple[float, Measure], ...]
    margin: float = 0.0
    unit: Literal["points", "CKA", "patches", "nats", "log amplitude"] = "points"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper."""

    number: int
    statement: str
    source: str
    """The table or figure that supports it."""
    parts: tuple[Part, ...]
    beside: tuple[Part, ...] = ()
    """Shown with the claim without affecting the answer: controls, and parts added after the rule was fixed."""

    def steps(self) -> list[Finetune | Probe | Look]:
        """Every step that is read, each once."""
        return list(dict.fromkeys(m.step for part in (*self.parts, *self.beside) for _, m in part.terms))


def decide_part(interval: compare.Interval, *, margin: float) -> Answer:
    """Decide whether the interval lies above the margin, at or below it, or contains it."""
    return _ANSWERS[compare.decide(interval, margin=margin)]


def decide(parts: Sequence[Answer]) -> Answer:
    """Decide a claim from its parts: all must hold, one failure decides against it, a missing one leaves it open."""
    if "not run" in parts:
        return "not run"
    if "not supported" in parts:
        return "not supported"
    return "undecided" if "undecided" in parts else "supported"
