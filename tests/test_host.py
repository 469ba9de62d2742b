"""What a process may use of its host."""

import os

import pytest

from vitlet.host import available_cores, ranks_here


def test_cores_are_those_that_the_process_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize(("given", "count"), [(None, 1), ("", 1), ("1", 1), ("8", 8), ("0", 1), ("many", 1), ("-2", 1)])
def test_ranks_are_counted_as_torchrun_says(monkeypatch: pytest.MonkeyPatch, given: str | None, count: int) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if given is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", given)
    assert ranks_here() == count
