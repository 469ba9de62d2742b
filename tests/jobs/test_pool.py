"""A pool of processes: what a call answers, what signals do, and that nobody is left behind.

Every test with a real pool stands in this file, so that one process of pytest pays for the server.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from calls import fail, refuse, surroundings
from small_runs import QUIET

from forked import wait_until
from in_place import in_place
from vitlet.console import Teller
from vitlet.data.index import open_index
from vitlet.data.subsets import divide
from vitlet.errors import UsageError, WorkerError
from vitlet.jobs import arms as arms_module
from vitlet.jobs import side_by_side
from vitlet.jobs.arms import Start, Terms, frozen_grid
from vitlet.jobs.images import Labelled, judged
from vitlet.jobs.pool import processes
from vitlet.run import Run


def test_a_call_gives_its_result_or_its_error() -> None:
    with processes(1, threads=1) as pool:
        assert pool.free == 1
        pool.begin("a", sorted, [1, 2], reverse=True)
        assert pool.free == 0
        assert pool.ended(60) == {"a": [2, 1]}
        pool.begin("b", refuse)
        with pytest.raises(UsageError, match="planted"):
            pool.ended(60)
        pool.begin("c", fail)
        with pytest.raises(KeyError) as told:
            pool.ended(60)
        assert "calls.py" in told.value.__notes__[0], "where it happened there"
        pool.begin("d", os.kill, 0, 0)
        assert pool.ended(60) == {"d": None}, "the process goes on"
        pool.begin("e", signal.raise_signal, signal.SIGKILL)
        with pytest.raises(WorkerError, match="SIGKILL"):
            pool.ended(60)
        pool.begin("f", max, 1, 2)
        assert pool.ended(60) == {"f": 2}, "another takes its place"


def test_processes_probe_as_this_one_does(
    pretrained: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process, then here; the control is the count of probes, which hears of those here alone."""
    index, silent = open_index(data), Teller(quiet=True)
    verdicts = judged(index, QUIET, silent)
    images = Labelled(index, verdicts, *divide(index, verdicts.good))
    terms = [Terms(data=data, out=tmp_path, seeds=(0, 1, 2), num_labels=count, settings={}) for count in (8, 4)]
    starts = [Start("a", "A", pretrained.path), Start("random", "random weights", None)]
    probe, made_here = arms_module.probe_encoder, []

    def counted(*arguments: Any, **named: Any) -> Any:
        made_here.append(len(arguments[2]))
        return probe(*arguments, **named)

    monkeypatch.setattr(arms_module, "probe_encoder", counted)
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 1)  # one process is enough
    few = [(start, term) for term in terms for start in starts]
    there = frozen_grid(few, images, silent, protocols=["knn"])["knn"]
    assert made_here == []
    monkeypatch.setattr(side_by_side, "processes", in_place)
    here = frozen_grid(few, images, silent, protocols=["knn"])["knn"]
    assert sorted(made_here) == [4] * 6 + [8] * 6
    assert [(arm.name, arm.values) for arm in there] == [(arm.name, arm.values) for arm in here]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_processes_are_forked_from_one_server_with_the_variables_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is a process that did not begin as ours do: it has the variables of the server."""
    ours = []
    monkeypatch.setenv("RANK", "0")
    for value in ("first", "second"):
        monkeypatch.setenv("VITLET_PLANTED", value)
        with processes(1, threads=1) as pool:
            pool.begin("", surroundings)
            ours += pool.ended(60).values()
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        value, _, server, _ = pool.apply(surroundings)
    assert ours == [("first", None, server, True), ("second", None, server, True)]
    assert server != os.getpid()
    assert value != "second"


_ABOVE = """
import multiprocessing, os, signal, sys, time, types
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from vitlet.errors import StoppedError
from vitlet.jobs import pool
from vitlet.signals import listening

pool._IMPORTED = []
sys.modules["torch"] = types.SimpleNamespace(set_num_threads=lambda count: None)  # it takes seconds to load
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
place, kind = Path(sys.argv[1]), sys.argv[2]

def train():
    with listening() as flag:
        (place / "began").touch()
        while not flag.signal_number:
            time.sleep(0.05)
        time.sleep(0.5)
        (place / "saved").touch()
    raise StoppedError(flag.signal_number, step=1, run="here")
"""

_SIGNALLED = (
    _ABOVE
    + """
