"""Runs are made once, go on after a kill, and can be made side by side."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
from small_images import command

from in_place import in_place

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

from small_runs import interrupted, weights

from vitlet.cli import main
from vitlet.console import Teller
from vitlet.errors import NonFiniteError
from vitlet.jobs import suites
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig, Recipe
from vitlet.recipes import from_json
from vitlet.recipes.transfer import Grid
from vitlet.replication import runner, schedule
from vitlet.replication.catalogue import chosen
from vitlet.replication.chains import MAE, SUPERVISED, transferred
from vitlet.replication.findings import _Reader
from vitlet.replication.plan import NODE_FILE, Node, Plan
from vitlet.replication.planner import make_plan
from vitlet.replication.runner import make
from vitlet.replication.scale import Chosen
from vitlet.replication.scales import scale_by_name
from vitlet.replication.schedule import run_plan
from vitlet.replication.steps import Evaluate
from vitlet.run import Run
from vitlet.weights.folder import write_model
from vitlet.weights.source import evaluation_view

SMOKE = scale_by_name("smoke")


def planned(images: Path, out: Path, *words: str) -> Plan:
    return make_plan(chosen(words).stages(), scale_by_name("smoke"), data=images, out=out)


def pretrained(plan: Plan) -> Node:
    return next(node for node in plan.nodes.values() if node.kind == "pretrain")


def times(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_the_control_of_a_look_has_the_network_of_its_subject(images: Path, tmp_path: Path):
    shape = EncoderConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
    places = [tmp_path / name for name in ("supervised", "masked")]
    for place, position in zip(places, ("learned", "sincos"), strict=True):
        encoder = Encoder(shape.changed(position=position))
        write_model(place, encoder=encoder, evaluation=evaluation_view(16), facts={})
    subjects = (("DeiT", places[0]), ("untrained MAE", places[1]))
    node = Node(
        "a", "look", "look", 3, tmp_path / "look", data=images, subjects=subjects, untrained=(1,), look_images=8
    )
    make(node)
    about = json.loads((node.folder / "analysis/about.json").read_text())
    assert [model["source"] for model in about["models"]] == [str(places[0]), f"random:{places[1]}"]
    assert about["seed"] == 3


def test_a_second_time_nothing_is_run(copied: Path, images: Path):
    before = times(copied / "runs") | times(copied / "data")
    assert main(command(images, copied)) == 0
    assert times(copied / "runs") | times(copied / "data") == before


def test_a_run_that_was_killed_goes_on_and_gives_the_same(images: Path, tmp_path: Path):
    plan = make_plan([[MAE]], scale_by_name("smoke"), data=images, out=tmp_path / "out")
    for node in plan.nodes.values():
        make(node)
    node = pretrained(plan)
    run, expected = Run(node.folder), weights(Run(node.folder))

    (node.folder / NODE_FILE).unlink()  # killed just before the last file
    trained = run.metrics_file.stat().st_mtime_ns
    assert not node.is_finished
    make(node)
    assert node.is_finished
    assert run.metrics_file.stat().st_mtime_ns == trained, "nothing was trained again"

    cut = interrupted(run, tmp_path / "cut")  # killed after the first checkpoint
    (cut.path / NODE_FILE).unlink()
    shutil.rmtree(node.folder)
    shutil.copytree(cut.path, node.folder)
    make(node)
    assert weights(run) == expected
    assert "resuming" in run.log_file.read_text()
    assert json.loads((node.folder / NODE_FILE).read_text())["is_resumed"], "its clock tells nothing about the whole"

    moved = Path(shutil.copytree(tmp_path / "out", tmp_path / "moved"))
    plan = make_plan([[MAE]], scale_by_name("smoke"), data=images, out=moved)
    assert not plan.waiting, "a finished run is the run wherever it lies"
    (pretrained(plan).folder / NODE_FILE).unlink()
    make(pretrained(plan))
    assert weights(Run(pretrained(plan).folder)) == expected


def test_side_by_side_runs_wait_for_what_they_need(
    copied: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = planned(images, copied, "claim-1")
    for node in plan.nodes.values():
        if node.kind in ("finetune", "images"):
            shutil.rmtree(node.folder)
    order: list[str] = []

    def noted(node, **how) -> None:
        assert all(plan.nodes[a].is_finished for a in node.inputs), "started before its inputs were finished"
        order.append(node.kind)
        make(node, **how)

    monkeypatch.setattr(schedule, "processes", in_place)
    monkeypatch.setattr(runner, "make", noted)
    monkeypatch.setattr(schedule, "_POLL_SECONDS", 0.0)
    saved: list[int] = []
    run_plan(plan, seconds={}, side_by_side=2, teller=Teller(quiet=True), after=lambda: saved.append(len(order)))
    assert order == ["images", "finetune", "finetune", "finetune"]
    assert saved[-1] == 4
    assert not plan.waiting
    assert plan.node(SUPERVISED, 0).is_finished


def test_the_best_setting_on_held_out_training_images_is_trained_on_all(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second setting diverges, and the third hardly learns."""
    real = runner.finetune

    def diverging(recipe: Recipe, **how) -> Run:
        run = real(recipe, **how)
        if recipe.optimizer.base_lr == 1.0:
            shutil.rmtree(run.results)
            raise NonFiniteError("the loss is not finite")
        return run

    monkeypatch.setattr(runner, "finetune", diverging)
    grid = Grid(lr=(3e-3, 1.0, 1e-12), epochs=((4, 0),), layer_decay=(1.0,))
    monkeypatch.setitem(suites.GRIDS, "debug_supervised", grid)
    role = Chosen({"flowers": "debug_supervised"})
    scale = dataclasses.replace(SMOKE, treatments={**SMOKE.treatments, "transfer": role})
    step = transferred(None, "flowers")
    plan = make_plan([[step]], scale, data=images, out=tmp_path)
    run_plan(plan, seconds={}, side_by_side=1, teller=Teller(quiet=True))
    final = plan.node(step, 0)
    *tried, last = [node for node in plan.nodes.values() if node.kind == "finetune"]
    assert last == final
    results = [node.folder / "results/top1.json" for node in tried]
    assert [file.is_file() for file in results] == [True, False, True]
    values = [json.loads(results[i].read_text()) for i in (0, 2)]
    assert {v["split"] for v in values} == {"held-out train"}
    best = tried[0] if values[0]["value"] >= values[1]["value"] else tried[2]
    chosen_lr, (counted,) = (
        Run(final.folder).recipe_json()["optimizer"]["base_lr"],
        [final.folder / "results/top1.json"],
    )
    assert chosen_lr == best.recipe["optimizer"]["base_lr"]
    assert json.loads(counted.read_text())["split"] == "test"
    facts = json.loads((final.folder / NODE_FILE).read_text())
    assert facts["recipe"] == from_json(Run(final.folder).recipe_json()).fingerprint()
    assert not Run(best.folder).checkpoints.exists(), "a grid leaves many"
    (result,) = _Reader(plan).results(step).values()
    assert result["protocol"].endswith("; the best of 3 settings on held-out training images")


