"""One run, one writer; and no lock outlives its owner."""

import contextlib
import os
import platform
import signal
from pathlib import Path

import pytest
from harness import Job, Page, children_of, hold_at, kill_when

from forked import wait
from vitlet.data import loader
from vitlet.distributed.members import Member
from vitlet.errors import UsageError
from vitlet.run import Run
from vitlet.train import checkpoint


def test_the_second_writer_is_refused_at_once_with_the_name_of_the_first(job: Job, tmp_path: Path) -> None:
    run, first, second = Run(tmp_path / "run"), Page(), Page()
    pid = job.but(at_step=hold_at(0, first)).fork(run, first)
    assert kill_when(pid, lambda: first["step"] >= 0, 0)
    assert job.finish(run, second) == UsageError.exit_code == 2, "at once: the first waits until this test goes on"
    assert second["step"] == -1
    message = (tmp_path / "error.txt").read_text()
    assert f"is being written by process {pid} on {os.uname().nodename}" in message
    assert str(run.path) in message
    os.kill(pid, signal.SIGTERM)
    first["released"] = 1
    assert wait(pid) == 143


def test_a_killed_writer_leaves_no_lock_though_its_workers_live_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As workers do where no kernel ends them with their parent, until torch looks for it: here it never finds out.

    It looks after five seconds without work, and after each batch: a worker that makes one may not end then either.
    """
    monkeypatch.setattr(loader, "end_with_parent", lambda _: None)
    monkeypatch.setattr("torch.utils.data._utils.worker.ManagerWatchdog.is_alive", lambda _: True)
    run, page = Run(tmp_path / "run"), Page()
    pid = job.but(workers=2, at_step=hold_at(4, page)).fork(run, page)
    try:
        assert kill_when(pid, lambda: page["step"] >= 4, 0)
        workers = [Member(platform.node(), worker) for worker in children_of(pid)]
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL
        assert job.finish(run, page) == 0, (tmp_path / "error.txt").read_text()
        assert [worker.state() for worker in workers] == ["", ""], "they live"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    assert page["start"] == 3
    assert checkpoint.folders(run)[0].name == "step-00000012"


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
