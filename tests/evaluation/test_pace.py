"""Turns in one process: what takes longer is seen to, and nothing global is left changed."""

import time

import pytest
import torch

from vitlet.evaluation.pace import Pace, one_thread, take_turns


def test_contenders_take_turns_and_the_first_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    now = 0.0
    seconds = {"short": iter((9.0, 0.25, 0.5, 0.75)), "long": iter((9.0, 2.0, 2.0, 2.0))}

    def work(name: str) -> None:
        nonlocal now
        order.append(name)
        now += next(seconds[name])

    monkeypatch.setattr(time, "process_time", lambda: now)
    found = take_turns({"short": lambda: work("short"), "long": lambda: work("long")}, repeats=3)
    assert order == ["short", "long"] * 4
    assert found == {"short": Pace(cpu_ms=500.0, spread=1.0), "long": Pace(cpu_ms=2000.0, spread=0.0)}


def test_threads_are_given_back() -> None:
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
