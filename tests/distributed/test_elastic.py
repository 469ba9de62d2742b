"""torchrun itself starts, restarts and starts again with fewer ranks: the run is that of one that never stopped."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from harness import Job
from ranked import noting, order, require_same_weights, run_training
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from forked import fork, wait
from vitlet.data.loader import TrainingBatches
from vitlet.distributed.world import World
from vitlet.errors import VitletError
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.run import Run


def launch(job: Job, run: Run, *kills: int, size: int) -> subprocess.CompletedProcess[str]:
    words = ["--standalone", "--nproc-per-node", str(size), "--max-restarts", "1"]
    program = [Path(__file__).with_name("elastic.py"), job.index.root, run.path, *map(str, kills)]
    command = [sys.executable, "-m", "torch.distributed.run", *words, *program]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.fixture
def alone(job: Job, tmp_path: Path) -> Run:
    """Twelve steps without an interruption."""
    run = Run(tmp_path / "alone")
    run_training(job.but(batch_size=4), run, World(), note=noting(run), every=3)
    return run


@pytest.mark.long
@pytest.mark.timeout(400)  # six processes that import torch, one after the other where there is one core
def test_a_restart_and_another_number_of_ranks_change_nothing(job: Job, alone: Run, tmp_path: Path) -> None:
    run, starts = Run(tmp_path / "run"), tmp_path / "run.starts"
    first = launch(job, run, 5, 10, size=2)
    assert first.returncode != 0, "killed twice, restarted once"
    assert first.stderr.count("rank 1 is gone") == 2, first.stderr
    assert starts.read_text().splitlines() == ["2 from 0", "2 from 3"]
    second = launch(job, run, size=1)
    assert second.returncode == 0, second.stderr
    assert starts.read_text().splitlines()[2:] == ["1 from 9"]
    assert order(run).encode() == order(alone).encode()
    require_same_weights(run, alone)
    assert [row["step"] for row in run.metrics()] == list(range(1, 13))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_loss_on_one_of_two_hosts_is_gone_on_from(job: Job, alone: Run, tmp_path: Path) -> None:
    """Its agent counts a restart; the other sees a change of membership while its own rank still ends."""
    run, lost, counts = Run(tmp_path / "run"), tmp_path / "lost", tmp_path / "counts"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank() -> None:
        torch.set_num_threads(1)
        with open(counts, "a") as log:
            log.write(os.environ["TORCHELASTIC_RESTART_COUNT"])

        def kill_once(objective: Objective, world: World) -> None:
            noting(run)(objective, world)
            if world.rank == 1 and not lost.exists():
                forward = objective.forward

                def last(batch: object, step: Step) -> Losses:
                    if step.index == 5:
                        lost.touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    return forward(batch, step)

                objective.forward = last

        try:
            with World.joined() as world:
                run_training(job.but(batch_size=4), run, world, note=kill_once, every=3)
        except VitletError as error:
            time.sleep(10)  # as an interpreter takes a while to end, in which its agent hears of the other
            os._exit(error.exit_code)

    def agent(is_host: bool) -> None:
        config = LaunchConfig(
            min_nodes=2, max_nodes=2, nproc_per_node=1, max_restarts=3, start_method="fork", run_id="test",
            rdzv_backend="c10d", rdzv_endpoint=f"127.0.0.1:{port}", local_addr="127.0.0.1", monitor_interval=0.1,
            rdzv_configs={"is_host": is_host},
        )  # fmt: skip
        elastic_launch(config, rank)()

    agents = [
        fork(lambda first=first: agent(first), error_file=tmp_path / f"agent-{first}.txt") for first in (True, False)
    ]
    assert [wait(pid, seconds=120) for pid in agents] == [0, 0], [p.read_text() for p in tmp_path.glob("agent-*")]
    assert lost.exists()
    assert set(counts.read_text()[2:]) == {"0", "1"}, "the case that this is about"
    assert order(run) == order(alone)
    require_same_weights(run, alone)


def test_control_a_loader_that_begins_anew_is_seen(
    job: Job, alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same interruption, and an order that forgets the step: other ids, other weights."""
    real = TrainingBatches.from_step
    for is_broken in (False, True):
        run = Run(shutil.copytree(alone.path, tmp_path / f"run-{is_broken}"))
        shutil.copy(tmp_path / "alone.ids", run.path.with_suffix(".ids"))
        shutil.rmtree(run.checkpoints / "step-00000012")
        if is_broken:
            monkeypatch.setattr(TrainingBatches, "from_step", lambda self, _: real(self, 0))
        run_training(job.but(batch_size=4), run, World(), note=noting(run), every=3)
        assert (order(run) == order(alone)) is not is_broken
        if is_broken:
            with pytest.raises(AssertionError, match="not close"):
                require_same_weights(run, alone)
        else:
            require_same_weights(run, alone)
