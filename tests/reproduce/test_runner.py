"""Runs are made once, go on after a kill, and can be made side by side."""

import json
import shutil
import sys
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
from small_images import command

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

from small_runs import interrupted, weights

from vitlet.cli import main
from vitlet.reproduce import runner
from vitlet.reproduce.catalogue import chosen
from vitlet.reproduce.chains import MAE, SUPERVISED
from vitlet.reproduce.plan import NODE_FILE, Node, Plan, make_plan
from vitlet.reproduce.runner import make, run_plan
from vitlet.reproduce.scale import scale_by_name
from vitlet.run import Run
from vitlet.train.log import Teller


def planned(images: Path, out: Path, *words: str) -> Plan:
    return make_plan(chosen(words).stages(), scale_by_name("smoke"), data=images, out=out)


def pretrained(plan: Plan) -> Node:
    return next(node for node in plan.nodes.values() if node.kind == "pretrain")


def times(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


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

    class Pool(Executor):
        """Makes a run where it is submitted: processes pay seconds to start."""

        def __init__(self, *_, **__) -> None:
            pass

        def submit(self, function, /, *arguments, **named) -> Future:
            future: Future = Future()
            future.set_result(function(*arguments, **named))
            return future

    monkeypatch.setattr(runner, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(runner, "make", noted)
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.0)
    saved: list[int] = []
    run_plan(plan, seconds={}, side_by_side=2, teller=Teller(quiet=True), after=lambda: saved.append(len(order)))
    assert order == ["images", "finetune", "finetune"]
    assert saved[-1] == 3
    assert not plan.waiting
    assert plan.node(SUPERVISED, 0).is_finished


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
