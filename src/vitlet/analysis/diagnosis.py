"""Suggestions for what to try next, based on measurements; each with its evidence, a command and a confidence.

All the rules:

* Two accuracies are compared image by image on the same test images; t is the mean difference over its standard
  error. From t ≥ 3 it counts as `high`, from t ≥ 2 as `moderate` confidence, below that as no evidence. If the better
  layer was picked as the best of many, the thresholds are 4 and 3.
* Initialisation: a subject's readout is the logistic probe of its best layer. The encoder with the best readout is
  compared with the first one named.
* Lower blocks: useful features reach up to the lowest layer that the best one does not beat by one standard error (the
  rule of Breiman et al. 1984); they count if they beat the embedding. The measurement is sound, but not that a layer
  decay of 0.75 exploits it: of seven such suggestions one was right, one wrong and five undecided
  (`docs/results/study.json`), so the confidence is `low` at most.
* Top blocks: under-trained or spoilt for these labels if the last layer reads out worse than the best. With more than
  `MANY_LABELS` labels the confidence is `low` at most: fine-tuning on many labels retrains the top blocks, and the
  paper found them to matter most where data is scarce (its Figure 4).
* Distillation: the encoder with the best readout is a teacher if it beats the first. Layers are paired by relative
  depth; the one to distil has the lowest CKA. The paper found the last layer best (Wang et al. 2023, Figure 7), so any
  other answer is at most `low`.
* Fine-tuning: relative weight distances of the upper half of the blocks against the lower half; one pair of runs has
  no error estimate, so the confidence is never above `low`.

A suggestion is never a result: a probe's readout predicts fine-tuning only roughly, so each suggestion names the
command that decides. If fine-tuning can decide it, the suggestion also holds a claim, one way to fine-tune against
another; `vitlet study` tests claims by fine-tuning, and `docs/results/` has the outcomes.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from vitlet.text import plural

RANDOM = "random"
"""The source name of untrained weights; `random:ENCODER` for those of another network than the first."""
Confidence = Literal["high", "moderate", "low", "no evidence"]
HIGH, MODERATE, PICKED = 3.0, 2.0, 1.0
MANY_LABELS = 50_000
_SMALL = 64
"""Image size in pixels up to which micro recipes are suggested."""
_UNEVEN = 1.5
"""Ratio of distances from which one half of the blocks is said to have moved more."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one encoder."""

    name: str
    source: str
    """Its name on the command line."""
    readout: Bool[np.ndarray, "L n"] | None
    """Whether the logistic probe on each layer classified each test image correctly; None without labels."""
    alignment: Float[np.ndarray, "l"] | None = None
    """CKA of each layer of the first encoder with this encoder's layer at the same relative depth."""
    distance: Float[np.ndarray, "d"] | None = None
    """Relative distance of the weights of each block from the first encoder's."""


@dataclass(frozen=True)
class Way:
    """One way to fine-tune."""

    source: str
    """Initial weights, as named on the command line; `random` for new ones."""
    layer_decay: float | None = None
    """Learning-rate factor from each block to the one below; None: the recipe's."""


@dataclass(frozen=True)
class Claim:
    """The claim that one way of fine-tuning is more accurate than another, all else equal."""

    better: Way
    worse: Way


@dataclass(frozen=True)
class Suggestion:
    """One entry of "what to try"."""

    topic: str
    finding: str
    """The measurement, with its numbers."""
    suggestion: str
    """Empty if there is no evidence."""
    command: str
    confidence: Confidence
    claim: Claim | None = None
    """The claim that would confirm the suggestion, if fine-tuning alone decides it; None if it takes pre-training."""


@dataclass(frozen=True)
class Place:
    """The user's data, as the suggested commands need it."""

    data: str
    """Name of the user's data on the command line."""
    num_labels: int
    """Number of labelled training images."""
    image_size: int
    limit: int | None = None
    """Number of training labels that the commands may use; None: all."""

    def finetune(self, way: Way) -> str:
        """Return the command that fine-tunes this way."""
        recipe = "finetune_micro" if self.image_size <= _SMALL else "finetune_tiny_impr_100e"
        start = "none" if is_random(way.source) else way.source
        words = ["vitlet", "finetune", recipe, "--init", start, "--data", self.data, "--out", "tried"]
        words += [] if self.limit is None else ["--num-labels", str(self.limit)]
        words += [] if way.layer_decay is None else ["--set", f"optimizer.layer_decay={way.layer_decay:g}"]
        return shlex.join(words)

    def distil(self, teacher: str, *, layer: int) -> str:
        """Return the command that pre-trains a student by distillation."""
        recipe = "dmae_micro" if self.image_size <= _SMALL else "dmae_tiny_400e"
        settings = (f"objective.teacher={teacher}", f"objective.layers=[[{layer}, {layer}]]")
        words = ["vitlet", "pretrain", recipe, "--data", self.data, "--out", "student"]
        return shlex.join([*words, *(word for s in settings for word in ("--set", s))])


