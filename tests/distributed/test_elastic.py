"""torchrun itself starts, restarts and starts again with fewer ranks: the run is that of one that never stopped."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Job
from ranked import noting, order, require_same_weights, run_training

from vitlet.data.loader import TrainingBatches
from vitlet.distributed.world import World
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
