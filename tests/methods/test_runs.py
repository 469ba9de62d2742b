"""The contract of every method in a whole run: going on and sharing the work change nothing, timm opens what is left.

Each debug recipe is trained for a few steps with what could break a promise switched on: drop path, mixed images,
prototypes that are frozen beyond the first checkpoint, a queue that comes round.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from ranked import start_world
from small_runs import DETECTING, QUIET, SMALLER, interrupted, losses, rows, weights, write_images
from torch import Tensor

from forked import errors, wait
from vitlet.distributed.world import World
from vitlet.jobs.training import finetune, pretrain, resume
from vitlet.methods.objective import Objective
from vitlet.nn.encoder import Encoder
from vitlet.recipes import all_recipes, by_name, from_json
from vitlet.recipes import debug as debug_recipes
from vitlet.run import Run
from vitlet.train import checkpoint

SHORT: dict[str, Any] = SMALLER | {"optimizer.epsilon": 1e-3}
"""With AdamW's own epsilon a weight without gradient would follow the rounding of sums."""
DROPPING = SHORT | {"encoder.depth": 2, "encoder.drop_path": 0.3}
TAUGHT = SHORT | {"objective.teacher": "untrained:test_vit"}
SETTINGS: dict[str, dict[str, Any]] = {
    "debug": SHORT | {"objective.decoder_width": 16, "objective.decoder_heads": 2},
    "debug_supervised": DROPPING | {"objective.mixup": 0.8, "objective.cutmix": 1.0, "objective.smoothing": 0.1},
    "debug_dino": DROPPING | {"objective.batchnorm": True, "objective.freeze_prototypes_steps": 4},
    "debug_simmim": DROPPING,
    "debug_distill": TAUGHT | {"objective.layers": [[1, 2]], "objective.teacher_precision": "fp32"},
    "debug_seed": TAUGHT | {"objective.queue": 20},
    "debug_detection": SHORT | DETECTING,
}
"""By debug recipe; `SHORT` for any other."""
NAMES = [name for name, make in all_recipes().items() if make.__module__ == debug_recipes.__name__]


@pytest.fixture(scope="module", params=NAMES)
def train(request: pytest.FixtureRequest, annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same training of one recipe, into any folder `out`."""
    objective = by_name(request.param).objective
    train = functools.partial(finetune, init=None) if objective.learns_labels else pretrain
    images = annotated
    if not objective.learns_objects():
        images = write_images(tmp_path_factory.mktemp("images"), train=8, test=2)
    return functools.partial(train, request.param, data=images, options=QUIET, set=SETTINGS.get(request.param, SHORT))


@pytest.fixture(scope="module")
def run(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Only to be read."""
    return train(out=tmp_path_factory.mktemp("runs") / "run")


def _model(run: Run) -> bytes:
    return (run.encoder / "model.safetensors").read_bytes()


def _state(run: Run) -> dict[str, Tensor]:
    """Weights, teachers, queues and statistics of the last checkpoint."""
    tensors = checkpoint.read(checkpoint.folders(run)[0]).tensors
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def _objective(run: Run) -> Objective:
    """As the last checkpoint has it."""
    recipe = from_json(run.recipe_json())
    objective = recipe.objective.build(Encoder(recipe.encoder), num_classes=2, seed=0)
    objective.load_state_dict(_state(run))
    return objective.eval()


def test_going_on_from_a_checkpoint_changes_no_bit(run: Run, tmp_path: Path) -> None:
    """Of weights, teachers, queues and optimizer, losses and probes, and the model."""
    begun = interrupted(run, tmp_path / "begun")
    assert len(checkpoint.folders(begun)) == 1
    assert resume(begun.path, options=QUIET) == begun
    assert weights(begun) == weights(run)
    assert rows(begun) == rows(run)
    assert _model(begun) == _model(run)


@torch.no_grad()
def test_timm_alone_takes_every_tensor_of_the_model_and_computes_the_same(run: Run) -> None:
    model = timm.create_model(f"local-dir:{run.encoder}", pretrained=True).eval()  # strict: no tensor more or less
    told = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(told[key])[:, None, None] for key in ("mean", "std"))
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = _objective(run).encoder(images)
    torch.testing.assert_close(model.forward_features((images / 255 - mean) / std), ours, rtol=1e-4, atol=1e-5)


def test_two_ranks_learn_what_one_learns(run: Run, train: Callable[..., Run], tmp_path: Path) -> None:
    """Losses, and all that the last checkpoint holds of weights, teachers, queues and statistics."""

    def body(_: World) -> None:
        train(out=tmp_path / "run")

    assert [wait(pid) for pid in start_world(body, tmp_path)] == [0, 0], errors(tmp_path)
    two = Run(tmp_path / "run")
    assert losses(two) == pytest.approx(losses(run), rel=1e-4)
    torch.testing.assert_close(_state(two), _state(run), rtol=1e-3, atol=1e-5)
