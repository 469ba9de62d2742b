"""SIGTERM, SIGINT and SIGUSR1: the step is finished and saved, nothing is lost, and the second Ctrl-C does not wait."""

import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import (
    Job,
    Page,
    children_of,
    digest,
    hold_at,
    kill_when,
    leftovers,
    rows_without_timing,
    signal_at,
)

from forked import BROKEN, wait, wait_until
from vitlet.data import loader
from vitlet.distributed.members import Member
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
    assert job.but(at_step=signal_at(step, number)).finish(run, page) == STATUS[number]
    last = step + 1
    assert checkpoint.folders(run)[0].name == checkpoint.folder_name(last)
    assert f"after step {last}" in (tmp_path / "error.txt").read_text()
    assert job.finish(run, page) == 0
    assert page["start"] == last
    assert digest(run, job.total) == digest(reference, job.total)
    assert rows_without_timing(run) == rows_without_timing(reference)


def test_a_signal_while_saving_is_heard_after_it(job: Job, reference: Run, tmp_path: Path) -> None:
    run, page = Run(tmp_path / "run"), Page()

    def interrupted(name: str, call: Callable, *args: object, **kwargs: object) -> object:
        if page["saving"] == 1 and page["calls"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(*args, **kwargs)

    assert wait(job.fork(run, page, wrapper=interrupted)) == 143
    assert page["calls"] > 5
    assert leftovers(run) == []
    assert job.finish(run, page) == 0
    assert digest(run, job.total) == digest(reference, job.total)


def test_the_second_control_c_stops_at_once(job: Job, tmp_path: Path) -> None:
    run, page = Run(tmp_path / "run"), Page()

    def twice(step: int) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        page["reached"] = step

    assert job.but(at_step=twice).finish(run, page) == BROKEN
    assert (page["step"], page["reached"]) == (0, -1)
    assert (tmp_path / "error.txt").read_text().endswith("KeyboardInterrupt\n")
    assert job.finish(run, page) == 0  # no file was harmed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_outlive_a_signal_to_the_whole_group(
    job: Job, reference: Run, tmp_path: Path, number: signal.Signals
) -> None:
    run, page = Run(tmp_path / "run"), Page()
    pid = job.but(workers=2, at_step=signal_at(2, number, group=True)).fork(run, page)
    assert wait(pid) == STATUS[number], (tmp_path / "error.txt").read_text()
    wait_until(lambda: is_empty(pid))
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
    held, signalled = hold_at(2, page), signal_at(5, signal.SIGTERM)
    pid = job.but(workers=2, at_step=lambda step: (held(step), signalled(step))).fork(run, page)
    assert kill_when(pid, lambda: page["step"] >= 2, 0)
    workers = [Member(platform.node(), worker) for worker in children_of(pid)]
    for worker in workers:
        os.kill(worker.process, signal.SIGTERM)
    if not quiet:
        wait_until(lambda: [worker.state() for worker in workers] == ["is gone"] * 2)
    page["released"] = 1
    assert wait(pid) == (143 if quiet else WorkerError.exit_code)


def is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
