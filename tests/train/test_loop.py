import contextlib
import dataclasses
import functools
import itertools
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import ADAMW, TINY, Job, digest, load, rows_without_timing, tiny_objective

from vitlet.console import Teller
from vitlet.data.batch import Batch
from vitlet.errors import DataError, NonFiniteError, ResourceError, StoppedError
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.methods.supervised import Supervised
from vitlet.nn.encoder import Encoder
from vitlet.run import Run
from vitlet.train import checkpoint, meter
from vitlet.train.log import MetricsLog
from vitlet.train.loop import Budget, Probe, Writer, train
from vitlet.train.optim import Rates, build_optimizer


def constant(step: int) -> Rates:
    return Rates(1e-3, ADAMW.weight_decay)


def trained(
    job: Job,
    run: Run,
    *,
    objective: Objective | None = None,
    schedule: Callable[[int], Rates] = constant,
    probes: tuple[Probe, ...] = (),
    dtype: torch.dtype = torch.float32,
    teller: Teller | None = None,
    resume: bool = False,
    **budget: object,
) -> tuple[Objective, torch.optim.Optimizer]:
    objective = (objective or tiny_objective()).to(dtype)
    optimizer = build_optimizer(objective, ADAMW, depth=1)
    found = load(run, objective, optimizer) if resume else None
    metrics = MetricsLog(run, offset=found.manifest["metrics_bytes"] if found else 0)
    values = {"total_steps": 6, "checkpoint_every": 100, "log_every": 1} | budget
    try:
        train(
            objective,
            batches=job.batches(),
            optimizer=optimizer,
            schedule=schedule,
            budget=Budget(**values),
            writer=Writer(run=run, metrics=metrics, teller=teller or Teller(quiet=True)),
            probes=probes,
            resumed=found,
        )
    finally:
        metrics.close()
    return objective, optimizer


def largest_difference(one: Objective, other: Objective) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def supervised() -> Supervised:
    encoder = Encoder(TINY.changed(drop_path=0.5, depth=2, final_norm=False), seed=1)
    return Supervised(encoder, num_classes=3, mixup=0.8, cutmix=1.0, smoothing=0.1, seed=1)


def labelled(job: Job) -> Job:
    """The same images in three classes."""
    return job.but(index=dataclasses.replace(job.index, labels=np.arange(len(job.index), dtype=np.int32) % 3))


InOnePass = Callable[[Callable[[], Objective], torch.dtype], tuple[Objective, list[float]]]


@pytest.fixture(scope="module")
def in_one_pass(job: Job, tmp_path_factory: pytest.TempPathFactory) -> InOnePass:
    """What is trained with whole batches, and its losses; once for each objective and precision."""

    @functools.cache
    def train(make: Callable[[], Objective], dtype: torch.dtype) -> tuple[Objective, list[float]]:
        run = Run(tmp_path_factory.mktemp("whole"))
        whole, _ = trained(labelled(job), run, objective=make(), dtype=dtype, clip_norm=0.5)
        return whole, [row["loss"] for row in run.metrics()]

    return train


