"""The label curve: what is compared with what, how often a run is trained, and what is refused before any is."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import QUIET, stands

from in_place import in_place
from vitlet.console import Teller
from vitlet.disk import read_json
from vitlet.errors import DataError, UsageError
from vitlet.jobs import side_by_side
from vitlet.jobs.comparing import compare, label_count
from vitlet.jobs.images import Labelled
from vitlet.jobs.judging import arm_names
from vitlet.run import Run
from vitlet.weights.folder import read_model, write_model

QUICK = {
    "budget.batch_size": 8,
    "budget.duration": {"unit": "steps", "n": 2},
    "budget.checkpoint_every": {"unit": "steps", "n": 2},
    "optimizer.warmup": {"unit": "steps", "n": 1},
}
TWO: dict[str, Any] = {"recipe": "debug_supervised", "seeds": 2, "set": QUICK}


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "processes", in_place)


@pytest.fixture(scope="module")
def compared(data: Path, pretrained: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Random weights and one run, 25 % and all labels, two seeds."""
    out = tmp_path_factory.mktemp("compared") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_by_side, "processes", in_place)
        found = compare([pretrained.path], data=data, out=out, label_fractions=(1, 0.25), **TWO)
    return out, found


def test_it_leaves_runs_a_document_a_page_and_figures(compared: tuple[Path, dict[str, Any]]) -> None:
    out, found = compared
    assert sorted(p.name for p in out.iterdir()) == ["curves.json", "figures", "report.html", "runs"]
    assert sorted(p.name for p in (out / "figures").iterdir()) == ["finetune.svg", "knn.svg"]
    assert read_json(out / "curves.json") == json.loads(json.dumps(found))
    assert found["kind"] == "compare"
    assert "note" not in found, "the run has seen no label"
    assert [curve["name"] for curve in found["curves"]] == ["finetune", "knn"]
    for curve in found["curves"]:
        assert [(p["x"], p["label"]) for p in curve["points"]] == [(8, "8 labels (25 %)"), (32, "32 labels (100 %)")]
        assert [[a["name"] for a in p["arms"]] for p in curve["points"]] == [["random-1", "pretrained"]] * 2
        assert (curve["n"], curve["split"]) == (12, "test")


def test_every_number_is_that_of_a_run_with_the_same_budget(compared: tuple[Path, dict[str, Any]]) -> None:
    out, found = compared
    recipes = set()
    for point in found["curves"][0]["points"]:
        for arm in point["arms"]:
            for value, cost, name, seed in zip(
                arm["values"], arm["cpu_seconds"], arm["runs"], arm["seeds"], strict=True
            ):
                run = Run(out / "runs" / name)
                result = read_json(run.results / "top1.json")
                assert result["value"] == value
                assert result["protocol"] == f"fine-tuning, {point['x']:.0f} labels"
                assert read_json(run.path / "environment.json")["cpu_seconds"] == cost
                recipe = run.recipe_json()
                assert recipe["budget"].pop("seed") == seed
                recipes.add(json.dumps(recipe, sort_keys=True))
    assert len(recipes) == 1, "shape and budget are the same for all"
    assert len(list((out / "runs").iterdir())) == 8


def test_random_weights_have_the_shape_of_the_run_and_nothing_else_of_it(
    compared: tuple[Path, dict[str, Any]], pretrained: Run
) -> None:
    out, found = compared
    point = found["curves"][0]["points"][0]
    launches = {
        arm["name"]: read_json(out / "runs" / arm["runs"][0] / "environment.json")["launch"] for arm in point["arms"]
    }
    assert (launches["random-1"]["keep_blocks"], launches["pretrained"]["keep_blocks"]) == (0, None)
    widths = {read_model(out / "runs" / arm["runs"][0] / "encoder").encoder.config.width for arm in point["arms"]}
    assert widths == {read_model(pretrained.encoder).encoder.config.width}


def test_questions_have_sentences_that_the_page_shows(compared: tuple[Path, dict[str, Any]]) -> None:
    out, found = compared
    assert [q["question"] for q in found["questions"]] == [
        "Did pretrained help, with 8 labels (25 %)?",
        "Did pretrained help, with 32 labels (100 %)?",
    ]
    page = re.sub(r"\s+", " ", (out / "report.html").read_text())
    for question in found["questions"]:
        assert question["answer"] in ("yes", "no", "undecided")
        assert question["sentence"].split(" (+")[0].split(" (−")[0] in page
    assert "CPU seconds" in page


