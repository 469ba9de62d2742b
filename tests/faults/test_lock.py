"""One run, one writer; and no lock outlives its owner."""

import os
import signal
import time
from pathlib import Path

from harness import Job, Page, kill_when

from forked import wait
from vitlet.errors import UsageError
from vitlet.run import Run
from vitlet.train import checkpoint


def test_the_second_writer_is_refused_at_once_with_the_name_of_the_first(job: Job, tmp_path: Path) -> None:
    run, first, second = Run(tmp_path / "run"), Page(), Page()
    pid = job.but(step_seconds=0.2).fork(run, first)
    assert kill_when(pid, lambda: first["step"] >= 0, 0)
    began = time.monotonic()
    assert job.finish(run, second) == UsageError.exit_code == 2
    assert time.monotonic() - began < 2.0
    assert second["step"] == -1
    message = (tmp_path / "error.txt").read_text()
    assert f"is being written by process {pid} on {os.uname().nodename}" in message
    assert str(run.path) in message
    os.kill(pid, signal.SIGTERM)
    assert wait(pid) == 143


def test_a_killed_writer_leaves_no_lock_though_its_workers_live_on(job: Job, tmp_path: Path) -> None:
    run, page = Run(tmp_path / "run"), Page()
    pid = job.but(workers=2, step_seconds=0.05).fork(run, page)
    assert kill_when(pid, lambda: page["step"] >= 4)
    assert wait(pid) == -signal.SIGKILL
    os.killpg(pid, 0)  # the workers notice only after seconds
    assert job.finish(run, page) == 0, (tmp_path / "error.txt").read_text()
    assert page["start"] == 3
    assert checkpoint.folders(run)[0].name == "step-00000012"
    os.killpg(pid, signal.SIGKILL)


def test_the_owner_sweeps_what_killed_writers_left(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for folder in (run.path, run.checkpoints, run.results, run.analysis):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".tmp-7-half.json").write_text("{")
        (folder / ".del-7-old").mkdir()
        (folder / ".del-7-old" / "file").write_text("old")
        (folder / "kept.json").write_text("{}")
    with run.lock():
        names = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file())
    assert names == [".lock", "analysis/kept.json", "checkpoints/kept.json", "kept.json", "results/kept.json"]