@pytest.mark.parametrize("micro_batch", [2, 4, 8, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("make", [tiny_objective, supervised])
def test_accumulation_gives_the_weights_of_the_whole_batch(
    job: Job,
    in_one_pass: InOnePass,
    tmp_path: Path,
    micro_batch: int,
    dtype: torch.dtype,
    tolerance: float,
    make: Callable[[], Objective],
) -> None:
    run = Run(tmp_path / "cut")
    whole, losses = in_one_pass(make, dtype)
    cut, _ = trained(labelled(job), run, objective=make(), dtype=dtype, micro_batch=micro_batch, clip_norm=0.5)
    assert largest_difference(whole, cut) <= tolerance
    assert largest_difference(whole, make().to(dtype)) > 1e-3  # they have moved
    assert losses == pytest.approx([row["loss"] for row in run.metrics()], rel=1e-5)


def test_unequal_parts_weigh_by_their_size(job: Job, tmp_path: Path) -> None:
    whole, _ = trained(job, Run(tmp_path / "whole"), dtype=torch.float64)
    cut, _ = trained(job, Run(tmp_path / "cut"), dtype=torch.float64, micro_batch=3)  # 3 + 3 + 2
    assert largest_difference(whole, cut) <= 1e-12


def test_clipping_limits_the_gradient_and_the_log_shows_the_norm_before(job: Job, tmp_path: Path) -> None:
    norms: list[float] = []
    objective = tiny_objective()

    def note(step: Step) -> None:
        squares = [p.grad.square().sum() for p in objective.parameters() if p.grad is not None]
        norms.append(float(torch.stack(squares).sum().sqrt()))

    objective.after_step = note
    trained(job, Run(tmp_path / "run"), objective=objective, clip_norm=0.01)
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)
    assert all(row["grad_norm"] > 0.02 for row in Run(tmp_path / "run").metrics())


def test_the_schedule_is_applied_at_every_step_and_logged(job: Job, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    rates, weights = [0.0, 1e-3, 0.0, 2e-4, 1e-4, 0.0], []
    objective = tiny_objective()
    objective.after_step = lambda step: weights.append(objective.mask_token.detach().clone())
    _, optimizer = trained(job, run, objective=objective, schedule=lambda step: Rates(rates[step], ADAMW.weight_decay))
    assert [row["lr"] for row in run.metrics()] == rates
    moved = [not torch.equal(a, b) for a, b in zip([tiny_objective().mask_token, *weights], weights, strict=False)]
    assert moved == [rate > 0 for rate in rates]
    assert all(group["lr"] == rates[-1] for group in optimizer.param_groups)


def test_a_learning_rate_of_zero_moves_nothing(job: Job, tmp_path: Path) -> None:
    objective, _ = trained(job, Run(tmp_path / "run"), schedule=lambda step: Rates(0.0, ADAMW.weight_decay))
    assert largest_difference(objective, tiny_objective()) == 0.0


def test_probes_do_not_disturb_the_training(job: Job, tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def look(objective: Objective, step: int) -> dict[str, float]:
        seen.append((step, objective.training))
        random.random(), np.random.rand(), torch.rand(3)
        with torch.no_grad():
            objective.encoder(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
        return {"value": step / 2}

    plain, probed = Run(tmp_path / "plain"), Run(tmp_path / "probed")
    trained(job, plain)
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    objective, _ = trained(job, probed, probes=(Probe(every=2, look=look), Probe(every=5, look=look)))
    assert digest(plain, 6) == digest(probed, 6)
    assert seen == [(2, False), (4, False), (5, False), (6, False), (6, False)]
    assert objective.training
    rows = rows_without_timing(probed)
    assert [row["step"] for row in rows if "probe" in row] == [2, 4, 5, 6, 6]
    assert [row for row in rows if "probe" not in row] == rows_without_timing(plain)


def test_what_a_probe_says_is_told_once_on_terminal_and_log(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    heard = Probe(every=4, look=lambda objective, step: {"value": step}, tell=lambda found: f"value {found['value']}")
    silent = Probe(every=4, look=lambda objective, step: {"value": -step})
    trained(job, run, teller=Teller(run), probes=(heard, silent))
    lines = ["step 4: value 4", "step 6: value 6"]
    assert [line for line in capsys.readouterr().out.splitlines() if "value" in line] == lines
    assert [line.partition(" ")[2] for line in run.log_file.read_text().splitlines() if "value" in line] == lines


@pytest.mark.parametrize("is_paused", [True, False])
def test_the_speed_is_that_of_training_alone(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_paused: bool
) -> None:
    """Each step waits a second for its 8 images and computes for three; the control counts probes and checkpoints."""
    now, save = SimpleNamespace(seconds=0.0), checkpoint.save

    def pass_by(seconds: float) -> None:
        now.seconds += seconds

    class Slow:
        """A loader that takes a second for a batch."""

        def __init__(self) -> None:
            self.real = job.batches()
            self.steps_per_epoch, self.describe = self.real.steps_per_epoch, self.real.describe

        def from_step(self, start: int) -> Iterator[Batch]:
            for batch in self.real.from_step(start):
                pass_by(1)
                yield batch

    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    monkeypatch.setattr(checkpoint, "save", lambda *words, **named: (pass_by(40), save(*words, **named)))
    if not is_paused:
        monkeypatch.setattr(meter.Meter, "paused", lambda self: contextlib.nullcontext())
    run, objective = Run(tmp_path / "run"), tiny_objective()
    objective.after_step = lambda step: pass_by(3)
    probe = Probe(every=1, look=lambda objective, step: pass_by(96) or {"value": step})
    slow = SimpleNamespace(batches=Slow)
    trained(slow, run, objective=objective, probes=(probe,), log_every=2, checkpoint_every=2)
    rows = [row for row in run.metrics() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 4, 6]
    passed = [4, 4, 8, 8] if is_paused else [4, 100, 8 + 2 * 96 + 40, 8 + 2 * 96 + 40]
    images = [8, 8, 16, 16]
    assert [row["images_per_second"] for row in rows] == [round(n / s, 1) for n, s in zip(images, passed, strict=True)]
    assert [row["data_wait"] for row in rows] == [round(n / 8 / s, 4) for n, s in zip(images, passed, strict=True)]


@pytest.mark.parametrize(("log_every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (4, [1, 4, 6]), (10, [1, 6])])
def test_rows_are_logged_as_asked_and_of_the_first_and_last_step(
    job: Job, tmp_path: Path, log_every: int, steps: list[int]
) -> None:
    run = Run(tmp_path / "run")
    trained(job, run, log_every=log_every)
    assert [row["step"] for row in run.metrics()] == steps
    fields = {"step", "epoch", "loss", "lr", "grad_norm", "images_per_second", "data_wait"}
    assert all(row.keys() >= fields for row in run.metrics())
    assert run.metrics()[-1]["epoch"] == 6 / 2


def test_checkpoints_are_written_as_asked_and_at_the_end(job: Job, tmp_path: Path) -> None:
    run, saved = Run(tmp_path / "run"), []
    objective = tiny_objective()
    objective.after_step = lambda step: saved.append([p.name for p in checkpoint.folders(run)])
    trained(job, run, objective=objective, checkpoint_every=2, total_steps=7)
    assert [int(p.name[5:]) for p in checkpoint.folders(run)] == [7, 6]
    assert saved[4] == ["step-00000004", "step-00000002"]


def test_objectives_see_the_step_and_move_their_state_after_it(job: Job, tmp_path: Path) -> None:
    objective, seen = tiny_objective(), []
    forward = objective.forward
    objective.forward = lambda batch, step: (seen.append(("forward", step)), forward(batch, step))[1]
    objective.after_step = lambda step: seen.append(("after", step))
    trained(job, Run(tmp_path / "run"), objective=objective, total_steps=2, seed=9, micro_batch=4)
    at = [Step(index=i, total=2, seed=9) for i in (0, 1)]
    assert seen == [(what, step) for step in at for what in ("forward", "forward", "after")]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_close_to_full(job: Job, tmp_path: Path, precision: str) -> None:
    full, low = Run(tmp_path / "full"), Run(tmp_path / "low")
    trained(job, full)
    trained(job, low, precision=precision)
    losses = [[row["loss"] for row in run.metrics()] for run in (full, low)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_resuming_in_fp16_restores_the_loss_scale(job: Job, tmp_path: Path) -> None:
    def spoil(objective: Objective) -> None:
        """Let the gradient overflow once, so that the scale has a history."""
        objective.mask_token.register_hook(lambda g: g * torch.inf if next(times) == 1 else g)
        times = iter(range(1000))

    from harness import Page

    whole, parts, page = Run(tmp_path / "whole"), Run(tmp_path / "parts"), Page()
    half = job.but(precision="fp16", wrap=spoil, total=6)
    assert half.finish(whole, page) == 0
    assert half.but(total=3).finish(parts, page) == 0
    assert checkpoint.read(parts.checkpoints / "step-00000003").manifest["loss_scale"]["scale"] == 2.0**15
    assert half.but(wrap=None).finish(parts, page) == 0
    assert digest(parts, 6) == digest(whole, 6)
    scales = [checkpoint.read(r.checkpoints / "step-00000006").manifest["loss_scale"] for r in (whole, parts)]
    assert scales[0] == scales[1]


def overflowing(first: int, times: list[int]) -> Objective:
    """Gradients are infinite from the backward pass `first` on, and `times` notes the steps after which state moves."""
    objective, backward = tiny_objective(), itertools.count()
    objective.mask_token.register_hook(lambda g: g * torch.inf if next(backward) >= first else g)
    objective.after_step = lambda step: times.append(step.index)
    return objective


def test_fp16_stops_where_no_scale_helps(job: Job, tmp_path: Path) -> None:
    """From 2¹⁶ down to 2⁻⁶ a step is left out for each halving; nothing moves meanwhile."""
    run, moved = Run(tmp_path / "run"), []
    objective = overflowing(1, moved)
    with pytest.raises(NonFiniteError, match=r"gradient norm (inf|nan) at step 23"):
        trained(job, run, objective=objective, precision="fp16", total_steps=60)
    assert moved == [0]
    assert [row["grad_norm"] is None for row in run.metrics()] == [False] + 22 * [True]
    assert (run.path / "nonfinite.json").is_file()


class Full(Objective):
    """An objective for which there is never enough memory."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.encoder = tiny_objective().encoder
        self.words = words

    def forward(self, batch: Batch, step: Step) -> Losses:
        raise RuntimeError(self.words)


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate", "DefaultCPUAllocator: can't allocate memory"]
)
def test_too_little_memory_names_a_part_that_halves_it(job: Job, tmp_path: Path, words: str) -> None:
    with pytest.raises(ResourceError, match="--micro-batch 4 keeps the global batch"):
        trained(job, Run(tmp_path / "a"), objective=Full(words))
    with pytest.raises(ResourceError, match="--micro-batch 1 keeps"):
        trained(job, Run(tmp_path / "b"), objective=Full(words), micro_batch=2)


def test_other_errors_pass_unchanged(job: Job, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        trained(job, Run(tmp_path / "run"), objective=Full("a bug"))


LOST = "cannot use the image lost.png."


class Losing:
    """A loader of which one image was lost in every `every`-th batch."""

    def __init__(self, job: Job, every: int) -> None:
        self.real, self.every = job.batches(), every
        self.steps_per_epoch, self.describe = self.real.steps_per_epoch, self.real.describe

    def from_step(self, start: int):
        with_loss = ((0, LOST),)
        for step, batch in enumerate(self.real.from_step(start), start):
            lost = with_loss if step % self.every == self.every - 1 else ()
            yield dataclasses.replace(batch, replaced=lost)


def test_replaced_images_are_recorded_and_limited(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run")
    losing = dataclasses.make_dataclass("LosingJob", [])()
    losing.batches = lambda: Losing(job, every=3)
    with pytest.raises(DataError, match=r"2 of 48 images could not be read any more\. cannot use .*lost\.png\. Fix"):
        trained(losing, run, total_steps=100)
    noted = [row for row in run.metrics() if "replaced" in row]
    assert [(row["step"], row["replaced"]) for row in noted] == [(3, [LOST]), (6, [LOST])]


def test_after_a_resume_they_are_limited_by_what_was_seen_before_it_too(job: Job, tmp_path: Path) -> None:
    """Two of the 48 images since the resume would end the run; they are two of 288."""
    run = Run(tmp_path / "run")
    trained(job, run, total_steps=30)
    losing = dataclasses.make_dataclass("LosingJob", [])()
    losing.batches = lambda: Losing(job, every=3)
    trained(losing, run, total_steps=36, resume=True)
    with pytest.raises(DataError, match="4 of 336 images could not be read"):
        trained(losing, run, total_steps=60, resume=True)


def test_a_signal_after_the_last_step_is_no_less_a_stop(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that trains several networks would go on with the next."""

    @contextlib.contextmanager
    def ending_with_a_signal(*_: object, **__: object) -> Iterator[Callable[..., None]]:
        yield lambda *_: None
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Teller, "progress", ending_with_a_signal)
    run = Run(tmp_path / "run")
    with pytest.raises(StoppedError, match="signal 15 after step 6"):
        trained(job, run)
    assert [path.name for path in checkpoint.folders(run)] == [checkpoint.folder_name(6)]
