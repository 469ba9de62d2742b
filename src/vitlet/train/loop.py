"""The loop. It receives everything it uses and fetches nothing: no config, no recipe, no path but the run's.

Guarantees, each with a test: a kill at any point repeats at most one checkpoint interval and changes no bit of the
result; a signal loses no step; a step with a non-finite loss or gradient is not taken; the result depends on the
global batch and not on how it is split over ranks and accumulation steps.
"""

import contextlib
import json
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from vitlet.console import Teller
from vitlet.data.batch import Batch
from vitlet.disk import finite_or_null, write_json
from vitlet.distributed.world import World
from vitlet.errors import DataError, NonFiniteError, ResourceError, StoppedError
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.run import Run
from vitlet.signals import StopFlag, listening
from vitlet.text import printable
from vitlet.train import checkpoint
from vitlet.train.checkpoint import Checkpoint
from vitlet.train.clock import Clock
from vitlet.train.guard import memory_errors, require_finite
from vitlet.train.log import MetricsLog
from vitlet.train.meter import Meter
from vitlet.train.optim import Rates, set_rates

_MAX_REPLACED_SHARE = 0.01
_LOWEST_LOSS_SCALE = 2.0**-6
"""fp16 starts at 2¹⁶ and halves: 22 steps without a finite gradient."""


@runtime_checkable
class Batches(Protocol):
    """The interface that the loop expects of a loader."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the images."""
        ...

    def from_step(self, start: int) -> Generator[Batch]:
        """Yield the batches of steps start, start + 1, … without end."""
        ...

    def describe(self, batch: Batch) -> list[str]:
        """Names of the files in a batch, safe to print."""
        ...


@dataclass(frozen=True)
class Probe:
    """A periodic evaluation during training."""

    every: int
    look: Callable[[Objective, int], dict[str, Any]]
    """Of the objective after so many steps; returns an entry for the metrics."""
    tell: Callable[[dict[str, Any]], str] | None = None
    """What to say about that entry, in one line; None: nothing."""


@dataclass(frozen=True)
class Budget:
    """Durations of a run, all converted to steps, and how each step is computed."""

    total_steps: int
    checkpoint_every: int
    log_every: int = 10
    """The first and the last step are logged too."""
    precision: str = "fp32"
    clip_norm: float | None = None
    micro_batch: int | None = None
    """Images per forward and backward pass; None: the rank's whole share."""
    couples: bool = False
    """Whether the loss of an image depends on the rest of its batch, which is then not split."""
    pairs: bool = False
    """Whether images are mixed in pairs, which a part must not separate."""
    seed: int = 0
    compile: bool = False


