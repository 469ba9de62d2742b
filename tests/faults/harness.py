"""Trainings in forked children that may be killed, starved and interrupted; imports are paid once, in the parent.

A child tells the parent where it is through a page of shared memory, which a kill cannot take away. Calls of the
operating system are wrapped, never replaced: what the wrapper adds happens around the real thing.
"""

import hashlib
import json
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorboard.compat.proto.event_pb2
import tensorboard.summary.writer.record_writer  # noqa: F401 (children find it imported)
import torch
from PIL import Image

from forked import fork, wait
from vitlet.augmentation import Shift, View
from vitlet.console import Teller
from vitlet.data.index import Index
from vitlet.data.loader import TrainingBatches
from vitlet.distributed.world import World
from vitlet.methods.mae import MAE
from vitlet.methods.objective import Objective
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig, OptimizerConfig
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.checkpoint import Checkpoint
from vitlet.train.log import MetricsLog
from vitlet.train.loop import Budget, Writer, train
from vitlet.train.optim import Rates, build_optimizer

CALLS = ("open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir")
"""Everything by which a save changes the disk."""

Wrapper = Callable[..., Any]
"""Called as `wrapper(name, call, *args)` in the place of `os.name(*args)`."""

CRASHED = 77
TIMING = ("images_per_second", "data_wait")
TINY = EncoderConfig(image_size=8, patch_size=2, width=16, depth=1, heads=2, position="sincos", init="xavier")
ADAMW = OptimizerConfig(base_lr=1e-3, lr_batch=None)


class Page:
    """Integers that a child writes and its parent reads."""

    FIELDS = ("start", "step", "saving", "calls", "reached", "released")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.clear()

    def __getitem__(self, field: str) -> int:
        return struct.unpack_from("q", self._memory, 8 * self.FIELDS.index(field))[0]

    def __setitem__(self, field: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * self.FIELDS.index(field), value)

    def clear(self) -> None:
        for field in self.FIELDS:
            self[field] = -1


def tiny_images(folder: Path, *, count: int, size: int = 8) -> Path:
    draw = np.random.default_rng(1)
    for i in range(count):
        pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def tiny_objective(seed: int = 0) -> MAE:
    return MAE(Encoder(TINY, seed=seed), decoder_width=8, decoder_heads=1, seed=seed)


@dataclass(frozen=True)
class Job:
    """A small pre-training with the parts of a large one."""

    index: Index
    total: int = 12
    every: int = 3
    workers: int = 0
    batch_size: int = 2
    precision: str = "fp32"
    save: Callable[..., Path] | None = None
    """Instead of `checkpoint.save`, with `load`: for variants that must fail."""
    load: Callable[[Run, Objective, torch.optim.Optimizer], Checkpoint | None] | None = None
    wrap: Callable[[Objective], None] | None = None
    """Prepares the objective."""
    at_step: Callable[[int], object] | None = None
    """Called by the child with each step before it is made; see `signal_at` and `hold_at`."""

    def but(self, **changes: Any) -> "Job":
        return replace(self, **changes)

    def batches(self) -> TrainingBatches:
        return TrainingBatches(
            index=self.index,
            ids=np.arange(len(self.index)),
            views=(View(size=8, crop=Shift(padding=1)),),
            batch_size=self.batch_size,
            seed=3,
            workers=self.workers,
        )

    def run(self, run: Run, page: Page) -> None:
        """Start the training, or go on with it, as `vitlet.jobs.assembly` does."""
        with run.lock():
            objective = tiny_objective()
            optimizer = build_optimizer(objective, ADAMW, depth=1)
            found = (self.load or load)(run, objective, optimizer)
            if self.wrap is not None:
                self.wrap(objective)
            page["start"] = found.step if found else 0

            def schedule(step: int) -> Rates:
                page["step"] = step
                if self.at_step is not None:
                    self.at_step(step)
                return Rates(1e-3 * (1 - step / 100), ADAMW.weight_decay)

            metrics = MetricsLog(run, offset=found.manifest["metrics_bytes"] if found else 0)
            train(
                objective,
                batches=self.batches(),
                optimizer=optimizer,
                schedule=schedule,
                budget=Budget(
                    total_steps=self.total, checkpoint_every=self.every, log_every=1, precision=self.precision
                ),
                writer=Writer(run=run, metrics=metrics, teller=Teller(quiet=True)),
                resumed=found,
            )
            metrics.close()

    def fork(self, run: Run, page: Page, *, wrapper: Wrapper | None = None) -> int:
        """A child that runs the training and exits as the command line does; its error stands in `error.txt`.

        `wrapper` stands around each call that changes the disk.
        """
        page.clear()

        def body() -> None:
            with watched_saving(page, instead=self.save), around_calls(wrapper) if wrapper else nullcontext():
                self.run(run, page)

        return fork(body, error_file=run.path.parent / "error.txt")

    def finish(self, run: Run, page: Page) -> int:
        """Run to the end in a child; its exit status."""
        return wait(self.fork(run, page))


