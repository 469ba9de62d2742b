"""A replication over the ranks of torchrun: each makes whole runs, and the findings are those of one process."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_images import command

from forked import errors, start_ranks, wait, wait_until
from vitlet.cli import main
from vitlet.console import Teller
from vitlet.disk import read_json, write_json
from vitlet.distributed.world import World
from vitlet.errors import NonFiniteError
from vitlet.jobs.spread import spread
from vitlet.replication import replicate, schedule
from vitlet.replication.catalogue import chosen
from vitlet.replication.plan import NODE_FILE, Node
from vitlet.replication.planner import make_plan
from vitlet.replication.runner import record_failure
from vitlet.replication.scale import Treatment
from vitlet.replication.scales import scale_by_name
from vitlet.replication.schedule import run_plan

SMOKE = scale_by_name("smoke")


def over_ranks(body: Callable[[], object], folder: Path) -> list[int]:
    """The exit codes of two ranks."""
    return [wait(pid, seconds=240) for pid in start_ranks(body, folder)]


@pytest.mark.parametrize("waits", [True, False])
def test_ranks_make_each_run_once_and_leave_out_what_needs_a_failed_one(
    waits: bool, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The control does not wait for inputs, and a run begins before its images are there."""
    words = ("claim-8", "claim-12")
    plan = make_plan(chosen(words).stages(SMOKE.order), SMOKE, data=images, out=tmp_path / "out")
    moco, mae = (next(node for node in plan.nodes.values() if node.title == title) for title in ("mocov3", "mae"))
    begun, early, after = (tmp_path / name for name in ("begun", "early", "after"))
    for folder in (begun, early, after):
        folder.mkdir()

    def attempted(node: Node, **_: Any) -> None:
        assert World.here().size == 1, "a run is made apart"
        with (begun / node.address).open("a") as stream:
            stream.write(os.environ["RANK"])
        if not all(plan.nodes[address].is_finished for address in node.inputs):
            (early / node.address).touch()
        if node.kind == "images" and not waits:
            wait_until(lambda: len(list(begun.iterdir())) > 1)
        if waits and node in (moco, mae):  # by both ranks at a time
            wait_until((begun / (mae if node == moco else moco).address).exists)
        if node == moco:
            record_failure(node, NonFiniteError("loss nan at step 0"))
        else:
            write_json(node.folder / NODE_FILE, {})

    def body() -> None:
        noted = lambda: (after / f"{os.environ['RANK']}-{len(list(after.iterdir()))}").touch()  # noqa: E731
        with World.joined():
            run_plan(plan, seconds={}, teller=Teller(), after=noted)

    monkeypatch.setattr(schedule, "attempt", attempted)
    if not waits:
        monkeypatch.setattr(schedule, "spread", lambda calls, *, watch, after: spread(calls, watch=watch, after={}))
    assert over_ranks(body, tmp_path) == [0, 0], errors(tmp_path)
    assert bool(list(early.iterdir())) is not waits
    if not waits:
        return
    made = {file.name: file.read_text() for file in begun.iterdir()}
    assert sorted({*made.values()}) == ["0", "1"], "each rank made some, and none made what another did"
    assert {plan.nodes[address].title for address in made} >= {"mae", "mocov3"}
    needing = [node for node in plan.nodes.values() if plan.obstacle(node) == moco and node != moco]
    assert needing
    assert plan.nodes.keys() - made.keys() == {node.address for node in needing}
    assert plan.waiting == [node for node in plan.nodes.values() if node in (moco, *needing)]
    assert capfd.readouterr().out.count("diverged: mocov3, seed 0") == 1
    assert {file.name[0] for file in after.iterdir()} == {"0", "1"}


def test_what_one_process_does_is_refused_on_ranks(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    words = command(images, tmp_path / "out")
    assert over_ranks(lambda: os._exit(main(words)), tmp_path) == [2, 2]
    assert "error: --side-by-side under torchrun" in capfd.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for more in (["--plan"], ["--collect"], ["--slurm", str(tmp_path / "jobs")], ["--node", "0123"]):
        assert main([*words[:-2], *more]) == 2
        assert f"vitlet reproduce {more[0]} under torchrun" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def told(out: Path) -> str:
    """The document without times and places."""
    found = read_json(out / "replication.json")
    runs = [{key: run[key] for key in ("name", "title", "seed", "recipe")} for run in found["runs"]]
    return json.dumps(found | {"runs": runs, "machine": None}).replace(str(out), "OUT")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_ranks_find_what_one_process_does(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """One run of them diverges: both end with its exit code, and the first says so."""
    moco = SMOKE.methods["mocov3"]
    assert isinstance(moco, Treatment)
    hot = dataclasses.replace(moco, changes={**moco.changes, "objective.temperature": 1e-39})
    scale = dataclasses.replace(SMOKE, methods={**SMOKE.methods, "mocov3": hot})
    monkeypatch.setattr(replicate, "scale_by_name", lambda _: scale)
    two, alone = tmp_path / "two", tmp_path / "alone"
    words = ("table-1", "figure-1", "claim-8", "claim-12")
    assert over_ranks(lambda: os._exit(main(command(images, two, what=words)[:-2])), tmp_path) == [6, 6]
    said = capfd.readouterr()
    assert said.out.count("going on with what does not need it") == 1
    assert "diverged: mocov3, seed 0 (loss nan at step 0)" in said.err
    assert main(command(images, alone, what=words)) == 6
    assert told(two) == told(alone)
    assert (two / "report.html").is_file()
    for file in alone.glob("runs/*/results/*.json"):
        assert read_json(two / file.relative_to(alone))["value"] == read_json(file)["value"]
    made = lambda out: {file.relative_to(out) for file in out.glob(f"*/*/{NODE_FILE}")}  # noqa: E731
    assert made(two) == made(alone) != set()
