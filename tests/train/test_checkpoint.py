"""What a checkpoint holds and which is the latest; how they fail stands in `tests/faults/test_damage.py`."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from harness import ADAMW, digest, load, tiny_objective

from vitlet.errors import CheckpointError
from vitlet.recipe import OptimizerConfig
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.optim import build_optimizer


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    return run


def moved(config: OptimizerConfig) -> tuple:
    """An objective and its optimizer after a step."""
    objective = tiny_objective(seed=1)
    optimizer = build_optimizer(objective, config, depth=1)
    for parameter in objective.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    return objective, optimizer


CONFIGS = {
    "AdamW": ADAMW,
    "SGD with momentum": OptimizerConfig(kind="sgd"),
    "plain SGD": OptimizerConfig(kind="sgd", betas=(0.0, 0.0)),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_what_was_saved_comes_back_to_the_bit(run: Run, config: str) -> None:
    objective, optimizer = moved(CONFIGS[config])
    facts = {"recipe": "abc", "metrics_bytes": 17}
    path = checkpoint.save(run, step=3, objective=objective, optimizer=optimizer, facts=facts)
    other = tiny_objective(seed=2)
    second = build_optimizer(other, CONFIGS[config], depth=1)
    found = load(run, other, second)
    assert found is not None
    assert (found.step, found.manifest["metrics_bytes"]) == (3, 17)
    assert all(
        torch.equal(a, b) for a, b in zip(objective.state_dict().values(), other.state_dict().values(), strict=True)
    )
    before = digest(run, 3)
    checkpoint.save(run, step=3, objective=other, optimizer=second, facts=facts)
    assert digest(run, 3) == before
    manifest = checkpoint.read(path).manifest
    assert manifest["recipe"] == "abc"
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "state.safetensors"]


@pytest.mark.parametrize(
    "lost", ["every", "optimizer.decoder_pred.weight.exp_avg", "optimizer.decoder_pred.weight.step"]
)
def test_a_checkpoint_without_tensors_of_the_optimizer_is_refused_and_nothing_is_loaded(run: Run, lost: str) -> None:
    objective, optimizer = moved(ADAMW)
    found = checkpoint.read(checkpoint.save(run, step=1, objective=objective, optimizer=optimizer, facts={}))
    kept = {k: v for k, v in found.tensors.items() if not k.startswith("optimizer." if lost == "every" else lost)}
    other = tiny_objective(seed=2)
    second = build_optimizer(other, ADAMW, depth=1)
    before = safetensors.torch.save(other.state_dict())
    with pytest.raises(CheckpointError, match=r"another model.*optimizer\.\S+: missing there, float32"):
        checkpoint.restore(replace(found, tensors=kept), objective=other, optimizer=second)
    assert safetensors.torch.save(other.state_dict()) == before
    assert not second.state
    checkpoint.restore(found, objective=other, optimizer=second)  # the control: whole, it is taken
    assert len(second.state) == len(optimizer.state)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_no_gradient_has_reached_yet_goes_on_as_if_it_had_not_been_saved(run: Run, config: str) -> None:
    """As the prototypes that DINO holds at first, in a run that is stopped meanwhile."""
    pair = [tiny_objective(seed=1) for _ in range(2)]
    optimizers = [build_optimizer(objective, CONFIGS[config], depth=1) for objective in pair]

    def step(index: int, *, held: bool) -> None:
        for name, parameter in pair[index].named_parameters():
            parameter.grad = None if held and name.startswith("decoder") else torch.full_like(parameter, 0.1)
        for group in optimizers[index].param_groups:
            group["lr"] = 0.01
        optimizers[index].step()

    step(0, held=True)
    checkpoint.save(run, step=1, objective=pair[0], optimizer=optimizers[0], facts={"metrics_bytes": 0})
    load(run, pair[1], optimizers[1])
    for index in (0, 1):
        step(index, held=True)
        step(index, held=False)
    assert safetensors.torch.save(pair[0].state_dict()) == safetensors.torch.save(pair[1].state_dict())


def test_the_latest_is_that_of_the_highest_step_whatever_the_clock_says(run: Run) -> None:
    objective, optimizer = moved(ADAMW)
    steps = [99_999_999, 100_000_000]  # more digits than the name is padded to
    for step in steps:
        checkpoint.save(run, step=step, objective=objective, optimizer=optimizer, facts={})
    newer, older = checkpoint.folders(run)
    assert [newer.name, older.name] == ["step-100000000", "step-99999999"]
    import os

    os.utime(newer, (0, 0))
    found, _ = checkpoint.latest(run)
    assert found is not None
    assert found.step == 100_000_000


def test_two_are_kept(run: Run) -> None:
    objective, optimizer = moved(ADAMW)
    for step in range(1, 6):
        checkpoint.save(run, step=step, objective=objective, optimizer=optimizer, facts={})
    assert [p.name for p in checkpoint.folders(run)] == ["step-00000005", "step-00000004"]


def test_other_files_are_left_alone(run: Run) -> None:
    objective, optimizer = moved(ADAMW)
    (run.checkpoints / "mine").mkdir(parents=True)
    (run.checkpoints / "step-1").mkdir()
    for step in (7, 8, 9):
        checkpoint.save(run, step=step, objective=objective, optimizer=optimizer, facts={})
    names = sorted(p.name for p in run.checkpoints.iterdir())
    assert names == ["mine", "step-00000008", "step-00000009", "step-1"]


def test_nothing_there_is_not_an_error(run: Run) -> None:
    assert checkpoint.latest(run) == (None, [])
    assert checkpoint.folders(run) == []


def test_no_pickle_is_written(run: Run) -> None:
    objective, optimizer = moved(ADAMW)
    path = checkpoint.save(run, step=1, objective=objective, optimizer=optimizer, facts={})
    header_length = int.from_bytes((path / checkpoint.STATE).read_bytes()[:8], "little")
    assert (path / checkpoint.STATE).read_bytes()[8:9] == b"{"
    assert header_length < path.joinpath(checkpoint.STATE).stat().st_size
