"""The name of an attempt: one for all its ranks, whatever earlier attempts left in the store and hosts count."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
from ranked import start_world

from forked import errors, wait
from vitlet.distributed import world as module
from vitlet.distributed.meeting import meet
from vitlet.distributed.world import TIMEOUT_VARIABLE, World

LATE = [(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.1, 0.3), (0.2, 0.1, 0.0)]
"""By how many seconds each rank comes late, in each attempt."""


def test_every_attempt_in_one_store_has_a_name_of_its_own():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))

    def come(rank: int, late: float) -> str:
        time.sleep(late)
        client = dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=20))
        return meet(client, rank=rank, size=3, seconds=20)

    names: list[str] = []
    for late in LATE:
        with ThreadPoolExecutor(3) as ranks:
            (name,) = set(ranks.map(come, range(3), late))
        names.append(name)
    assert len(set(names)) == len(LATE)


def test_a_rank_that_does_not_come_is_given_up():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=0.5))
    with pytest.raises(RuntimeError):
        meet(store, rank=0, size=2, seconds=0.5)
    with pytest.raises(RuntimeError):
        meet(store, rank=1, size=2, seconds=0.5)


def by_count(store: dist.Store, *, rank: int, size: int, seconds: float) -> str:
    return f"{os.environ['TORCHELASTIC_RESTART_COUNT']}/{size}"


@pytest.mark.parametrize("rule", [meet, by_count], ids=["as it is", "control: by the count of restarts"])
def test_hosts_that_count_restarts_differently_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Callable[..., str]
):
    """As after the loss of a worker on one of two hosts: the other host's agent has restarted nothing."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, "2" if rule is by_count else "60")
    monkeypatch.setattr(module, "meet", rule)
    join = World.join

    def joined(*words: object) -> World:
        os.environ["TORCHELASTIC_RESTART_COUNT"] = os.environ["RANK"]
        return join(*words)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(World, "join", joined)
    codes = [wait(pid) for pid in start_world(lambda world: world.barrier(), tmp_path)]
    assert codes == ([7, 7] if rule is by_count else [0, 0]), errors(tmp_path)


def test_an_attempt_knows_that_there_was_one_before(tmp_path: Path):
    """By the store that torchrun's agent keeps, whose count of restarts may not have moved."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))

    def attempt(number: int) -> list[int]:
        def body(_: World) -> None:
            assert module.is_restart() is (number > 1)

        def rendezvous(*_: object, **__: object) -> object:
            client = dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=20))
            yield client, int(os.environ["RANK"]), 2

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "rendezvous", rendezvous)
            return [wait(pid) for pid in start_world(lambda world: body(world) if world.is_first else None, tmp_path)]

    assert attempt(1) == [0, 0], errors(tmp_path)
    assert attempt(2) == [0, 0], errors(tmp_path)
