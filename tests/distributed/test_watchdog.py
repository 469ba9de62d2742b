"""The kernel kills a process that was stopped for too long, and no other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forked import fork, wait
from vitlet.distributed import watchdog
from vitlet.distributed.watchdog import Watchdog
from vitlet.errors import ResourceError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the timers are Linux'")

SECONDS = 1.5
"""Longer than a process on a busy machine misses a turn."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_KICK_SECONDS", 0.1)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def is_alive(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == 0


def test_a_stopped_process_is_killed(tmp_path: Path) -> None:
    def watched() -> None:
        Watchdog(SECONDS)
        stop()

    others: dict[str, Callable[[], object]] = {
        "unwatched": stop,
        "no longer watched": lambda: (Watchdog(SECONDS).end(), stop()),
    }
    left = [fork(body, error_file=tmp_path / "error.txt") for body in others.values()]
    assert wait(fork(watched, error_file=tmp_path / "error.txt")) == -signal.SIGKILL
    time.sleep(SECONDS)
    assert [is_alive(pid) for pid in left] == [True, True], "the control: stopped before, and not watched"
    for pid in left:
        os.kill(pid, signal.SIGCONT)
        assert wait(pid) == 0, (tmp_path / "error.txt").read_text()


@pytest.mark.parametrize("is_kicked", [True, False], ids=["as it is", "control: nobody kicks it"])
def test_a_process_that_runs_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kicked: bool) -> None:
    if not is_kicked:
        monkeypatch.setattr(watchdog, "_KICK_SECONDS", 100)

    def works() -> None:
        Watchdog(SECONDS)
        until = time.monotonic() + 2 * SECONDS
        while time.monotonic() < until:
            sum(range(1_000))

    assert wait(fork(works, error_file=tmp_path / "error.txt")) == (0 if is_kicked else -signal.SIGKILL)


def test_what_it_forks_may_be_stopped(tmp_path: Path) -> None:
    """As the workers of its loader are, if somebody likes."""
    page = tmp_path / "pid"

    def watched() -> None:
        Watchdog(SECONDS)
        child = fork(stop, error_file=tmp_path / "error.txt")
        page.write_text(str(child))
        time.sleep(2 * SECONDS)
        assert is_alive(child)
        os.kill(child, signal.SIGCONT)
        assert wait(child) == 0

    assert wait(fork(watched, error_file=tmp_path / "error.txt")) == 0, (tmp_path / "error.txt").read_text()


def test_a_kernel_without_timers_is_told() -> None:
    """None is left under a limit of no pending signals."""
    program = "import resource; resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))\n"
    program += "from vitlet.distributed.watchdog import Watchdog; Watchdog(1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ResourceError.__name__ in done.stderr
    assert "no timer for the watchdog" in done.stderr
