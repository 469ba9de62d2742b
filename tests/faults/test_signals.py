"""SIGTERM, SIGINT and SIGUSR1: the step is finished and saved, nothing is lost, and the second Ctrl-C does not wait."""

import os
import signal
import time
from pathlib import Path

import pytest
from harness import Job, Page, children_of, digest, kill_when, leftovers, rows_without_timing

from forked import BROKEN, wait
from vitlet.data import loader
from vitlet.errors import WorkerError
from vitlet.run import Run
from vitlet.signals import SIGNALS
from vitlet.train import checkpoint

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}


@pytest.fixture(scope="module")
def reference(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nobody disturbed."""
    run = Run(tmp_path_factory.mktemp("reference") / "run")
    assert job.finish(run, Page()) == 0
    return run


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("step", [0, 4, 8])
def test_the_step_is_finished_and_saved(
    job: Job, reference: Run, tmp_path: Path, number: signal.Signals, step: int
) -> None:
    run, page = Run(tmp_path / "run"), Page()
    pid = job.but(step_seconds=0.02).fork(run, page)
    assert kill_when(pid, lambda: page["step"] >= step, number)
    assert wait(pid) == STATUS[number]
    last = page["step"] + 1
    assert checkpoint.folders(run)[0].name == checkpoint.folder_name(last)
    assert f"after step {last}" in (tmp_path / "error.txt").read_text()
    assert job.finish(run, page) == 0
    assert page["start"] == last
    assert digest(run, job.total) == digest(reference, job.total)
    assert rows_without_timing(run) == rows_without_timing(reference)


def test_a_signal_while_saving_is_heard_after_it(job: Job, reference: Run, tmp_path: Path) -> None:
    run, page = Run(tmp_path / "run"), Page()
    pid = job.fork(run, page)
    assert kill_when(pid, lambda: page["saving"] == 1 and page["calls"] > 3, signal.SIGTERM)
    assert wait(pid) == 143
    assert leftovers(run) == []
    assert job.finish(run, page) == 0
    assert digest(run, job.total) == digest(reference, job.total)


def test_the_second_control_c_stops_at_once(job: Job, tmp_path: Path) -> None:
    run, page = Run(tmp_path / "run"), Page()
    pid = job.but(step_seconds=3.0).fork(run, page)
    assert kill_when(pid, lambda: page["step"] >= 0, signal.SIGINT)
    time.sleep(0.5)  # two that come before the first is looked at are one to the kernel
    began = time.monotonic()
    os.kill(pid, signal.SIGINT)
    assert wait(pid) == BROKEN
    assert time.monotonic() - began < 2.0
    assert (tmp_path / "error.txt").read_text().endswith("KeyboardInterrupt\n")
    assert job.finish(run, page) == 0  # no file was harmed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_outlive_a_signal_to_the_whole_group(
    job: Job, reference: Run, tmp_path: Path, number: signal.Signals
) -> None:
    run, page = Run(tmp_path / "run"), Page()
    pid = job.but(workers=2, step_seconds=0.05).fork(run, page)
    assert kill_when(pid, lambda: page["step"] >= 2, 0)
    os.killpg(pid, number)
    assert wait(pid) == STATUS[number], (tmp_path / "error.txt").read_text()
    assert nobody_is_left(pid)
    assert job.but(workers=1).finish(run, page) == 0
    assert digest(run, job.total) == digest(reference, job.total)


@pytest.mark.parametrize("quiet", [True, False], ids=["as it is", "control: workers that hear it"])
def test_workers_that_get_the_signal_first(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    """Who of a group gets a signal first is chance; here the workers get it some steps before the main process."""
    if not quiet:
        monkeypatch.setattr(loader, "_quiet_worker", lambda _: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    run, page = Run(tmp_path / "run"), Page()
    pid = job.but(workers=2, step_seconds=0.05).fork(run, page)
    assert kill_when(pid, lambda: page["step"] >= 2, 0)
    for worker in children_of(pid):
        os.kill(worker, signal.SIGTERM)
    heard_at = page["step"]
    kill_when(pid, lambda: page["step"] >= heard_at + 3, signal.SIGTERM)
    assert wait(pid) == (143 if quiet else WorkerError.exit_code)


def nobody_is_left(group: int) -> bool:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False