def load(
    run: Run, objective: Objective, optimizer: torch.optim.Optimizer, *, world: World | None = None
) -> Checkpoint | None:
    found, _ = checkpoint.latest(run, world=world)
    if found is not None:
        checkpoint.restore(found, objective=objective, optimizer=optimizer)
    return found


def signal_at(step: int, number: int, *, group: bool = False) -> Callable[[int], None]:
    """For `at_step`: the training signals itself, or its whole group, and nobody has to be in time for a step."""

    def act(now: int) -> None:
        if now == step:
            os.kill(0 if group else os.getpid(), number)

    return act


def hold_at(step: int, page: Page) -> Callable[[int], None]:
    """For `at_step`: the training waits for `released`, so that its parent can do something within a step."""

    def act(now: int) -> None:
        while now == step and page["released"] != 1:
            time.sleep(0.001)

    return act


def kill_when(pid: int, condition: Callable[[], bool], number: int = signal.SIGKILL) -> bool:
    """Send a signal as soon as `condition` holds; False if the child ended before (it stays to be waited for)."""
    while not condition():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.0002)
    os.kill(pid, number)
    return True


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def watched_saving(page: Page, *, instead: Callable[..., Path] | None = None) -> Iterator[None]:
    """Count the calls that change the disk while a checkpoint is saved."""
    real = checkpoint.save

    def save(*args: Any, **kwargs: Any) -> Path:
        page["saving"] = 1
        try:
            return (instead or real)(*args, **kwargs)
        finally:
            page["saving"] = 0

    def counted(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        page["calls"] += page["saving"] == 1
        return call(*args, **kwargs)

    checkpoint.save = save
    try:
        with around_calls(counted):
            yield
    finally:
        checkpoint.save = real


@contextmanager
def around_calls(wrapper: Wrapper) -> Iterator[None]:
    real = {name: getattr(os, name) for name in CALLS}
    for name, call in real.items():
        setattr(os, name, partial(wrapper, name, call))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)


def crash_at(number: int, page: Page, *, torn: bool) -> Wrapper:
    """Ends the process before the n-th call of a save, or (`torn`) in the middle of the n-th write."""

    def wrapper(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if page["saving"] == 1 and (name == "write" or not torn):
            page["reached"] += 1
            if page["reached"] == number:
                if torn:
                    call(args[0], bytes(args[1])[: len(args[1]) // 2])
                os._exit(CRASHED)
        return call(*args, **kwargs)

    return wrapper


def rows_without_timing(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in run.metrics()]


def digest(run: Run, step: int) -> str:
    """Of weights and optimizer after `step`."""
    state = run.checkpoints / checkpoint.folder_name(step) / checkpoint.STATE
    return hashlib.sha256(state.read_bytes()).hexdigest()


def leftovers(run: Run) -> list[str]:
    return [p.name for p in run.path.rglob(".*") if p.name != ".lock"]


def metrics_are_json(run: Run) -> bool:
    def refuse(word: str) -> None:
        raise ValueError(word)

    return all(json.loads(line, parse_constant=refuse) for line in run.metrics_file.read_text().splitlines())
