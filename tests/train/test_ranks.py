"""Two processes over loopback: one gradient, one set of weights, one moment to stop."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import ADAMW, Job, Page, fork, kill_when, tiny_objective, wait
from torch import nn

from vitlet.errors import WorkerError
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.log import MetricsLog, Teller
from vitlet.train.loop import Budget, Writer, train
from vitlet.train.optim import build_optimizer
from vitlet.train.ranks import World


def start_ranks(body: Callable[[World], None], tmp_path: Path, *, size: int = 2) -> list[int]:
    """Fork `size` processes that find each other as under torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def of(rank: int) -> Callable[[], None]:
        def joined() -> None:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            world = World.join()
            try:
                body(world)
            finally:
                world.leave()

        return joined

    return [fork(of(rank), error_file=tmp_path / f"error-{rank}.txt") for rank in range(size)]


def errors(tmp_path: Path) -> str:
    return "\n".join(p.read_text() for p in sorted(tmp_path.glob("error-*.txt")))


def run_training(
    job: Job,
    run: Run,
    world: World,
    *,
    page: Page | None = None,
    step_seconds: float = 0.0,
    wrap: Callable[[Objective], None] | None = None,
) -> None:
    objective = tiny_objective().double()
    if wrap is not None:
        wrap(objective)
    batches = job.batches()
    share = type(batches)(**(vars(batches) | {"rank": world.rank, "num_ranks": world.size}))

    def schedule(step: int) -> float:
        if page is not None:
            page["step"] = step
            signal.sigtimedwait([], step_seconds)
        return 1e-3

    train(
        objective,
        batches=share,
        optimizer=build_optimizer(objective, ADAMW, depth=1),
        schedule=schedule,
        budget=Budget(total_steps=12, checkpoint_every=6, log_every=1, clip_norm=1.0),
        writer=Writer(run=run, metrics=MetricsLog(run, offset=0), teller=Teller(quiet=True), world=world),
    )


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    world = World.join()
    assert world == World(rank=0, size=1)
    assert world.is_first
    assert not torch.distributed.is_initialized()
    assert (world.highest(5), float(world.mean(torch.tensor(2.0)))) == (5, 2.0)
    world.wait(), world.leave()


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
        assert world.highest([3, 15][world.rank]) == 15
        assert world.is_first == (world.rank == 0)

    pids = start_ranks(body, tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], errors(tmp_path)


def test_the_weights_do_not_depend_on_the_number_of_ranks(job: Job, tmp_path: Path) -> None:
    """In float64, where the order of sums is all that differs."""
    alone, many = Run(tmp_path / "alone"), Run(tmp_path / "many")
    run_training(job, alone, World())
    pids = start_ranks(lambda world: run_training(job, many, world), tmp_path)
    assert [wait(pid) for pid in pids] == [0, 0], errors(tmp_path)
    states = [checkpoint.read(run.checkpoints / "step-00000012").tensors for run in (alone, many)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-9)
    start = tiny_objective().double().state_dict()["mask_token"]
    assert float((states[0]["model.mask_token"] - start).abs().max()) > 1e-3
    losses = [[row["loss"] for row in run.metrics()] for run in (alone, many)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_a_signal_to_one_rank_stops_all_after_the_same_step(job: Job, tmp_path: Path) -> None:
    run, pages = Run(tmp_path / "run"), [Page(), Page()]

    def body(world: World) -> None:
        run_training(job, run, world, page=pages[world.rank], step_seconds=0.05)

    pids = start_ranks(body, tmp_path)
    assert kill_when(pids[1], lambda: pages[1]["step"] >= 3, signal.SIGTERM)
    assert [wait(pid) for pid in pids] == [143, 143], errors(tmp_path)
    last = pages[0]["step"] + 1
    assert pages[1]["step"] + 1 == last
    assert checkpoint.folders(run)[0].name == checkpoint.folder_name(last)


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

    pids = start_ranks(body, tmp_path)
    assert [wait(pid) for pid in pids] == [6, 6], errors(tmp_path)
    assert all("at step 8" in (tmp_path / f"error-{rank}.txt").read_text() for rank in (0, 1))
    assert (run.path / "nonfinite.json").is_file()  # each rank names its own files
    assert (run.path / "nonfinite-rank1.json").is_file()
    assert checkpoint.folders(run)[0].name == "step-00000006"


def test_a_lost_rank_ends_the_others(job: Job, tmp_path: Path) -> None:
    run, pages = Run(tmp_path / "run"), [Page(), Page()]

    def body(world: World) -> None:
        run_training(job, run, world, page=pages[world.rank], step_seconds=0.05)

    pids = start_ranks(body, tmp_path)
    assert kill_when(pids[1], lambda: pages[1]["step"] >= 3)
    assert wait(pids[1]) == -signal.SIGKILL
    assert wait(pids[0], seconds=10) == WorkerError.exit_code == 7
    assert "another rank died or hangs" in (tmp_path / "error-0.txt").read_text()
