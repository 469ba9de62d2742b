"""Rules: suggested where the evidence is planted, "no evidence" where it is not."""

import numpy as np
import pytest

from vitlet.analysis.diagnosis import (
    MANY_LABELS,
    Claim,
    Measured,
    Place,
    Suggestion,
    Way,
    confidence,
    diagnose,
    paired,
)
from vitlet.rng import derive

PLACE = Place(data="my data", num_labels=500, image_size=32)


def readout(*rates: float, n: int = 400, seed: int = 0) -> np.ndarray:
    """Rows that are right at these rates, on the same images: the easier ones."""
    noise = np.random.Generator(np.random.Philox(key=derive("diagnosis", seed))).random(n)
    return np.stack([noise < rate for rate in rates])


def said(*measured: Measured, place: Place = PLACE) -> dict[str, Suggestion]:
    return {s.topic: s for s in diagnose(measured, place)}


def test_without_labels_nothing_is_claimed() -> None:
    found = said(Measured("mine", "runs/mine", None))
    assert {s.confidence for s in found.values()} == {"no evidence"}
    assert not any(s.suggestion or s.command or s.claim for s in found.values())


def test_equal_encoders_give_no_evidence() -> None:
    rows = readout(0.5, 0.51, 0.5)
    found = said(Measured("mine", "runs/mine", rows), Measured("other", "runs/other", rows.copy()))
    assert {s.confidence for s in found.values()} == {"no evidence"}


def test_a_better_start_is_named_with_its_command() -> None:
    found = said(Measured("mine", "runs/mine", readout(0.3, 0.5)), Measured("other", "runs/o ther", readout(0.3, 0.7)))
    start = found["Initialisation"]
    assert start.confidence == "high"
    assert start.suggestion == "Start from other instead."
    assert start.command == "vitlet finetune finetune_micro --init 'runs/o ther' --data 'my data' --out tried"
    assert "20." in start.finding
    assert start.claim == Claim(Way("runs/o ther"), Way("runs/mine"))


def test_random_weights_that_read_out_better_are_named_none() -> None:
    found = said(Measured("mine", "runs/mine", readout(0.3, 0.3)), Measured("random", "random", readout(0.3, 0.5)))
    assert "--init none" in found["Initialisation"].command
    assert found["Distillation"].confidence == "no evidence", "random weights are no teacher"


def test_top_blocks_that_lose_what_lower_ones_hold() -> None:
    rows = readout(0.2, 0.5, 0.8, 0.6, 0.4)
    found = said(Measured("mine", "runs/mine", rows))
    assert found["Top blocks"].confidence == "high"
    assert "top 2 blocks" in found["Top blocks"].suggestion
    assert "lowest 2 blocks of 4" in found["Lower blocks"].suggestion
    assert found["Top blocks"].claim is None, "it takes a longer pre-training to tell"
    assert found["Lower blocks"].claim == Claim(Way("runs/mine", layer_decay=0.75), Way("runs/mine"))
    assert found["Lower blocks"].confidence == "low", "the study did not bear it out, however clear the readout is"
    assert found["Lower blocks"].command.endswith(
        "--init runs/mine --data 'my data' --out tried --set optimizer.layer_decay=0.75"
    )
    many = Place(data="d", num_labels=MANY_LABELS + 1, image_size=32)
    assert said(Measured("mine", "runs/mine", rows), place=many)["Top blocks"].confidence == "low"


def test_a_best_layer_that_is_best_by_chance_is_not_believed() -> None:
    """Thirteen layers of independent coin flips: the best beats the last by about two errors."""
    believed = 0
    for seed in range(40):
        draw = np.random.Generator(np.random.Philox(key=derive("coins", seed)))
        found = said(Measured("mine", "runs/mine", draw.random((13, 300)) < 0.5))
        believed += found["Top blocks"].suggestion != ""
    assert believed <= 6


@pytest.mark.parametrize(("lowest", "layer", "sure"), [(4, 4, "moderate"), (3, 4, "moderate"), (1, 1, "low")])
def test_the_teacher_and_the_layer_to_distil(lowest: int, layer: int, sure: str) -> None:
    alignment = np.full(5, 0.8)
    alignment[lowest] = 0.2
    teacher = Measured("base", "runs/base", readout(0.2, 0.3, 0.5, 0.7, 0.9), alignment=alignment)
    found = said(Measured("mine", "runs/mine", readout(0.2, 0.3, 0.4, 0.5, 0.6)), teacher)["Distillation"]
    assert found.confidence == sure
    assert f"objective.layers=[[{layer}, {layer}]]" in found.command
    assert "objective.teacher=runs/base" in found.command


def test_which_half_fine_tuning_moved() -> None:
    def moved(*distance: float) -> Suggestion:
        after = Measured("tuned", "runs/tuned", None, distance=np.array(distance))
        return said(Measured("mine", "runs/mine", None), after)["Fine-tuning"]

    assert "kept" in moved(0.1, 0.1, 0.9, 0.9).suggestion
    assert "rebuilt" in moved(0.9, 0.9, 0.1, 0.1).suggestion
    assert moved(0.5, 0.5, 0.5, 0.5).confidence == "no evidence"
    assert moved(0.1, 0.1, 0.9, 0.9).confidence == "low", "one pair of runs has no error"


def test_the_most_certain_stands_first() -> None:
    found = diagnose([Measured("mine", "m", readout(0.2, 0.8, 0.4), distance=np.array([0.1, 0.9]))], PLACE)
    levels = ["high", "moderate", "low", "no evidence"]
    assert [levels.index(s.confidence) for s in found] == sorted(levels.index(s.confidence) for s in found)


def test_differences_are_paired() -> None:
    rows = readout(0.5, 0.55)
    gap, error = paired(rows[1], rows[0])
    assert gap == pytest.approx(0.05, abs=0.02)
    assert error < 0.012, "unpaired it would be 0.035"
    assert confidence(gap, error) == "high"
    assert confidence(0.0, 0.0) == "no evidence"
    assert confidence(0.31, 0.1, picked=True) == "moderate"
