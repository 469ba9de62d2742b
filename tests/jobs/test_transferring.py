"""Transfer: the choice is made on training images, a missing data set is a row, nothing is trained twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import QUIET, write_images

from in_place import in_place
from vitlet.console import Teller
from vitlet.data.index import open_index
from vitlet.data.subsets import divide
from vitlet.errors import DataError, UsageError
from vitlet.jobs import side_by_side, transferring, trying
from vitlet.jobs.images import judged
from vitlet.jobs.suites import Suite
from vitlet.jobs.transferring import transfer
from vitlet.run import Run

GRID = {"lr": [1e-3, 3e-3], "epochs": [[1, 0]], "layer_decay": [1.0]}
"""Two settings of two steps each."""


def suite(data: Path, *more: dict[str, str], grid: dict[str, Any] | None = GRID) -> Suite:
    entries = [{"name": "ours", "title": "Our images", "data": str(data)}, *more]
    return Suite.from_json({"name": "small", "recipe": "debug_supervised", "grid": grid, "data": entries})


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "processes", in_place)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every training was started with; the trainings themselves are the real ones."""
    real, calls = trying.finetune, []

    def noted(recipe: Any, **options: Any) -> Any:
        calls.append({"seed": recipe.budget.seed, "lr": recipe.optimizer.base_lr, "hold_out": options["hold_out"]})
        return real(recipe, **options)

    monkeypatch.setattr(trying, "finetune", noted)
    return calls


def go(pretrained: Run, data: Path, out: Path, *more: dict[str, str], **changes: Any) -> dict[str, Any]:
    grid = changes.pop("grid", GRID)
    return transfer([pretrained.path], suite=suite(data, *more, grid=grid), out=out, options=QUIET, **changes)


