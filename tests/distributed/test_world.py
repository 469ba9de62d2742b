"""Two processes over loopback: one gradient, one set of weights, one moment to stop."""

import contextlib
import dataclasses
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Job, Page, hold_at, kill_when, signal_at, tiny_objective
from ranked import noting, order, require_same_weights, run_training, start_world
from torch import nn

from forked import BROKEN, errors, fork, start_ranks, wait, wait_until
from vitlet.data import workers
from vitlet.data.batch import Batch
from vitlet.data.workers import parallel
from vitlet.distributed import across
from vitlet.distributed import world as world_module
from vitlet.distributed.heartbeat import Heartbeat
from vitlet.distributed.members import Member
from vitlet.distributed.world import TIMEOUT_VARIABLE, World
from vitlet.errors import DataError, WorkerError
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.run import Run
from vitlet.train import checkpoint

FEW_SECONDS = "4"
"""A timeout that two ranks on a busy machine do not miss for want of a turn."""


@pytest.mark.parametrize(("count", "size"), [(0, 1), (2, 1), (3, 3), (4, 3)])
def test_images_are_shared_where_every_rank_has_one(count: int, size: int) -> None:
    assert World(rank=2, size=3).among(count) == (World(rank=2, size=3) if size == 3 else World())


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    world = World.join()
    assert world == World(rank=0, size=1)
    assert world.is_first
    assert not torch.distributed.is_initialized()
    assert world.among(0) == world
    assert (world.max(5), float(world.mean(torch.tensor(2.0)))) == (5, 2.0)
    world.barrier(patient=True), world.leave()


@pytest.mark.parametrize("keeps", [True, False])
def test_the_next_job_does_not_meet_the_last_one(keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank begins it while the first still leaves. The control forgets where they met."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, "2")
    destroy = torch.distributed.destroy_process_group

    def late() -> None:
        time.sleep(0.5)
        destroy()

    def job() -> None:
        with World.joined() as world:
            if world.is_first:
                monkeypatch.setattr(torch.distributed, "destroy_process_group", late)
        if not keeps:
            world_module._store.cache_clear()

    def body() -> None:
        job()
        job()

    codes = [wait(rank) for rank in start_ranks(body, tmp_path)]
    assert codes == [0, 0] if keeps else WorkerError.exit_code in codes


def test_gradients_and_scalars_are_averaged(tmp_path: Path) -> None:
    def body(world: World) -> None:
        one, two, unused = (nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (5,)))
        one.grad = torch.full((2, 3), float(world.rank))
        two.grad = torch.arange(4.0) * (world.rank + 1)
        world.average_gradients([one, two, unused])
        assert torch.equal(one.grad, torch.full((2, 3), 0.5))
        assert torch.equal(two.grad, torch.arange(4.0) * 1.5)
        assert unused.grad is None
        value = torch.tensor(float(world.rank))
        assert float(world.mean(value)) == 0.5
        assert float(value) == world.rank
        assert world.max([3, 15][world.rank]) == 15
        assert world.is_first == (world.rank == 0)

    pids = start_world(body, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], errors(tmp_path)