if __name__ == "__main__":
    if kind == "plain":
        pool.forkserver.ensure_running = lambda: None  # it starts with the first process then, unprotected
    with pool.processes(1, threads=1) as ours:
        ours.begin("", os.getppid)
        os.kill(ours.ended(60)[""], signal.SIGTERM)
        time.sleep(1)
        ours.begin("", signal.pthread_sigmask, signal.SIG_BLOCK, ())
        print(ours.ended(60)[""])
        ours.begin("", time.sleep, 2)
        print(ours._every[0].handle.exitcode)
"""
)


def ran(script: str, kind: str, *, place: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    (place / "script.py").write_text(script)
    command = [sys.executable, place / "script.py", place, kind]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


@pytest.mark.skipif(sys.platform != "linux", reason="there is a server on Linux alone")
@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_a_signal_to_all_processes_passes_by_the_server_and_reaches_its_children(tmp_path: Path, kind: str) -> None:
    """The control is a server that starts as multiprocessing starts it: it is gone, and its child counts as dead."""
    done = ran(_SIGNALLED, kind, place=tmp_path, cwd=tmp_path)
    assert done.stdout.splitlines() == ["set()", "None" if kind == "ours" else "255"], done.stderr


_SHADOWED = (
    _ABOVE
    + """
if __name__ == "__main__":
    pool._IMPORTED = ["statistics"]
    if kind == "plain":
        multiprocessing.get_context("forkserver").set_forkserver_preload(["statistics"])
        pool._starting = lambda: multiprocessing.get_context("forkserver")
    with pool.processes(1, threads=1) as ours:
        ours.begin("", max, 1, 2)
        print(ours.ended(60)[""])
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="there is a server on Linux alone")
@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_the_server_takes_no_module_from_the_current_folder(tmp_path: Path, kind: str) -> None:
    """It may be a folder of images from others. The control is a server that starts as multiprocessing starts it."""
    planted = tmp_path / "images"
    planted.mkdir()
    (planted / "statistics.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    done = ran(_SHADOWED, kind, place=tmp_path, cwd=planted)
    assert done.stdout == "2\n", done.stderr
    assert (tmp_path / "ran").exists() is (kind == "plain")


_STOPPED = (
    _ABOVE
    + """
if __name__ == "__main__":
    with pool.processes(2, threads=1) as ours:
        ours.begin("idle", time.sleep, 0.5)
        ours.begin("train", train)
        while True:
            ours.ended(0.5)
"""
)
_HANGS = (
    _ABOVE
    + """
if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as theirs:
        theirs.submit(time.sleep, 0.5)
        job = theirs.submit(train)
        try:
            while True:
                wait([job], timeout=0.5)
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
"""
)
_SIGNALS = {
    "SIGTERM to the parent": lambda parent: parent.terminate(),
    "SIGTERM to all": lambda parent: os.killpg(parent.pid, signal.SIGTERM),
    "SIGUSR1 to all": lambda parent: os.killpg(parent.pid, signal.SIGUSR1),
    "Ctrl-C": lambda parent: os.killpg(parent.pid, signal.SIGINT),
    "SIGINT to the parent": lambda parent: parent.send_signal(signal.SIGINT),
    "the parent is killed": lambda parent: parent.kill(),
}


@pytest.mark.parametrize("how", _SIGNALS)
def test_a_training_saves_and_nobody_is_left(how: str, tmp_path: Path) -> None:
    assert _left(_STOPPED, how, tmp_path, seconds=60) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the control is of a server")
def test_the_executor_of_the_standard_library_would_wait_for_ever(tmp_path: Path) -> None:
    """The control of the test above."""
    assert _left(_HANGS, "SIGINT to the parent", tmp_path, seconds=3)


def _left(script: str, how: str, place: Path, *, seconds: float) -> list[psutil.Process]:
    """The processes that still run some time after the training has saved, on which the signal makes it stop."""
    (place / "script.py").write_text(script)
    command = [sys.executable, place / "script.py", place, "ours"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as parent:
        everyone = [psutil.Process(parent.pid)]
        try:
            wait_until((place / "began").exists)
            time.sleep(1.5)  # the other one is idle by then
            everyone += everyone[0].children(recursive=True)
            _SIGNALS[how](parent)
            wait_until((place / "saved").exists)
            deadline = time.monotonic() + seconds
            while (left := [process for process in everyone if _runs(process)]) and time.monotonic() < deadline:
                time.sleep(0.1)
            return left
        finally:
            for process in everyone:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def _runs(process: psutil.Process) -> bool:
    """A zombie has ended; nobody may be there to hear of it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