@dataclass
class Writer:
    """The outputs of a run, and the facts stored in each of its checkpoints."""

    run: Run
    metrics: MetricsLog | None
    """On the first rank only."""
    teller: Teller
    world: World = field(default_factory=World)
    facts: dict[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    def save(self, step: int, objective: Objective, optimizer: Optimizer, **facts: Any) -> None:
        """Write a checkpoint from the first rank; the others wait until it is durable."""
        self.clock.meet(self.world)
        if self.metrics is not None:
            facts |= {
                **self.facts,
                "cost": self.clock.spent(),
                "metrics_bytes": self.metrics.offset(),
                "ranks": self.world.size,
            }
            checkpoint.save(self.run, step=step, objective=objective, optimizer=optimizer, facts=facts)
        self.world.barrier()

    def log(self, row: dict[str, Any]) -> None:
        """Write one row of metrics, from the first rank."""
        if self.metrics is not None:
            self.metrics.write(row)


def train(
    objective: Objective,
    *,
    batches: Batches,
    optimizer: Optimizer,
    schedule: Callable[[int], Rates],
    budget: Budget,
    writer: Writer,
    probes: Sequence[Probe] = (),
    resumed: Checkpoint | None = None,
) -> None:
    """Train up to step `budget.total_steps`, from the first step or from where `resumed` ends.

    Raises:
        StoppedError: after a signal; the step was finished and saved.
        NonFiniteError: before a step that would have corrupted the weights.
        DataError: if more than 1 % of the images seen could no longer be read.
        ResourceError: out of memory or disk.
    """
    device, start = next(objective.parameters()).device, resumed.step if resumed else 0
    job = _Job(
        objective, batches=batches, optimizer=optimizer, budget=budget, writer=writer, probes=probes, resumed=resumed
    )
    meter = Meter()
    objective.train()
    with (
        contextlib.closing(batches.from_step(start)) as stream,
        listening() as stop,
        writer.teller.progress("training", total=budget.total_steps, done=start) as tick,
    ):
        for step in range(start, budget.total_steps):
            with meter.waiting():
                batch = next(stream)
            job.note_replaced(step + 1, batch)
            rates = schedule(step)
            set_rates(optimizer, rates)
            losses, loss, grad_norm = job.take(step, batch.to(device))
            done = step + 1
            meter.add(len(batch) * writer.world.size)
            if done % budget.log_every == 0 or done in (1, budget.total_steps):
                row = meter.row(done, done / batches.steps_per_epoch, loss, rates.lr, grad_norm)
                writer.log(row | _scalars(losses))
                tick(done, f"loss {loss:.4f} · {row['images_per_second']:.0f} images/s")
            with meter.paused():
                job.look_and_save(done)
            job.stop_if_asked(stop, done)
    job.stop_if_asked(stop, budget.total_steps)  # a signal may have come since the last step


class _Job:
    """One training run: what happens within and after a step."""

    def __init__(
        self,
        objective: Objective,
        *,
        batches: Batches,
        optimizer: Optimizer,
        budget: Budget,
        writer: Writer,
        probes: Sequence[Probe],
        resumed: Checkpoint | None,
    ) -> None:
        self.objective, self.batches, self.optimizer = objective, batches, optimizer
        self.budget, self.writer, self.probes = budget, writer, probes
        self.taker = _StepTaker(objective, optimizer, budget, writer.world)
        self.saved = self.replaced = 0
        if resumed is not None:
            self.saved, self.replaced = resumed.step, resumed.manifest["replaced"]
            if self.taker.scaler.is_enabled():
                self.taker.scaler.load_state_dict(resumed.manifest["loss_scale"])

    def take(self, step: int, batch: Batch) -> tuple[Losses, float, float]:
        """Take a step if its numbers are finite; return this rank's losses, the mean loss of all, the gradient norm."""
        at = Step(step, self.budget.total_steps, self.budget.seed)
        budget, world = self.budget, self.writer.world
        part = min(budget.micro_batch or len(batch), len(batch))
        with memory_errors(part=part, num_ranks=world.size, couples=budget.couples, pairs=budget.pairs):
            losses, grad_norm = self.taker.gradients(batch, at)
            is_skipped = self.taker.is_skipped(grad_norm)
            loss = float(self.writer.world.mean(losses.total))
            rank = self.writer.world.rank
            record = self.writer.run.path / (f"nonfinite-rank{rank}.json" if rank else "nonfinite.json")
            try:
                norm = 0.0 if is_skipped else grad_norm
                require_finite(step=step, loss=loss, grad_norm=norm, record=printable(record))
            except NonFiniteError:
                self._record(record, step, batch, losses, grad_norm)
                raise
            self.taker.step()
            if not is_skipped:
                self.objective.after_step(at)
        return losses, loss, grad_norm

    def _record(self, path: Path, step: int, batch: Batch, losses: Losses, grad_norm: float) -> None:
        content = {
            "step": step,
            "files": self.batches.describe(batch),
            "positions": batch.positions.tolist(),
            "terms": finite_or_null({"loss": float(losses.total), "grad_norm": grad_norm, **_scalars(losses)}),
        }
        with contextlib.suppress(ResourceError):  # a full disk must not mask why the run stops
            write_json(path, content)

    def note_replaced(self, done: int, batch: Batch) -> None:
        """Record every substituted image, and limit their number.

        Raises:
            DataError: above 1 % of the images seen since the start.
        """
        world = self.writer.world
        if not world.max(len(batch.replaced)):
            return
        here = json.dumps([reason for _, reason in batch.replaced])
        reasons = [reason for there in world.gather(here) for reason in json.loads(there)]
        self.replaced += len(reasons)
        self.writer.log({"step": done, "epoch": done / self.batches.steps_per_epoch, "replaced": reasons})
        seen = done * len(batch) * world.size  # since the start, like those that were lost
        if self.replaced > max(1.0, _MAX_REPLACED_SHARE * seen):
            raise DataError(
                f"{self.replaced} of {seen:,} images could not be read any more",
                why=reasons[-1].rstrip("."),
                fix="vitlet check DATA, then vitlet resume RUN",
            )
        self.writer.teller.say(f"warning: another image took the place of one that was lost. {reasons[-1]}")

    def look_and_save(self, done: int) -> None:
        """Run the probes and write the checkpoint due after `done` steps."""
        last = done == self.budget.total_steps
        for probe in self.probes:
            if done % probe.every == 0 or last:
                self.objective.eval()
                seen = probe.look(self.objective, done)
                self.objective.train()
                self.writer.log({"step": done, "epoch": done / self.batches.steps_per_epoch, "probe": seen})
                if probe.tell is not None:
                    self.writer.teller.say(f"step {done}: {probe.tell(seen)}")
        if done % self.budget.checkpoint_every == 0 or last:
            self._save(done)

    def stop_if_asked(self, stop: StopFlag, done: int) -> None:
        """If any rank got a signal, save and stop on all ranks after the same step."""
        number = self.writer.world.max(stop.signal_number)
        if number:
            if self.saved != done:
                self._save(done)
            raise StoppedError(number, step=done, run=printable(self.writer.run.path))

    def _save(self, done: int) -> None:
        scaler = self.taker.scaler
        scale = {"loss_scale": scaler.state_dict()} if scaler.is_enabled() else {}
        self.writer.save(done, self.objective, self.optimizer, replaced=self.replaced, **scale)
        self.saved = done


class _StepTaker:
    """Forward and backward passes over the parts of a batch, and the optimizer step."""

    def __init__(self, objective: Objective, optimizer: Optimizer, budget: Budget, world: World) -> None:
        self.objective, self.optimizer, self.budget, self.world = objective, optimizer, budget, world
        self.forward = torch.compile(objective) if budget.compile else objective
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        device = self.parameters[0].device.type
        self.autocast = contextlib.nullcontext
        if budget.precision != "fp32":
            dtype = torch.bfloat16 if budget.precision == "bf16" else torch.float16
            self.autocast = lambda: torch.autocast(device, dtype)
        self.scaler = torch.amp.GradScaler(device, enabled=budget.precision == "fp16")

    def gradients(self, batch: Batch, step: Step) -> tuple[Losses, float]:
        """Losses (means over the whole batch) and the gradient norm; gradients are averaged over ranks."""
        self.optimizer.zero_grad(set_to_none=True)
        means: list[Losses] = []
        for part in batch.parts(self.budget.micro_batch or len(batch)):
            share = len(part) / len(batch)
            with self.autocast():
                losses = self.forward(part, step)
            self.scaler.scale(losses.total * share).backward()
            means.append(_detached(losses, share))
        self.world.average_gradients(self.parameters)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.budget.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.budget.clip_norm, norm)
        return _sum(means), float(norm)

    def is_skipped(self, grad_norm: float) -> bool:
        """Whether fp16 skips this step and lowers its loss scale, which was too high.

        At the lowest scale the gradients themselves overflow, and skipping would never end.
        """
        is_too_large = self.scaler.is_enabled() and not math.isfinite(grad_norm)
        return is_too_large and self.scaler.get_scale() > _LOWEST_LOSS_SCALE

    def step(self) -> None:
        """Update the weights, unless the step is skipped."""
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _detached(losses: Losses, share: float) -> Losses:
    def scaled(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.detach() * share for k, v in values.items()}

    return Losses(losses.total.detach() * share, scaled(losses.terms), scaled(losses.statistics))


def _sum(parts: Sequence[Losses]) -> Losses:
    def added(columns: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {k: torch.stack([c[k] for c in columns]).sum() for k in columns[0]}

    total = torch.stack([p.total for p in parts]).sum()
    return Losses(total, added([p.terms for p in parts]), added([p.statistics for p in parts]))


def _scalars(losses: Losses) -> dict[str, float]:
    return {k: float(v) for k, v in (losses.terms | losses.statistics).items()}