def test_a_classifier_is_counted_by_other_labels(images: Path, tmp_path: Path):
    """Of scale smoke, where ImageNet's images are not: the labels of the data stand in for ReaL's."""
    (half,) = (n for n in planned(images, tmp_path, "claim-1").nodes.values() if n.kind == "images")
    scale = dataclasses.replace(SMOKE, sets={**SMOKE.sets, "imagenet-val": SMOKE.sets["imagenet"]})
    step = Evaluate(SUPERVISED, "real", "imagenet-val")
    plan = make_plan([[SUPERVISED, step]], scale, data=images, out=tmp_path)
    node = plan.node(step, 0)
    for other in plan.nodes.values():
        make(dataclasses.replace(other, labels="val"))
    (result,) = _Reader(plan).results(step).values()
    (own,) = _Reader(plan).results(SUPERVISED).values()
    assert (node.data, result["value"], result["n"]) == (half.folder, own["value"], own["n"])


def test_one_run_of_an_array_needs_its_inputs(copied: Path, images: Path, capsys: pytest.CaptureFixture[str]):
    plan = planned(images, copied, "claim-1")
    start = pretrained(plan)
    shutil.rmtree(start.folder)
    tuned = next(n for n in plan.nodes.values() if start.address in n.inputs)
    shutil.rmtree(tuned.folder)
    assert main(command(images, copied, "--node", tuned.address)) == 2
    assert f"--node {start.address} first" in capsys.readouterr().err
    assert main(command(images, copied, "--node", "0123")) == 2
    assert main(command(images, copied, "--node", start.address)) == 0
    assert start.is_finished