def is_random(source: str) -> bool:
    """Whether a source on the command line is untrained weights."""
    return source.partition(":")[0] == RANDOM


def diagnose(measured: Sequence[Measured], place: Place) -> list[Suggestion]:
    """Return suggestions about the first encoder, most certain first.

    Args:
        measured: All encoders, the first one being the user's.
        place: Data, labels and image size.
    """
    first = measured[0]
    entries = []
    if first.readout is None:
        entries.append(_nothing("Labels", "There are no labels to judge the layers by."))
    else:
        best = max(measured, key=lambda m: _best(m)[1].mean())
        entries += [
            _initialisation(first, best, measured, place),
            _lower_blocks(first, place),
            _top_blocks(first, place),
            _distillation(first, best, place),
        ]
    entries += [_moved(m, first, m.distance, place) for m in measured if m.distance is not None]
    order: tuple[Confidence, ...] = ("high", "moderate", "low", "no evidence")
    return sorted(entries, key=lambda s: order.index(s.confidence))


def paired(better: Bool[np.ndarray, "n"], worse: Bool[np.ndarray, "n"]) -> tuple[float, float]:
    """Mean difference of two accuracies on the same images, and its standard error."""
    difference = better.astype(float) - worse.astype(float)
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def confidence(difference: float, error: float, *, picked: bool = False) -> Confidence:
    """Confidence in a positive difference; `picked` if one side was chosen as the best of many."""
    t = (difference / error if error > 0 else math.inf if difference > 0 else 0.0) - (PICKED if picked else 0.0)
    return "high" if t >= HIGH else "moderate" if t >= MODERATE else "no evidence"


def _initialisation(first: Measured, best: Measured, measured: Sequence[Measured], place: Place) -> Suggestion:
    topic = "Initialisation"
    others = [m for m in measured if m is not first]
    if not others:
        return _nothing(topic, "Only one encoder was looked at. Name others, or random, to compare with.")
    if best is first:
        second = max(others, key=lambda m: _best(m)[1].mean())
        gap, error = paired(_best(first)[1], _best(second)[1])
        finding = f"{first.name} reads out best; {second.name} follows {_points(gap, error)} behind."
        claim = Claim(Way(first.source), Way(second.source))
        return _suggest(topic, finding, f"Stay with {first.name}.", claim, place, confidence(gap, error))
    gap, error = paired(_best(best)[1], _best(first)[1])
    finding = f"The best layer of {best.name} reads out {_points(gap, error)} better than that of {first.name}."
    claim = Claim(Way(best.source), Way(first.source))
    return _suggest(topic, finding, f"Start from {best.name} instead.", claim, place, confidence(gap, error))


def _lower_blocks(first: Measured, place: Place) -> Suggestion:
    rows = _readout(first)
    best, right = _best(first)
    within = [paired(right, row) for row in rows]
    reach = next(i for i, (gap, error) in enumerate(within) if gap <= error)
    gap, error = paired(right, rows[0])
    finding = (
        f"Readout rises from {100 * rows[0].mean():.1f} % at the embedding to {100 * right.mean():.1f} % at layer "
        f"{best}; from layer {reach} on it stays within a standard error of that."
    )
    depth = len(rows) - 1
    if reach == 0:
        return _nothing("Lower blocks", f"{finding} No block adds to the embedding.")
    if reach == depth:
        return _nothing("Lower blocks", f"{finding} All blocks add to it.")
    advice = f"The lowest {plural(reach, 'block')} of {depth} carry the transfer: let the blocks above learn faster."
    claim = _decayed(first, 0.75)
    sure = confidence(gap, error, picked=True)
    return _suggest("Lower blocks", finding, advice, claim, place, sure if sure == "no evidence" else "low")


