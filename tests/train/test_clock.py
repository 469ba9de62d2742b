"""What a training cost, over interruptions and ranks."""

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import Job, Page
from ranked import start_world

from forked import errors, wait
from vitlet.distributed.world import World
from vitlet.run import Run
from vitlet.train import checkpoint, clock
from vitlet.train.clock import Clock


def of_children() -> float:
    """CPU seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_what_ended_children_spent_counts() -> None:
    before, ours = of_children(), Clock()
    subprocess.run([sys.executable, "-c", "sum(i * i for i in range(1_000_000))"], check=True)
    assert ours.spent()["cpu_seconds"] >= of_children() - before > 0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the clock is told: seconds by `wall` and `cpu`."""
    now = SimpleNamespace(wall=7.0, cpu=3.0)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now.wall))
    monkeypatch.setattr(clock, "_cpu_seconds", lambda: now.cpu)
    return now


def test_what_was_spent_before_counts(now: SimpleNamespace) -> None:
    ours = Clock()
    ours.before = {"wall_seconds": 100.0, "cpu_seconds": 50.0}
    now.wall, now.cpu = 9.0, 8.0
    assert ours.spent() == {"wall_seconds": 102.0, "cpu_seconds": 55.0}


def test_ranks_add_up(now: SimpleNamespace, tmp_path: Path) -> None:
    def body(world: World) -> None:
        ours = Clock()
        now.cpu += [1.0, 5.0][world.rank]
        ours.meet(world)
        assert ours.spent()["cpu_seconds"] == 6.0, "on every rank"

    pids = start_world(body, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], errors(tmp_path)


def test_every_checkpoint_knows_what_it_cost(job: Job, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert job.but(total=6).finish(run, Page()) == 0
    costs = [checkpoint.read(path).manifest["cost"] for path in checkpoint.folders(run)]
    assert len(costs) == 2
    assert costs[0]["wall_seconds"] > costs[1]["wall_seconds"] > 0
