"""NaN and infinity in loss, gradient and input: the run stops before the step, and says which files were in it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import ADAMW, Job, Page, digest, metrics_are_json, tiny_objective

from vitlet.errors import NonFiniteError
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.run import Run
from vitlet.train import checkpoint, loop
from vitlet.train.optim import Rates, build_optimizer

K = 7
"""The step (0-based) that is poisoned; the last checkpoint is of step 6."""


def poisoned_loss(value: float) -> Callable[[Objective], None]:
    def wrap(objective: Objective) -> None:
        forward = objective.forward

        def worse(batch: object, step: Step) -> Losses:
            losses = forward(batch, step)
            return (
                Losses(losses.total * value, statistics={"bad": losses.total.detach() * value})
                if step.index == K
                else losses
            )

        objective.forward = worse

    return wrap


def poisoned_gradient(value: float) -> Callable[[Objective], None]:
    def wrap(objective: Objective) -> None:
        seen = {"backwards": 0}

        def worse(gradient: torch.Tensor) -> torch.Tensor:
            seen["backwards"] += 1
            return gradient * value if seen["backwards"] == K + 1 else gradient

        objective.mask_token.register_hook(worse)

    return wrap


def poisoned_input(value: float) -> Callable[[Objective], None]:
    def wrap(objective: Objective) -> None:
        patchify, seen = objective.encoder.patchify, {"calls": 0}

        def worse(images: torch.Tensor) -> torch.Tensor:
            seen["calls"] += 1
            flat = patchify(images).float()
            if seen["calls"] == K + 1:
                flat[0, 0, 0] = value
            return flat

        objective.encoder.patchify = worse

    return wrap


POISONS = {
    f"{where} {value}": make(value)
    for where, make in (("loss", poisoned_loss), ("gradient", poisoned_gradient), ("input", poisoned_input))
    for value in (math.nan, math.inf)
}


@pytest.mark.parametrize("poison", POISONS)
def test_stops_before_the_step(job: Job, tmp_path: Path, poison: str) -> None:
    run, page = Run(tmp_path / "run"), Page()
    assert job.but(wrap=POISONS[poison]).finish(run, page) == NonFiniteError.exit_code == 6, (
        tmp_path / "error.txt"
    ).read_text()
    message = (tmp_path / "error.txt").read_text()
    assert f"at step {K}" in message
    assert "nonfinite.json" in message
    found, passed = checkpoint.latest(run)
    assert found is not None
    assert (found.step, passed) == (6, [])
    assert [row["step"] for row in run.metrics()] == list(range(1, K + 1))
    assert metrics_are_json(run)
    record = json.loads((run.path / "nonfinite.json").read_text(), parse_constant=pytest.fail)
    assert record["step"] == K
    assert len(record["files"]) == job.batch_size
    assert all(name.endswith(".png") for name in record["files"])
    assert None in record["terms"].values()


def test_the_weights_are_those_of_the_last_good_step(job: Job, tmp_path: Path) -> None:
    """Going on without the poison gives the bits of a run that never met it."""
    run, reference, page = Run(tmp_path / "run"), Run(tmp_path / "reference"), Page()
    assert job.but(wrap=POISONS["gradient nan"]).finish(run, page) == 6
    assert job.finish(run, page) == 0
    assert job.finish(reference, page) == 0
    assert digest(run, job.total) == digest(reference, job.total)


def test_nothing_moves_when_the_check_refuses(job: Job, tmp_path: Path) -> None:
    before, after = weights_around_step_k(job, tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_control_without_the_check_one_step_makes_every_weight_nan(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "require_finite", lambda **_: None)
    before, after = weights_around_step_k(job, tmp_path, clip_norm=1.0)
    trained = {name for name in before if not name.endswith("pos_embed")}
    assert all(before[name].isfinite().all() for name in trained)
    assert all(after[name].isnan().all() for name in trained)


def weights_around_step_k(
    job: Job, tmp_path: Path, clip_norm: float | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State dicts before the poisoned step and after the attempt at it."""
    objective = tiny_objective()
    POISONS["gradient nan"](objective)
    optimizer = build_optimizer(objective, ADAMW, depth=1)
    states: list[dict[str, torch.Tensor]] = []

    def schedule(step: int) -> Rates:
        if step == K:
            states.append({k: v.clone() for k, v in objective.state_dict().items()})
        return Rates(ADAMW.base_lr, ADAMW.weight_decay)

    run = Run(tmp_path / "run")
    metrics = loop.MetricsLog(run, offset=0)
    try:
        loop.train(
            objective,
            batches=job.batches(),
            optimizer=optimizer,
            schedule=schedule,
            budget=loop.Budget(total_steps=K + 1, checkpoint_every=100, log_every=100, clip_norm=clip_norm),
            writer=loop.Writer(run=run, metrics=metrics, teller=loop.Teller(quiet=True)),
        )
    except NonFiniteError:
        pass
    finally:
        metrics.close()
    return states[0], objective.state_dict()


def test_weights_that_are_not_finite_are_never_saved(job: Job, tmp_path: Path) -> None:
    """A finite gradient can still carry a weight beyond the largest number."""
    objective = tiny_objective()
    optimizer = build_optimizer(objective, ADAMW, depth=1)
    run = Run(tmp_path / "run")
    run.path.mkdir()
    checkpoint.save(run, step=1, objective=objective, optimizer=optimizer, facts={})
    with torch.no_grad():
        objective.decoder_pred.bias[0] = math.inf
    with pytest.raises(NonFiniteError, match=r"decoder_pred\.bias after step 2"):
        checkpoint.save(run, step=2, objective=objective, optimizer=optimizer, facts={})
    assert [p.name for p in checkpoint.folders(run)] == ["step-00000001"]
