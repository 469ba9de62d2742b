"""Trainings side by side: nothing is made twice or taken for something else, and no process is left behind."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from small_runs import stands, write_images

from in_place import in_place
from vitlet.errors import UsageError, WorkerError
from vitlet.host import available_cores
from vitlet.jobs import side_by_side
from vitlet.jobs.options import Options
from vitlet.jobs.pool import processes
from vitlet.jobs.side_by_side import (
    Training,
    meanwhile,
    pretrain_side_by_side,
    results_side_by_side,
    train_side_by_side,
)
from vitlet.run import Run
from vitlet.train.log import Teller

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
    """The control does not wait. Threads stand for processes, which pay seconds to start."""
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 2)
    monkeypatch.setattr(side_by_side, "processes", lambda count, **_: ThreadPoolExecutor(count))
    how = {"options": Options(device="cpu"), "watch": lambda _: None}
    for name, after in (("waits", {0: 1}), ("does not", {})):
        file = tmp_path / name
        written = (
            subprocess.check_call,
            [sys.executable, "-c", f"import time; time.sleep(2); open({str(file)!r}, 'w')"],
        )
        calls = [(Path.read_text, file), written]
        with contextlib.nullcontext() if after else pytest.raises(FileNotFoundError):
            assert results_side_by_side(calls, after=after, **how) == ["", 0]


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


def test_an_error_in_the_block_ends_what_runs_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 2)
    began = time.monotonic()
    with pytest.raises(KeyError):
        _fail_beside(Training(Run(tmp_path), 1, time.sleep, (300,)))
    assert time.monotonic() - began < 60


def _fail_beside(training: Training) -> None:
    with meanwhile([training], options=Options()):
        time.sleep(4)  # it has begun by then
        raise KeyError


def test_processes_are_forked_from_one_server_with_the_variables_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is a process that did not begin as ours do: it has the variables of the server."""

    ours = []
    for value in ("first", "second"):
        monkeypatch.setenv("VITLET_PLANTED", value)
        with processes(1, threads=1) as pool:
            ours.append(pool.submit(_surroundings).result())
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        value, server, _ = pool.submit(_surroundings).result()
    assert ours == [("first", server, True), ("second", server, True)]
    assert server != os.getpid()
    assert value != "second"


def _surroundings() -> tuple[str | None, int, bool]:
    return os.environ.get("VITLET_PLANTED"), os.getppid(), "vitlet.evaluate.logistic" in sys.modules


_SIGNALLED = """
import os, signal, sys, time

if __name__ == "__main__":
    from vitlet.jobs import pool
    pool._IMPORTED = []
    if sys.argv[1] == "plain":
        pool.forkserver.ensure_running = lambda: None  # it starts with the first process then, unprotected
    with pool.processes(1, threads=1) as pool:
        os.kill(pool.submit(os.getppid).result(), signal.SIGTERM)
        time.sleep(1)
        assert pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result() == set()
        print(pool.submit(max, 1, 2).result())
"""


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_a_signal_to_all_processes_passes_by_the_server_and_reaches_its_children(tmp_path: Path, kind: str) -> None:
    """The control is a server that starts as multiprocessing starts it: with it its children count as dead."""
    (tmp_path / "script.py").write_text(_SIGNALLED)
    done = subprocess.run([sys.executable, tmp_path / "script.py", kind], capture_output=True, text=True, timeout=120)
    assert (done.stdout == "2\n") is (kind == "ours"), done.stderr


_PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    if sys.argv[1] == "ours":
        from vitlet.jobs import pool
        pool._IMPORTED = []
        pool = pool.processes(1, threads=1)
    else:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver"))
    with pool as pool:
        print(pool.submit(os.getpid).result(), pool.submit(os.getppid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


@pytest.mark.parametrize(("kind", "ends"), [("ours", True), ("plain", False)])
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path, kind: str, ends: bool) -> None:
    """Nor does the server they are forked from. The plain pool is the control: its worker finishes what it has."""
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    parent = subprocess.Popen([sys.executable, script, kind], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker, server = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
    try:
        parent.kill()
        parent.wait()
        if ends:
            assert not psutil.wait_procs([worker, server], timeout=30)[1]
        else:
            assert psutil.wait_procs([worker], timeout=2)[1]
    finally:
        parent.stdout.close()
        if worker.is_running():
            worker.kill()