def test_settings_are_judged_on_training_images_and_the_best_is_trained_on_all(
    pretrained: Run, data: Path, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    found = go(pretrained, data, tmp_path, seeds=2)
    assert [(call["seed"], call["lr"], call["hold_out"]) for call in trained[:2]] == [(0, 1e-3, True), (0, 3e-3, True)]
    (row,) = found["rows"]
    assert [setting["split"] for setting in row["tried"]] == ["held-out train"] * 2
    best = max(row["tried"], key=lambda setting: setting["value"])
    assert row["chosen"]["lr"] == best["lr"]
    assert [(call["seed"], call["lr"], call["hold_out"]) for call in trained[2:]] == [
        (0, best["lr"], False),
        (1, best["lr"], False),
    ]
    assert (row["split"], row["n"], row["labels"]) == ("test", 12, "32 labels")
    assert row["tried"][0]["n"] + 26 == 32, "a fifth of 16 a class is 3"
    assert "TEST" not in row["selection"]
    assert row["mean"] == pytest.approx(np.mean(row["values"]))
    assert "decided nothing" in row["selection"]


def test_the_held_out_part_is_never_the_test_split(tmp_path: Path) -> None:
    """And the control: without `hold_out` it is."""
    index = open_index(write_images(tmp_path / "d", train=5, test=3))
    verdicts = judged(index, QUIET, Teller(quiet=True))
    train, held, split = divide(index, verdicts.good, hold_out=True)
    assert split == "held-out train"
    assert not (index.splits[held] > 0).any()
    assert not set(train) & set(held)
    assert len(train) + len(held) == 10
    assert divide(index, verdicts.good)[2] == "test"
    (tmp_path / "d" / "test").rename(tmp_path / "d" / "val")
    index = open_index(tmp_path / "d")
    assert divide(index, judged(index, QUIET, Teller(quiet=True)).good, hold_out=True)[2] == "held-out train"
    shutil.copytree(tmp_path / "d" / "val", tmp_path / "d" / "test")
    index = open_index(tmp_path / "d")
    assert divide(index, judged(index, QUIET, Teller(quiet=True)).good, hold_out=True)[2] == "val"


def test_selection_on_the_test_split_is_labelled_wherever_the_number_stands(
    pretrained: Run, data: Path, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    found = go(pretrained, data, tmp_path, seeds=1, select_on_test=True)
    assert not any(call["hold_out"] for call in trained)
    assert len(trained) == 2, "the chosen setting with seed 0 has been trained already"
    (file,) = (tmp_path / "results").iterdir()
    protocol = json.loads(file.read_text())["protocol"]
    page = (tmp_path / "report.html").read_text()
    assert all("SELECTED ON THE TEST SPLIT" in text for text in (protocol, page, found["rows"][0]["selection"]))


def test_finished_trainings_are_used_again_and_others_are_not(
    pretrained: Run, data: Path, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    first = go(pretrained, data, tmp_path / "out", seeds=1)
    assert len(trained) == 3
    moved = tmp_path / "renamed"
    shutil.copytree(pretrained.path, moved)
    again = transfer([moved], suite=suite(data), out=tmp_path / "out", seeds=1, options=QUIET)
    assert len(trained) == 3, "the encoder is known by its content, not by its folder"
    assert again["rows"][0]["values"] == first["rows"][0]["values"]
    go(pretrained, data, tmp_path / "out", seeds=2)
    assert len(trained) == 4, "one more seed is one more training"
    go(pretrained, data, tmp_path / "out", seeds=1, grid={**GRID, "lr": [1e-3, 2e-3, 3e-3]})
    assert [call["lr"] for call in trained[4:5]] == [2e-3]
    assert len(trained) <= 6
    before = len(trained)
    other = write_images(tmp_path / "other", train=16, test=7)
    go(pretrained, other, tmp_path / "out", seeds=1)
    assert len(trained) == before + 3, "other images, other trainings"


def test_what_is_missing_or_unusable_is_a_row_that_says_so(pretrained: Run, data: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(data / "train" / "dark", flat)
    (tmp_path / "tv").mkdir()
    more = (
        {"name": "pets", "title": "Oxford-IIIT Pets", "data": f"torchvision:pets@{tmp_path / 'tv'}"},
        {"name": "nowhere", "data": str(tmp_path / "nowhere")},
        {"name": "flat", "data": str(flat)},
    )
    found = go(pretrained, data, tmp_path / "out", *more, seeds=1, grid={**GRID, "lr": [1e-3]})
    assert [row["state"] for row in found["rows"]] == ["done", "left out", "left out", "left out"]
    reasons = [row.get("why", "") for row in found["rows"]]
    assert "not whole" in reasons[1]
    assert "nowhere" in reasons[2]
    assert "flat has no labels" in reasons[3]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Oxford-IIIT Pets" in page
    assert "not whole" in page


def test_a_setting_that_diverges_loses_and_is_not_tried_again(
    pretrained: Run, data: Path, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    grid = {"lr": [1e-3, 100.0], "epochs": [[4, 0]], "layer_decay": [1.0]}
    settings = suite(data, grid=grid).settings_of(suite(data).data[0])
    wild = [s.changed(optimizer=s.optimizer.changed(kind="sgd", clip_norm=None)) for s in settings]
    entry, start = suite(data).data[0], transferring._starts([pretrained.path])[0]
    terms = trying.Trainings(tmp_path, (0,), False, QUIET, Teller(quiet=True))
    case = trying.Case(entry, start, open_index(data), {False: 32, True: 26})
    row = transferring._row(case, wild, terms)
    assert row["tried"][1]["value"] is None, "a learning rate of 100 without clipping gives NaN"
    assert row["chosen"]["lr"] == 1e-3
    before = len(trained)
    assert transferring._row(case, wild, terms)["values"] == row["values"]
    assert len(trained) == before
    with pytest.raises(DataError, match="every setting diverged"):
        transferring._row(case, [wild[1], wild[1]], terms)


def test_seeds_that_diverge_are_counted_and_lend_no_fact(
    pretrained: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of three: what the row says of images and labels comes from those that ended."""
    real = trying.finetune

    def first_is_wild(recipe: Any, **options: Any) -> Any:
        wild = recipe.optimizer.changed(kind="sgd", clip_norm=None, base_lr=100.0)
        return real(recipe.changed(optimizer=wild) if recipe.budget.seed == 0 else recipe, **options)

    monkeypatch.setattr(trying, "finetune", first_is_wild)
    found = go(pretrained, data, tmp_path, seeds=3, grid={"lr": [1e-3], "epochs": [[4, 0]], "layer_decay": [1.0]})
    (row,) = found["rows"]
    assert (row["seeds"], row["diverged"], len(row["values"]), len(row["runs"])) == ([1, 2], [0], 2, 2)
    assert (row["n"], row["split"], row["labels"]) == (12, "test", "32 labels")
    (file,) = (tmp_path / "results").iterdir()
    result = json.loads(file.read_text())
    assert (result["n"], result["split"], result["seed"]) == (12, "test", 1)
    assert "mean of 2 seeds (1 of 3 diverged), 32 labels, nothing was chosen" in result["protocol"]
    assert result["details"]["diverged"] == [0]
    assert "1 of 3 seeds diverged" in (tmp_path / "report.html").read_text()


def test_several_encoders_stand_side_by_side_and_random_weights_are_one(
    pretrained: Run, tuned: Run, data: Path, tmp_path: Path
) -> None:
    one = {"lr": [1e-3], "epochs": [[1, 0]], "layer_decay": [1.0]}
    starts = [pretrained.path, tuned.path, "none"]
    found = transfer(starts, suite=suite(data, grid=one), out=tmp_path, seeds=1, options=QUIET)
    assert [row["encoder"] for row in found["rows"]] == ["pretrained", "tuned", "random weights"]
    assert len({row["encoder_digest"] for row in found["rows"]}) == 3
    assert all(row["selection"] == "nothing was chosen" for row in found["rows"])
    assert len(list((tmp_path / "results").iterdir())) == 3
    assert not list(tmp_path.glob("runs/*/checkpoints")), "a grid of runs keeps its models and not its checkpoints"


def test_an_encoder_of_another_size_is_refused_before_anything_is_trained(
    pretrained: Run, data: Path, tmp_path: Path, trained: list[dict[str, Any]]
) -> None:
    entries = [{"name": "a", "data": str(data)}, {"name": "b", "data": str(data), "recipe": "transfer_pets"}]
    big = Suite.from_json({"recipe": "debug_supervised", "data": entries})
    with pytest.raises(UsageError, match=r"sees 32 px \(data set b\)"):
        transfer([pretrained.path], suite=big, out=tmp_path / "out", options=QUIET)
    assert not trained
    with pytest.raises(UsageError, match="given twice"):
        transfer([pretrained.path] * 2, suite=suite(data), out=tmp_path / "out", options=QUIET)
