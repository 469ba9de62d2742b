"""Turns in one process: what takes longer is seen to, and nothing global is left changed."""

import torch

from vitlet.evaluate.pace import one_thread, take_turns


def test_contenders_take_turns_and_the_slower_one_is_the_slower() -> None:
    order: list[str] = []

    def work(name: str, rounds: int) -> None:
        order.append(name)
        sum(i * i for i in range(rounds))

    found = take_turns({"short": lambda: work("short", 20_000), "long": lambda: work("long", 200_000)}, repeats=3)
    assert order == ["short", "long"] * 4
    assert found["long"].cpu_ms > 2 * found["short"].cpu_ms > 0


def test_threads_are_given_back() -> None:
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
