"""Forked children and ranks: they find everything imported, which a new process pays seconds for. Not a test itself."""

import os
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vitlet.distributed.world import World
from vitlet.errors import StoppedError, VitletError

BROKEN = 99


def fork(body: Callable[[], object], *, error_file: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests; the child uses none
        pid = os.fork()
    if pid:
        return pid
    status = BROKEN
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        body()
        status = 0
    except StoppedError as error:
        error_file.write_text(str(error))
        status = error.exit_status
    except VitletError as error:
        error_file.write_text(str(error))
        status = error.exit_code
    except BaseException:
        error_file.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def wait(pid: int, *, seconds: float = 60.0) -> int:
    """Exit status of a child, negative for the signal that killed it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the child did not end within {seconds} s")


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait for something that other processes do; the time is only so long that no test hangs."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"it did not come within {seconds} s"
        time.sleep(0.002)


def start_ranks(body: Callable[[], object], folder: Path, *, size: int = 2) -> list[int]:
    """Fork `size` processes that find each other on gloo as under torchrun; see `errors`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def of(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        body()

    return [fork(partial(of, rank), error_file=folder / f"error-{rank}.txt") for rank in range(size)]


def on_ranks(body: Callable[[], object], folder: Path, *, size: int = 2) -> None:
    """Run `body` on ranks, which all have to end well."""
    codes = [wait(pid) for pid in start_ranks(body, folder, size=size)]
    assert codes == [0] * size, errors(folder)


def results_of_ranks(body: Callable[[int], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `body` returns on each of two ranks, tensors by name."""

    def kept() -> None:
        with World.joined() as world:
            torch.save(body(world.rank), folder / f"rank-{world.rank}.pt")

    on_ranks(kept, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def errors(folder: Path) -> str:
    """What the ranks said that did not end well."""
    return "\n".join(p.read_text() for p in sorted(folder.glob("error-*.txt")))
