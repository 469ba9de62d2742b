"""Looks at the held-out images while fine-tuning: best and last kept apart, and called what they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import QUIET, SMALLER, interrupted, weights

from vitlet.disk import read_json
from vitlet.jobs import probes
from vitlet.jobs.evaluating import evaluate
from vitlet.jobs.training import finetune, resume
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.weights.source import load_encoder

EVERY = {**SMALLER, "budget.evaluate_every": {"unit": "steps", "n": 2}}


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """What the looks find, by the number of the look; what is measured at the end stays real."""
    given: dict[int, float] = {}
    real = probes.evaluate_classifier
    calls = iter(range(100))

    def told(*arguments: Any, **options: Any) -> dict[str, Any]:
        found, number = real(*arguments, **options), next(calls)
        return found | ({"top1": given[number]} if number in given else {})

    monkeypatch.setattr(probes, "evaluate_classifier", told)
    return given


def tuned(data: Path, out: Path, **settings: Any) -> Run:
    return finetune("debug_supervised", init=None, data=data, out=out, options=QUIET, set=EVERY | settings)


def classifier(folder: Path) -> torch.Tensor:
    found = load_encoder(folder).classifier
    assert found is not None
    return found.state_dict()["head.weight"]


def test_best_and_last_stand_apart(data: Path, tmp_path: Path, scores: dict[int, float]) -> None:
    """Six steps, three looks; the second is the best, the third equals it."""
    scores |= {0: 0.25, 1: 0.75, 2: 0.75}
    run = tuned(data, tmp_path / "run")
    assert probes.accuracies(run) == [(2, 0.25), (4, 0.75), (6, 0.75)]
    best, last = (read_json(run.results / f"{name}.json") for name in ("top1_best", "top1"))
    assert (best["value"], best["details"]["step"]) == (0.75, 4)
    assert best["protocol"] == "fine-tuning, 32 labels, best of 3 looks, chosen on the test split"
    assert last["protocol"] == "fine-tuning, 32 labels"
    assert "nothing was chosen" in last["details"]["selection"]
    assert read_json(run.best / "config.json")["vitlet"]["facts"]["step"] == 4
    assert not torch.equal(classifier(run.best), classifier(run.path))
    scored = [evaluate(folder, data=data, options=QUIET).protocol for folder in (run.best, run.path)]
    assert scored == [
        "accuracy of the classifier that was chosen on the test split",
        "accuracy of the classifier as it is",
    ]


def test_a_run_that_was_interrupted_ends_with_the_same_best(
    data: Path, tmp_path: Path, scores: dict[int, float]
) -> None:
    """Looks after steps 2, 4 and 6, the first the best; killed after the checkpoint of step 3."""
    scores |= {0: 0.75, 1: 0.5, 2: 0.25, 3: 0.5, 4: 0.25}
    run = tuned(data, tmp_path / "run")
    again = resume(interrupted(run, tmp_path / "begun").path, options=QUIET)
    assert probes.accuracies(again) == probes.accuracies(run)
    assert torch.equal(classifier(again.best), classifier(run.best))
    assert weights(again) == weights(run)


def test_looking_changes_no_bit_of_the_last_model(data: Path, tmp_path: Path) -> None:
    looked = tuned(data, tmp_path / "looked")
    plain = finetune("debug_supervised", init=None, data=data, out=tmp_path / "plain", options=QUIET, set=SMALLER)
    assert weights(looked) == weights(plain)
    assert not plain.best.exists()
    assert not (plain.results / "top1_best.json").exists()


def test_a_resumed_run_remembers_what_it_cost_before(data: Path, tmp_path: Path) -> None:
    run = tuned(data, tmp_path / "run")
    begun = interrupted(run, tmp_path / "begun")
    path = checkpoint.folders(begun)[0]
    found = checkpoint.read(path)
    manifest = found.manifest | {"cost": {"wall_seconds": 3600.0, "cpu_seconds": 7200.0}}
    (path / checkpoint.MANIFEST).write_bytes(checkpoint._sealed(manifest))
    finished = read_json(resume(begun.path, options=QUIET).path / "environment.json")
    assert 3600 < finished["wall_seconds"] < 2 * 3600, "once"
    assert 7200 < finished["cpu_seconds"] < 2 * 7200
