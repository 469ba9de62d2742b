"""Trainings side by side: nothing is made twice or taken for something else, and no process is left behind."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from calls import write_and_stay, write_late
from small_runs import stands, write_images

from in_place import in_place
from vitlet.console import Teller
from vitlet.errors import UsageError, WorkerError
from vitlet.host import available_cores
from vitlet.jobs import side_by_side
from vitlet.jobs.options import Options
from vitlet.jobs.side_by_side import (
    Training,
    meanwhile,
    pretrain_side_by_side,
    results_side_by_side,
    train_side_by_side,
)
from vitlet.run import Run

SILENT = Teller(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", train=16, test=8)


def pretrain(data: Path, *places: Path, **changes: Any) -> None:
    steps = {"unit": "steps", "n": 1}
    short = {"budget.duration": steps, "budget.batch_size": 8, "optimizer.warmup": steps | {"n": 0}}
    settings = short | changes
    recipes = {place: ("debug", settings | {"budget.seed": i}) for i, place in enumerate(places)}
    pretrain_side_by_side(recipes, data=data, num_images=16, options=Options(), teller=SILENT)


def test_a_finished_run_is_kept_and_one_of_other_values_is_not_taken_for_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "processes", in_place)
    first, second = tmp_path / "first", tmp_path / "second"
    pretrain(data, first)
    before = stands(first)
    pretrain(data, first, second)
    assert stands(first) == before
    assert [Run(place).recipe_json()["budget"]["seed"] for place in (first, second)] == [0, 1]
    with pytest.raises(UsageError, match=r"optimizer\.base_lr"):
        pretrain(data, first, second, **{"optimizer.base_lr": 0.5})
    finished = Training(Run(first), 1, pytest.fail, ("made again",))
    train_side_by_side([finished], title="", options=Options(), teller=SILENT)  # alone, it does not look at the values


def test_a_process_that_ends_without_a_result_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="__main__"):
        train_side_by_side([Training(Run(tmp_path), 1, os._exit, (0,))], title="", options=Options(), teller=SILENT)


def test_a_process_of_several_takes_its_share_of_the_cores() -> None:
    """And results come in the order of the calls. The control is this process, which takes them all."""
    calls = [(available_cores,), (max, 1, 2), (available_cores,)]
    shares = results_side_by_side(calls, options=Options(device="cpu"), watch=(done := []).append)
    assert shares == [max(1, available_cores() // min(3, available_cores())), 2, shares[0]]
    assert done[-1] == 3
    assert Options().num_workers(image_size=224) == min(16, max(1, available_cores() - 1))


def test_a_call_waits_for_the_one_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control does not wait."""
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 2)
    how = {"options": Options(device="cpu"), "watch": lambda _: None}
    for name, after in (("waits", {0: [1]}), ("does not", {})):
        file = tmp_path / name
        calls = [(Path.read_text, file), (write_late, file)]
        with contextlib.nullcontext() if after else pytest.raises(FileNotFoundError):
            assert results_side_by_side(calls, after=after, **how) == ["", None]


def test_a_student_waits_for_its_teacher(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(side_by_side, "processes", in_place)
    monkeypatch.setattr(side_by_side, "_pretrain_one", lambda name, *_: made.append(name))
    student, other, teacher = (tmp_path / name for name in ("student", "other", "teacher"))
    recipes = {
        student: ("dmae_micro", {"objective.teacher": str(teacher)}),
        other: ("mae_micro", {}),
        teacher: ("mae_micro_wide", {}),
    }
    pretrain_side_by_side(recipes, data=data, num_images=5_000, options=Options(), teller=SILENT)
    assert made == ["mae_micro", "mae_micro_wide", "dmae_micro"]


def test_a_run_that_is_listed_twice_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "processes", in_place)
    made: list[str] = []
    trainings = [Training(Run(tmp_path / name), 1, made.append, (name,)) for name in ("a", "b", "a")]
    train_side_by_side(trainings, title="", options=Options(), teller=SILENT)
    assert sorted(made) == ["a", "b"]


@pytest.mark.parametrize(("cores", "made"), [(2, ["a", "b"]), (1, [])])
def test_meanwhile_trains_beside_the_block_where_a_core_is_left(
    cores: int, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "processes", in_place)
    monkeypatch.setattr(side_by_side, "available_cores", lambda: cores)
    found: list[str] = []
    trainings = [Training(Run(tmp_path / name), 1, found.append, (name,)) for name in ("a", "b")]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with meanwhile(trainings, options=Options()):
            assert (found, torch.get_num_threads()) == (made, 1 if cores == 2 else 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("fails", [True, False])
def test_the_end_of_the_block_ends_what_runs_beside_it(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error at once, otherwise with the run under way; what has not begun is left."""
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 2)
    files = [tmp_path / name for name in ("first", "second", "third")]
    trainings = [Training(Run(file), 1, write_and_stay, (file, 300 if fails else 3)) for file in files]
    began = time.monotonic()
    with pytest.raises(KeyError) if fails else contextlib.nullcontext(), meanwhile(trainings, options=Options()):
        while not files[0].exists():
            time.sleep(0.1)
        if fails:
            raise KeyError
    assert time.monotonic() - began < 60
    assert [file.exists() for file in files] == [True, False, False]


def test_after_a_process_is_lost_the_others_finish_and_none_begins(tmp_path: Path) -> None:
    calls = [(os._exit, 0), (write_late, tmp_path / "beside"), (write_and_stay, tmp_path / "later", 0)]
    with pytest.raises(WorkerError, match="exit status 0"):
        results_side_by_side(calls, options=Options(device="cpu"), watch=lambda _: None)
    assert (tmp_path / "beside").exists() is (available_cores() > 1)
    assert not (tmp_path / "later").exists()