def test_finished_runs_are_used_again_by_content_and_a_retrained_encoder_is_not(
    compared: tuple[Path, dict[str, Any]],
    data: Path,
    pretrained: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From another place the same weights are the same start; other weights in the same place are another."""
    out = shutil.copytree(compared[0], tmp_path / "out")
    moved = shutil.copytree(pretrained.path, tmp_path / "moved")
    before = stands(out / "runs")
    monkeypatch.setattr(side_by_side, "processes", in_place)
    again = compare([moved], data=data, out=out, label_fractions=(1, 0.25), options=QUIET, **TWO)
    assert capsys.readouterr().out == "", "quiet"
    assert stands(out / "runs") == before
    for now, then in zip(again["curves"][0]["points"], compared[1]["curves"][0]["points"], strict=True):
        assert [a["values"] for a in now["arms"]] == [a["values"] for a in then["arms"]]

    saved = read_model(moved / "encoder")
    saved.encoder.vit.cls_token.data += 1  # type: ignore[union-attr]
    write_model(moved / "encoder", encoder=saved.encoder, evaluation=saved.evaluation, facts=saved.facts)
    monkeypatch.setattr(side_by_side, "processes", in_place)
    compare([moved], data=data, out=out, label_fractions=(1, 0.25), **TWO)
    assert capsys.readouterr().out, "the control: it is not"
    new = {p.name for p in (out / "runs").iterdir()} - {name.split("/")[0] for name in before}
    assert sorted(name.rsplit("-", 1)[0] for name in new) == ["moved-seed0"] * 2 + ["moved-seed1"] * 2, (
        "random weights are as they were"
    )


def test_questions_with_a_supervised_encoder_and_two_runs(
    data: Path, pretrained: Run, tuned: Run, tmp_path: Path
) -> None:
    found = compare(
        [pretrained.path, tuned.path],
        data=data,
        out=tmp_path,
        label_fractions=(0.25,),
        supervised=tuned.path,
        **TWO | {"seeds": 1},
    )
    assert [start["name"] for start in found["starts"]] == [
        "random-1", "random-2", "supervised", "pretrained", "tuned",
    ]  # fmt: skip
    asked = [(q["first"], q["second"]) for q in found["questions"]]
    assert asked == [
        ("pretrained", "random-2"), ("tuned", "random-1"), ("pretrained", "supervised"), ("tuned", "supervised"),
        ("tuned", "pretrained"),
    ]  # fmt: skip
    assert {q["answer"] for q in found["questions"]} == {"undecided"}, "one seed"
    assert found["note"].startswith("supervised pre-training and tuned learned from labels of these images before")
    values = {a["name"]: a["values"] for a in found["curves"][0]["points"][0]["arms"]}
    assert values["tuned"] == values["supervised"], "the same weights, trained once"
    assert len(list((tmp_path / "runs").iterdir())) == 4
    costs = {start["name"]: start["pretraining_cpu_seconds"] for start in found["starts"]}
    assert costs["random-1"] is None
    assert costs["pretrained"] == read_json(pretrained.path / "environment.json")["cpu_seconds"]


class TestRefused:
    """Before anything is trained."""

    def test_a_fraction_with_fewer_labels_than_classes(self, data: Path, pretrained: Run, tmp_path: Path) -> None:
        words = (
            r"label fraction 0\.04 is 1 label for 2 classes.*every class needs one.*--label-fractions 0\.0625 or more"
        )
        with pytest.raises(DataError, match=words):
            compare([pretrained.path], data=data, out=tmp_path, label_fractions=(1, 0.04), **TWO)
        assert not any(tmp_path.iterdir())

    def test_the_fraction_that_is_proposed_is_enough(self, data: Path) -> None:
        assert label_count(Labelled.open(data, QUIET, Teller(quiet=True)), 0.0625) == 2

    def test_a_batch_larger_than_the_labels(self, data: Path, pretrained: Run, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"batch size 8 is larger than the 4 training images.*--batch-size 4"):
            compare([pretrained.path], data=data, out=tmp_path, label_fractions=(0.125,), **TWO)
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize(("fraction", "words"), [(0, "label fraction 0"), (1.5, r"label fraction 1\.5")])
    def test_what_is_no_share(self, data: Path, fraction: float, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            label_count(Labelled.open(data, QUIET, Teller(quiet=True)), fraction)

    def test_no_run_and_no_seed(self, data: Path, pretrained: Run, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no run to compare"):
            compare([], data=data, out=tmp_path)
        with pytest.raises(UsageError, match="0 seeds"):
            compare([pretrained.path], data=data, out=tmp_path, label_fractions=(1,), seeds=0)

    def test_a_recipe_of_another_image_size(self, data: Path, pretrained: Run, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"is a vision transformer for 32 px.*for 224 px.*--recipe NAME"):
            compare(
                [pretrained.path],
                data=data,
                out=tmp_path,
                label_fractions=(1,),
                recipe="finetune_tiny_impr_100e",
                batch_size=2,
            )

    def test_a_recipe_of_another_kind(self, data: Path, pretrained: Run, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="fine-tunes a ConvNet"):
            compare([pretrained.path], data=data, out=tmp_path, label_fractions=(1,), recipe="finetune_micro_convnet")
        with pytest.raises(UsageError, match="debug is not a recipe to finetune with"):
            compare([pretrained.path], data=data, out=tmp_path, label_fractions=(1,), recipe="debug")


def test_names_are_short_fit_for_folders_and_apart(tmp_path: Path) -> None:
    places = ["a/MAE run", "b/MAE run", "random", "supervised", "c/größe", "a/MAE run"]
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    names = arm_names([str(tmp_path / place) for place in places])
    top = re.sub(r"[^a-z0-9]+", "-", tmp_path.name.lower()).strip("-")
    assert names[:5] == ["mae-run", "b-mae-run", f"{top}-random", f"{top}-supervised", "gr-e"]
    assert names[5] not in names[:5]
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    assert np.unique(names).size == len(places)