def _top_blocks(first: Measured, place: Place) -> Suggestion:
    rows = _readout(first)
    best, right = _best(first)
    last = len(rows) - 1
    if best == last:
        return _nothing("Top blocks", f"The last layer reads out best ({100 * right.mean():.1f} %).")
    gap, error = paired(right, rows[-1])
    finding = f"Layer {best} reads out {_points(gap, error)} better than the last, {last}."
    sure = confidence(gap, error, picked=True)
    if sure != "no evidence" and place.num_labels > MANY_LABELS:
        finding += f" With {place.num_labels:,} labels fine-tuning may mend that by itself."
        sure = "low"
    advice = f"The top {plural(last - best, 'block')} are under-trained for these labels: pre-train longer from here."
    words = ["vitlet", "pretrain", "RECIPE", "--init", first.source, "--data", place.data, "--out", "longer"]
    if sure == "no evidence":
        return _nothing("Top blocks", finding)
    return Suggestion("Top blocks", finding, advice, shlex.join(words), sure)


def _distillation(first: Measured, best: Measured, place: Place) -> Suggestion:
    topic = "Distillation"
    if best is first or is_random(best.source) or best.alignment is None:
        return _nothing(topic, "None of the other encoders is a teacher: none reads out better.")
    gap, error = paired(_best(best)[1], _best(first)[1])
    if confidence(gap, error) == "no evidence":
        return _nothing(topic, f"{best.name} reads out only {_points(gap, error)} better; as a teacher it has little.")
    last = len(best.alignment) - 1
    layer = 1 + int(np.nanargmin(best.alignment[1:]))
    finding = (
        f"{best.name} reads out {_points(gap, error)} better. CKA with it is lowest at layer {layer} "
        f"({best.alignment[layer]:.2f}; last layer {best.alignment[last]:.2f})."
    )
    # Any layer in the top quarter counts as the top, since neighbouring layers are very similar.
    agrees = layer >= 0.75 * last
    layer = last if agrees else layer
    advice = f"Distil {'the last layer' if agrees else f'layer {layer}'} of {best.name}."
    return Suggestion(topic, finding, advice, place.distil(best.source, layer=layer), "moderate" if agrees else "low")


def _moved(after: Measured, before: Measured, distance: Float[np.ndarray, "d"], place: Place) -> Suggestion:
    half = (len(distance) + 1) // 2
    lower, upper = float(distance[:half].mean()), float(distance[-half:].mean())
    finding = (
        f"From {before.name} to {after.name} the weights of the upper half of the blocks moved by {100 * upper:.0f} %, "
        f"those of the lower half by {100 * lower:.0f} %."
    )
    if upper > _UNEVEN * lower:
        advice = "The lower blocks were kept nearly as they are: a lower learning rate there costs little."
        return _suggest("Fine-tuning", finding, advice, _decayed(before, 0.75), place, "low")
    if lower > _UNEVEN * upper:
        advice = "The lower blocks were rebuilt, so little of the start was used: protect them, or start elsewhere."
        return _suggest("Fine-tuning", finding, advice, _decayed(before, 0.65), place, "low")
    return _nothing("Fine-tuning", f"{finding} Neither half stands out.")


def _readout(measured: Measured) -> Bool[np.ndarray, "L n"]:
    assert measured.readout is not None, "all encoders are probed, or none"
    return measured.readout


def _best(measured: Measured) -> tuple[int, Bool[np.ndarray, "n"]]:
    """The layer with the best readout (the lowest on a tie), and which images it classifies correctly."""
    rows = _readout(measured)
    layer = int(rows.mean(axis=1).argmax())
    return layer, rows[layer]


def _decayed(first: Measured, rate: float) -> Claim:
    return Claim(Way(first.source, layer_decay=rate), Way(first.source))


def _suggest(topic: str, finding: str, advice: str, claim: Claim, place: Place, sure: Confidence) -> Suggestion:
    if sure == "no evidence":
        return _nothing(topic, finding)
    return Suggestion(topic, finding, advice, place.finetune(claim.better), sure, claim)


def _nothing(topic: str, finding: str) -> Suggestion:
    return Suggestion(topic, finding, "", "", "no evidence")


def _points(gap: float, error: float) -> str:
    return f"{100 * gap:.1f} ± {100 * error:.1f} points"
