"""A rank is lost: a process that cannot leave its exchange is ended, and one that can says why before it ends."""

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from ranked import start_world

from forked import errors, wait, wait_until
from vitlet.distributed import heartbeat
from vitlet.distributed.world import World
from vitlet.signals import listening

GRACE_SECONDS = 0.5


def known_loss(world: World) -> None:
    """Return once the heartbeat has missed a rank."""
    wait_until(lambda: world._heartbeat._lost)


def lose_the_second(world: World, said: Path) -> None:
    """End rank 1; let rank 0 say what it has to say in a file."""
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stderr = said.open("w")


@pytest.mark.parametrize("is_guarded", [True, False], ids=["as it is", "control: nobody guards the exchange"])
def test_a_rank_that_is_stuck_in_an_exchange_ends_and_names_the_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_guarded: bool
) -> None:
    """As in a collective of NCCL, which waits for a lost rank and hears of nothing."""
    monkeypatch.setattr(heartbeat, "_GRACE_SECONDS", GRACE_SECONDS if is_guarded else 1_000)
    said, known = tmp_path / "said", tmp_path / "known"

    def body(world: World) -> None:
        lose_the_second(world, said)
        with world.exchange():
            known_loss(world)
            known.touch()
            threading.Event().wait()

    first, second = start_world(body, tmp_path)
    assert wait(second) == -signal.SIGKILL
    if is_guarded:
        assert wait(first) == 7, errors(tmp_path)
        assert said.read_text().startswith(f"error: rank 1 is gone (process {second}) (seen by rank 0 on ")
    else:
        wait_until(known.exists)
        time.sleep(4 * GRACE_SECONDS)
        assert os.waitpid(first, os.WNOHANG)[0] == 0
        os.kill(first, signal.SIGKILL)
        wait(first)


def test_a_rank_that_works_outside_an_exchange_goes_on_until_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_GRACE_SECONDS", GRACE_SECONDS)
    said = tmp_path / "said"

    def body(world: World) -> None:
        world.barrier()
        lose_the_second(world, said)
        known_loss(world)
        time.sleep(4 * GRACE_SECONDS)
        (tmp_path / "worked").touch()
        with world.exchange():
            raise AssertionError("it does not begin")

    first, second = start_world(body, tmp_path)
    assert wait(first) == 7, errors(tmp_path)
    assert (tmp_path / "worked").exists()
    assert f"rank 1 is gone (process {second})" in errors(tmp_path)
    assert not said.read_text(), "the error is told by who catches it"
    wait(second)


@pytest.mark.parametrize("is_patient", [True, False], ids=["as it is", "control: torchrun's signal ends it"])
def test_torchruns_signal_does_not_come_before_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_patient: bool
) -> None:
    """It comes a tenth of a second after the loss, when a training no longer listens for it."""
    if not is_patient:
        monkeypatch.setattr("vitlet.distributed.world.outlive_termination", lambda: None)

    def body(world: World) -> None:
        lose_the_second(world, tmp_path / "said")
        try:
            with listening():
                world.mean(torch.ones(1))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    first, second = start_world(body, tmp_path)
    assert wait(second) == -signal.SIGKILL
    assert wait(first) == (7 if is_patient else -signal.SIGTERM)
    assert ("rank 1 is gone" in errors(tmp_path)) is is_patient


@pytest.mark.parametrize("is_closed", [True, False], ids=["as it is", "control: connections stay open"])
def test_a_loss_is_known_to_all_before_anyone_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    """Else it would go from neighbour to neighbour, as fast as processes end."""
    if not is_closed:
        monkeypatch.setattr(heartbeat.dist, "destroy_process_group", lambda _: None)

    def body(world: World) -> None:
        if world.rank == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        known_loss(world)
        (tmp_path / f"known-{world.rank}").touch()
        threading.Event().wait()

    pids = start_world(body, tmp_path, size=4)
    try:
        if is_closed:
            wait_until(lambda: len(list(tmp_path.glob("known-*"))) == 3)
        else:
            wait_until(lambda: list(tmp_path.glob("known-*")))
            time.sleep(2)
            assert len(list(tmp_path.glob("known-*"))) < 3
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            wait(pid)


def test_what_is_frozen_is_killed_after_the_others_could_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone within ten seconds after the timeout, by the figures."""
    asked = []
    monkeypatch.setattr(heartbeat, "Watchdog", asked.append)
    monkeypatch.setattr(heartbeat.Heartbeat, "_beat", lambda _: None)
    heartbeat.Heartbeat(None, timeout=timedelta(seconds=300))
    assert asked == [300 + heartbeat._GRACE_SECONDS]
    assert 2 * heartbeat._SECONDS < heartbeat._GRACE_SECONDS <= 8
