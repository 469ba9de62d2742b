"""Did it help? Paired statistics over seeds, and the document from which a report is drawn.

Accuracies and differences are shares of 1 in the document; sentences use per cent and points. The first protocol
decides the verdict, the others are supporting evidence. The interval is over seeds: both arms of a pair share a seed,
and thus the labelled images and their order, so their difference varies less than either.

    answer yes        the interval of (first arm - second arm) lies above 0
    answer no         its upper end is 0 or below
    answer undecided  it contains 0, or there is a single seed and thus no interval

`decide` implements the rule, also for another margin or other names for the answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from vitlet.text import counted, percent, points, uncapitalised

Answer = Literal["yes", "no", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the ends are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    confidence: float
    n: int

    def __neg__(self) -> "Interval":
        """Return the interval of the negated values."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Interval(-self.mean, low, high, self.confidence, self.n)

    def to_json(self) -> dict[str, float | None]:
        """Return the mean and the ends."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def in_points(self, *, sign: bool = True) -> str:
        """`95 % interval +1.2 to +3.4`: the ends, which must not be None, in percentage points."""
        assert self.low is not None
        assert self.high is not None
        low, high = (points(end, sign=sign) for end in (self.low, self.high))
        return f"{100 * self.confidence:g} % interval {low} to {high}"


@dataclass(frozen=True)
class Difference:
    """First minus second arm over paired seeds."""

    interval: Interval
    """Its `n` is the number of pairs."""
    method: str

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values."""
        interval = self.interval
        about = {"confidence": interval.confidence, "pairs": interval.n, "method": self.method}
        return interval.to_json() | about


@dataclass(frozen=True)
class Arm:
    """One of the two things compared: a score and a cost for each seed."""

    name: str
    title: str
    values: tuple[float, ...]
    """Scores, 0 … 1."""
    seeds: tuple[int, ...]
    cpu_seconds: tuple[float, ...]
    runs: tuple[str, ...] = ()
    """Run folders behind the values, one per value, if there are any."""
    once: bool = False
    """The single value holds for every seed: all use the same labels, and nothing else is random."""

    def __post_init__(self) -> None:
        """Check that every seed has a value and a cost."""
        assert 0 < len(self.seeds) == len(self.values) == len(self.cpu_seconds)
        assert len(self.values) == 1 or not self.once
        assert all(0 <= v <= 1 for v in self.values), "scores are shares of 1, not per cent"


@dataclass(frozen=True)
class Protocol:
    """One way to measure both arms on the same test images."""

    name: str
    title: str
    """As a heading: `Fine-tuning with 200 labels`."""
    arms: tuple[Arm, Arm]
    """The arm in question, then the baseline."""
    n: int
    """Number of test images."""
    split: str = "test"
    metric: str = "top1"

    def difference(self) -> Difference:
        """First arm minus second, seed by seed."""
        return difference_of(*self.arms)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values, including the difference."""
        return {
            "name": self.name,
            "title": self.title,
            "metric": self.metric,
            "n": self.n,
            "split": self.split,
            "arms": [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(a).items()} for a in self.arms],
            "difference": self.difference().to_json(),
        }


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean; equal values give an interval of zero width."""
    mean, half = _mean_and_half_width(values, confidence)
    ends = (None, None) if half is None else (mean - half, mean + half)
    return Interval(mean, *ends, confidence=confidence, n=len(values))


def paired_difference(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """Mean of `a - b` with the paired-t interval; a single pair has no interval.

    If all differences are equal the interval has zero width, and `method` says so.
    """
    assert len(a) == len(b) > 0
    differences = np.subtract(a, b)
    interval = mean_interval(differences.tolist(), confidence=confidence)
    if interval.low is None:
        method = "one pair, no interval"
    elif interval.low == interval.high:
        method = "paired t over seeds, all differences equal"
    else:
        method = "paired t over seeds"
    return Difference(interval, method)


def difference_of(first: Arm, second: Arm) -> Difference:
    """`paired_difference` of two arms; the value of an arm measured `once` is paired with every seed of the other."""
    pairs = max(len(first.seeds), len(second.seeds))
    assert first.seeds == second.seeds or first.once or second.once, "pairs share a seed"
    return paired_difference(*(arm.values * pairs if arm.once else arm.values for arm in (first, second)))


def decide(interval: Interval, *, margin: float = 0.0) -> Answer:
    """Whether the interval lies above `margin` (yes), at or below it (no), or contains it (undecided)."""
    if interval.low is None or interval.high is None:
        return "undecided"
    if interval.low > margin:
        return "yes"
    return "no" if interval.high <= margin else "undecided"


def comparison(
    question: str, *, data: Mapping[str, Any], protocols: Sequence[Protocol], commands: Sequence[str]
) -> dict[str, Any]:
    """Build the document of plain values.

    Args:
        question: Heading of the answer: `Did pre-training help?`.
        data: `name, fingerprint, num_train, num_labelled, num_test, classes`.
        protocols: The first one decides.
        commands: Commands that reproduce the numbers.
    """
    missing = {"name", "fingerprint", "num_train", "num_labelled", "num_test", "classes"} - data.keys()
    assert not missing, missing
    return {
        "question": question,
        "data": dict(data),
        "protocols": [p.to_json() for p in protocols],
        "verdict": verdict(protocols[0]),
        "commands": list(commands),
    }


def verdict(protocol: Protocol) -> dict[str, str]:
    """`answer` (yes, no, undecided) and one plain `sentence`; the first arm is pre-trained, the second is not."""
    gain = protocol.difference().interval
    answer = decide(gain)
    with_it, without = (percent(float(np.mean(arm.values))) for arm in protocol.arms)
    title = uncapitalised(protocol.title)
    sample = counted(gain.n, protocol.n, split=protocol.split)
    gained = f"{points(gain.mean)} points"
    if answer == "yes":
        sentence = f"Pre-training helped: {title} reached {with_it} instead of {without} "
        sentence += f"({gained}, {gain.in_points(sign=False)}, {sample})."
    elif answer == "no" and gain.mean < 0:
        loss = -gain
        sentence = f"Pre-training did not help: {title} reached {with_it}, and {without} without it; random weights "
        sentence += f"won by {points(loss.mean, sign=False)} points ({loss.in_points(sign=False)}, {sample})."
    elif answer == "no":
        sentence = f"Pre-training made no difference: {title} reached {with_it} with and without it ({sample})."
    elif gain.low is None:
        sentence = f"Undecided: {title} reached {with_it}, and {without} without it ({gained}, {sample}), "
        sentence += "but one seed cannot tell effect from chance; run three or more."
    else:
        sentence = f"Undecided: {title} reached {with_it}, and {without} without it ({gained}, "
        sentence += f"{gain.in_points(sign=False)}, {sample}); the interval holds 0, so chance could explain it."
    return {"answer": answer, "sentence": sentence}


def _mean_and_half_width(values: Sequence[float], confidence: float) -> tuple[float, float | None]:
    assert len(values) > 0
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, None
    # Rounding makes equal differences of pairs vary by 1e-17; below that there is no real spread.
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if np.ptp(values) > 1e-12 else 0.0
    return mean, error * float(stdtrit(len(values) - 1, (1 + confidence) / 2))
