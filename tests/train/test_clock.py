"""What a training cost, over interruptions and ranks."""

import subprocess
import sys
from pathlib import Path

from harness import Job, Page
from ranked import start_world

from forked import errors, wait
from vitlet.distributed.world import World
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.clock import Clock


def burn() -> None:
    sum(i * i for i in range(2_000_000))


def test_what_was_spent_before_and_by_ended_children_counts() -> None:
    clock = Clock()
    subprocess.run([sys.executable, "-c", "sum(i * i for i in range(2_000_000))"], check=True)
    alone = clock.spent()
    assert alone["cpu_seconds"] > 0.05, "the child's"
    clock.before = {"wall_seconds": 100.0, "cpu_seconds": 50.0}
    later = clock.spent()
    assert 100 < later["wall_seconds"] < 100 + 60
    assert 50.05 < later["cpu_seconds"] < 50 + 60


def test_ranks_add_up(tmp_path: Path) -> None:
    def body(world: World) -> None:
        clock = Clock()
        if world.rank == 1:
            burn()
        clock.meet(world)
        assert clock.spent()["cpu_seconds"] > 0.05, "rank 1's, on every rank"

    pids = start_world(body, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], errors(tmp_path)


def test_every_checkpoint_knows_what_it_cost(job: Job, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert job.but(total=6).finish(run, Page()) == 0
    costs = [checkpoint.read(path).manifest["cost"] for path in checkpoint.folders(run)]
    assert len(costs) == 2
    assert costs[0]["wall_seconds"] > costs[1]["wall_seconds"] > 0