def test_the_weights_do_not_depend_on_the_number_of_ranks(job: Job, tmp_path: Path) -> None:
    """In float64, where the order of sums is all that differs."""
    alone, many = Run(tmp_path / "alone"), Run(tmp_path / "many")
    run_training(job, alone, World())
    pids = start_world(lambda world: run_training(job, many, world), tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], errors(tmp_path)
    require_same_weights(alone, many)
    start = tiny_objective().double().state_dict()["mask_token"]
    end = checkpoint.read(alone.checkpoints / "step-00000012").tensors["model.mask_token"]
    assert float((end - start).abs().max()) > 1e-3
    losses = [[row["loss"] for row in run.metrics()] for run in (alone, many)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def on_last(world: World, step: int, number: int) -> Callable[[int], None] | None:
    """`signal_at` for the last of the ranks."""
    return signal_at(step, number) if world.rank == world.size - 1 else None


def test_a_signal_to_one_rank_stops_all_after_the_same_step(job: Job, tmp_path: Path) -> None:
    run, pages = Run(tmp_path / "run"), [Page(), Page()]

    def body(world: World) -> None:
        run_training(job, run, world, page=pages[world.rank], at_step=on_last(world, 3, signal.SIGTERM))

    pids = start_world(body, tmp_path)
    assert [wait(pid) for pid in pids] == [143, 143], errors(tmp_path)
    assert [page["step"] for page in pages] == [3, 3]
    assert checkpoint.folders(run)[0].name == checkpoint.folder_name(4)


def test_a_nan_on_one_rank_stops_all_before_the_same_step(job: Job, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")

    def body(world: World) -> None:
        def poison(objective: Objective) -> None:
            forward = objective.forward

            def worse(batch: object, step: Step) -> Losses:
                losses = forward(batch, step)
                bad = world.rank == 1 and step.index == 8
                return Losses(losses.total * torch.nan) if bad else losses

            objective.forward = worse

        run_training(job, run, world, wrap=poison)

    pids = start_world(body, tmp_path)
    assert [wait(pid) for pid in pids] == [6, 6], errors(tmp_path)
    assert all("at step 8" in (tmp_path / f"error-{rank}.txt").read_text() for rank in (0, 1))
    assert (run.path / "nonfinite.json").is_file()  # each rank names its own files
    assert (run.path / "nonfinite-rank1.json").is_file()
    assert checkpoint.folders(run)[0].name == "step-00000006"


def test_a_lost_rank_ends_the_others(job: Job, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")

    def body(world: World) -> None:
        run_training(job, run, world, at_step=on_last(world, 3, signal.SIGKILL))

    pids = start_world(body, tmp_path)
    assert wait(pids[1]) == -signal.SIGKILL
    assert wait(pids[0]) == WorkerError.exit_code == 7
    text = (tmp_path / "error-0.txt").read_text()
    assert f"rank 1 is gone (process {pids[1]}) (seen by rank 0 on {platform.node()})" in text
    assert "/__w/" not in text  # paths of the machine that built the library


def test_a_frozen_rank_is_given_up_after_the_timeout(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, FEW_SECONDS)
    run = Run(tmp_path / "run")

    def body(world: World) -> None:
        run_training(job, run, world, at_step=on_last(world, 8, signal.SIGSTOP))

    pids = start_world(body, tmp_path)
    try:
        assert wait(pids[0]) == 7
    finally:
        os.kill(pids[1], signal.SIGKILL)
        wait(pids[1])
    assert f"rank 1 is stopped (process {pids[1]})" in (tmp_path / "error-0.txt").read_text()
    assert checkpoint.folders(run)[0].name == "step-00000006"


def test_a_rank_that_freezes_while_another_saves_is_given_up_too(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, FEW_SECONDS)
    run, page, real = Run(tmp_path / "run"), Page(), checkpoint.save

    def body(world: World) -> None:
        if world.rank == 1:
            page["step"] = os.getpid()

        def freezing(*arguments: Any, **facts: Any) -> Path:
            while page["step"] <= 1:  # what the page begins with would stop every process of the machine
                time.sleep(0.01)
            os.kill(page["step"], signal.SIGSTOP)
            return real(*arguments, **facts)

        checkpoint.save = freezing
        run_training(job, run, world)

    pids = start_world(body, tmp_path)
    try:
        assert wait(pids[0]) == 7
    finally:
        os.kill(pids[1], signal.SIGKILL)
        wait(pids[1])
    assert "rank 1 is stopped" in (tmp_path / "error-0.txt").read_text()
    assert checkpoint.folders(run)[0].name == "step-00000006", "what was saved is whole"


EXCHANGES: dict[str, Callable[[World], object]] = {
    "barrier": lambda world: world.barrier(patient=True),
    "gather_rows": lambda world: world.gather_rows(torch.ones(2, 3), total=4),
    "broadcast": lambda world: world.broadcast(b"x"),
    "gather": lambda world: world.gather("x"),
    "require_same": lambda world: world.require_same("x", of="images"),
    "sum": lambda world: world.sum(1.0),
}
"""Those before which the ranks may work unequally long: no training step is due to end any of them."""
POLLED = {"count": lambda world: [world.count("never", 0) or time.sleep(0.1) for _ in range(1_000)]}
"""In which no rank waits for another, but for something that one of them would do."""

IN_STEPS: dict[str, Callable[[World], object]] = {
    "across.gather": lambda _: across.gather(torch.ones(2)),
    "across.sum": lambda _: across.sum(torch.ones(2)),
    "across.mean": lambda _: across.mean(torch.ones(2, requires_grad=True)),
    "average_gradients": lambda world: world.average_gradients([with_gradient()]),
}
"""What methods, norms and the loop exchange."""


def with_gradient() -> nn.Parameter:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    return weight


def pairs(
    body: Callable[[World, str], None], tmp_path: Path, *, names: Iterable[str]
) -> Iterator[tuple[str, list[int]]]:
    """Two ranks for each of the exchanges, which mostly wait. No more than four pairs at once: they have to meet and
    answer each other in time.
    """
    names = list(names)
    for few in (names[i : i + 4] for i in range(0, len(names), 4)):
        pids = {}
        for name in few:
            (tmp_path / name).mkdir()
            pids[name] = start_world(lambda world, name=name: body(world, name), tmp_path / name)
        try:
            yield from pids.items()
        finally:
            end(*(pid for pair in pids.values() for pid in pair))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_is_missed_in_any_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """At once if it is killed, after the timeout if it is frozen; see `test_watchdog.py` for its own end."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, FEW_SECONDS if number == signal.SIGSTOP else "100")

    def body(world: World, name: str) -> None:
        if world.rank == 1:
            os.kill(os.getpid(), number)
        (EXCHANGES | POLLED | IN_STEPS)[name](world)

    for name, (first, second) in pairs(body, tmp_path, names=EXCHANGES | POLLED | IN_STEPS):
        assert wait(first) == 7, errors(tmp_path / name)
        what = "is stopped" if number == signal.SIGSTOP else "is gone"
        assert f"rank 1 {what} (process {second})" in errors(tmp_path / name)


def test_control_what_is_no_exchange_of_the_world_names_nobody(tmp_path: Path) -> None:
    def body(world: World) -> None:
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        torch.distributed.all_reduce(torch.ones(2))

    pids = start_world(body, tmp_path)
    assert [wait(pid) for pid in pids] == [BROKEN, -signal.SIGKILL]
    assert "RuntimeError" in errors(tmp_path)


@pytest.mark.parametrize("is_there", [True, False], ids=["as it is", "control: the first leaves the block at once"])
def test_an_error_of_the_first_of_a_host_is_every_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """They go on after it together, as a transfer does with its next data set."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, "100" if is_there else FEW_SECONDS)
    if not is_there:
        monkeypatch.setattr("vitlet.distributed.world.VitletError", MemoryError)

    def body(world: World) -> None:
        with pytest.raises(DataError), world.first_per_host():
            raise DataError("no images")
        world.require_same("x", of="images")

    codes = [wait(pid) for pid in start_world(body, tmp_path)]
    assert codes == [0, 0] if is_there else 7 in codes, errors(tmp_path)


def end(*pids: int) -> None:
    """Kill those of the children that are left."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):  # waited for before
            if not os.waitpid(pid, os.WNOHANG)[0]:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def late(world: World, name: str) -> None:
    """An exchange to which rank 0 comes from work that takes longer than the timeout."""
    time.sleep((int(FEW_SECONDS) + 1) * (world.rank == 0))
    EXCHANGES[name](world)


@pytest.mark.long
def test_ranks_that_work_longer_than_the_timeout_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair goes through every second exchange, beginning with the first, another through those between."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, FEW_SECONDS)

    def body(world: World, begin: str) -> None:
        for name in list(EXCHANGES)[int(begin) :: 2]:
            late(world, name)
        world.barrier(patient=True)  # rank 0 is not gone before the other has what it waits for

    for begin, pair in pairs(body, tmp_path, names=("0", "1")):
        assert [wait(pid) for pid in pair] == [0, 0], errors(tmp_path / begin)


@pytest.mark.long
def test_control_nobody_waits_for_those_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, FEW_SECONDS)
    monkeypatch.setattr(Heartbeat, "meet", lambda _: None)
    for name, (first, second) in pairs(late, tmp_path, names=EXCHANGES):
        assert 7 in (wait(first), wait(second)), errors(tmp_path / name)


def test_a_rank_that_leaves_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its process lives on, as rank 0 does that writes the results alone."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, "100")

    def body(world: World) -> None:
        if world.rank == 0:
            world.leave()
            while not (tmp_path / "done").exists():
                time.sleep(0.01)
        elif world.rank == 1:
            time.sleep(0.5)
        else:
            world.barrier(patient=True)

    pids = start_world(body, tmp_path, size=3)
    try:
        assert wait(pids[1]) == 0
        assert wait(pids[2]) == 7
        assert "A rank has left" in errors(tmp_path)
        (tmp_path / "done").touch()
        assert wait(pids[0]) == 0, errors(tmp_path)
    finally:
        end(*pids)


@pytest.mark.parametrize("alone", [True, False], ids=["as it is", "control: what it forked holds its connections"])
def test_a_rank_killed_during_the_image_check_is_missed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    if not alone:
        monkeypatch.setattr(workers, "end_with_parent", lambda _: None)
    started = tmp_path / "started"

    def decode(_: int) -> None:
        started.touch()
        time.sleep(60)

    def body(world: World) -> None:
        with world.first_per_host():
            list(parallel(decode, [0] * (world.rank == 0), workers=1, timeout=100))

    pids = start_world(body, tmp_path)
    try:
        assert kill_when(pids[0], started.exists), errors(tmp_path)
        assert wait(pids[0]) == -signal.SIGKILL
        if alone:
            assert wait(pids[1]) == 7
            assert f"rank 0 is gone (process {pids[0]})" in errors(tmp_path)
        else:
            time.sleep(2)
            assert os.waitpid(pids[1], os.WNOHANG)[0] == 0
    finally:
        end(*pids)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pids[0], signal.SIGKILL)  # what it forked, which is of its group


def test_a_timeout_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "5 minutes")
    assert [wait(pid) for pid in start_world(lambda _: None, tmp_path)] == [2, 2]
    assert TIMEOUT_VARIABLE in errors(tmp_path)


def test_ranks_stop_when_their_launcher_is_killed(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells them: they save and leave no orphan."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    run, page = Run(tmp_path / "run"), Page()

    def body(world: World) -> None:
        own = hold_at(3, page) if world.is_first else None
        run_training(job, run, world, page=page if world.is_first else None, at_step=own)

    def launcher() -> None:
        (tmp_path / "pids").write_text(" ".join(map(str, start_world(body, tmp_path))))
        signal.pause()

    pid = fork(launcher, error_file=tmp_path / "launcher.txt")
    assert kill_when(pid, lambda: page["step"] >= 3), "rank 0 waits there, and the other for it"
    wait(pid)  # the kernel has told them before
    page["released"] = 1
    ranks = [Member(platform.node(), int(rank)) for rank in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: [rank.state() for rank in ranks] == ["is gone"] * 2)
    assert "stopped by signal 15" in (tmp_path / "error-0.txt").read_text()
    assert checkpoint.folders(run)[0].name == checkpoint.folder_name(4)


def test_a_host_that_does_not_see_the_run_directory_goes_on_all_the_same(job: Job, tmp_path: Path) -> None:
    """Rank 1 has a folder of its own; it gets rank 0's checkpoint, and writes nothing."""
    alone = Run(tmp_path / "alone")
    run_training(job, alone, World())

    def body(world: World, *, is_killed: bool) -> None:
        run = Run(tmp_path / f"host-{world.rank}/run")
        run_training(job, run, world, at_step=on_last(world, 8, signal.SIGKILL) if is_killed else None)

    pids = start_world(partial(body, is_killed=True), tmp_path)
    assert [wait(pid) for pid in pids] == [7, -signal.SIGKILL], errors(tmp_path)
    first = Run(tmp_path / "host-0/run")
    assert [path.name for path in checkpoint.folders(first)] == ["step-00000006"]
    pids = start_world(partial(body, is_killed=False), tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], errors(tmp_path)
    require_same_weights(alone, first)
    assert not (tmp_path / "host-1").exists()


def test_bytes_of_the_first_rank_reach_all(tmp_path: Path) -> None:
    def body(world: World) -> None:
        for content in (b"", b"abc", None):
            assert world.broadcast(content if world.is_first else b"other") == content
        assert world.gather(f"\u00fc{world.rank}") == ["\u00fc0", "\u00fc1"]

    pids = start_world(body, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], errors(tmp_path)
    assert World().broadcast(b"x") == b"x"
    assert World().gather("x") == ["x"]


def test_an_image_lost_on_any_rank_stands_in_the_log(job: Job, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")

    def losing(world: World, batch: Batch) -> Batch:
        reasons = ((0, f"lost on rank {world.rank}"),) if world.rank == 1 else ()
        return dataclasses.replace(batch, replaced=reasons)

    pids = start_world(lambda world: run_training(job, run, world, spoil=partial(losing, world)), tmp_path)
    assert [wait(pid) for pid in pids] == [3, 3], errors(tmp_path)
    assert [row["replaced"] for row in run.metrics() if "replaced" in row] == [["lost on rank 1"]] * 2
    assert "2 of 16 images could not be read any more" in (tmp_path / "error-0.txt").read_text()


def test_rows_come_back_in_order_and_differences_are_named(tmp_path: Path) -> None:
    def body(world: World) -> None:
        rows = torch.arange(10.0).reshape(5, 2)
        assert torch.equal(world.gather_rows(rows[world.rank :: world.size], total=5), rows)
        with world.first_per_host():
            exists = (tmp_path / "made").exists()
            assert exists == (world.rank > 0)
            (tmp_path / "made").touch()
        world.require_same("7 images", of="images")
        world.require_same(f"{7 + world.rank} images", of="images")

    pids = start_world(body, tmp_path, size=3)
    assert [wait(pid) for pid in pids] == [3, 3, 3], errors(tmp_path)
    text = (tmp_path / "error-2.txt").read_text()
    assert "the ranks see different images" in text
    assert all(f"rank {rank} on {platform.node()}: {7 + rank} images" in text for rank in range(3))


def test_the_order_survives_changes_of_the_number_of_ranks(job: Job, tmp_path: Path) -> None:
    """Two ranks, one, then four, killed on the way: the ids are those of a run that never stopped."""
    job = job.but(batch_size=4)
    alone, changing = Run(tmp_path / "alone"), Run(tmp_path / "changing")

    run_training(job, alone, World(), note=noting(alone), every=3)
    for size, until in ((2, 5), (1, 9), (4, 99)):

        def body(world: World, until: int = until) -> None:
            own = on_last(world, until, signal.SIGKILL)
            run_training(job, changing, world, note=noting(changing), every=3, at_step=own)

        codes = [wait(pid) for pid in start_world(body, tmp_path, size=size)]
        assert codes == [0] * size if until > 12 else codes[-1] == -signal.SIGKILL, errors(tmp_path)

    assert order(changing) == order(alone)
    assert len(order(alone).splitlines()) == 12 * 4
    require_same_weights(changing, alone)
    assert [row["step"] for row in changing.metrics()] == list(range(1, 13))
