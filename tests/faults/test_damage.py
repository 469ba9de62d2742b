"""Checkpoints that are not what was written: named, passed over, never loaded in silence."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from harness import ADAMW, TINY, Job, Page, digest, load, tiny_objective

from vitlet.disk import to_json_bytes
from vitlet.errors import CheckpointError
from vitlet.methods.mae import MAE
from vitlet.nn.encoder import Encoder
from vitlet.recipe import OptimizerConfig
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.optim import build_optimizer

FLIPS = 200


@pytest.fixture(scope="module")
def finished(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("finished") / "run")
    assert job.finish(run, Page()) == 0
    return run


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """Checkpoints of steps 9 and 12, and leave to harm them."""
    copy = Run(tmp_path / "run")
    shutil.copytree(finished.path, copy.path)
    return copy


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


HARMS = {
    "cut short": cut,
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "gone": Path.unlink,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("file", [checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(
    job: Job, run: Run, finished: Run, harm: str, file: str
) -> None:
    HARMS[harm](checkpoint.folders(run)[0] / file)
    found, passed = checkpoint.latest(run)
    assert found is not None
    assert found.step == 9
    assert len(passed) == 1
    assert "step-00000012" in passed[0]
    assert job.finish(run, page := Page()) == 0
    assert page["start"] == 9
    assert digest(run, job.total) == digest(finished, job.total)
    assert checkpoint.latest(run)[1] == []


@pytest.mark.parametrize("file", [checkpoint.STATE, checkpoint.MANIFEST])
def test_every_flipped_bit_is_found(run: Run, file: str) -> None:
    path = checkpoint.folders(run)[0]
    content, draw = bytearray((path / file).read_bytes()), random.Random(0)
    checkpoint.read(path)
    for _ in range(FLIPS):
        place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
        content[place] ^= bit
        (path / file).write_bytes(content)
        with pytest.raises(CheckpointError, match="step-00000012 is damaged"):
            checkpoint.read(path)
        content[place] ^= bit
    (path / file).write_bytes(content)
    checkpoint.read(path)


def test_no_valid_checkpoint_is_an_error_and_not_a_fresh_start(job: Job, run: Run, tmp_path: Path) -> None:
    for path in checkpoint.folders(run):
        cut(path / checkpoint.STATE)
    with pytest.raises(CheckpointError, match=r"no valid checkpoint among 2 checkpoints.*Fix: .*--fresh"):
        checkpoint.latest(run)
    assert job.finish(run, Page()) == CheckpointError.exit_code == 4
    assert "step-00000012" in (tmp_path / "error.txt").read_text()


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_two_that_are_kept(run: Run) -> None:
    cut(checkpoint.folders(run)[0] / checkpoint.STATE)
    objective = tiny_objective()
    optimizer = build_optimizer(objective, ADAMW, depth=1)
    checkpoint.save(run, step=10, objective=objective, optimizer=optimizer, facts={})
    assert [p.name for p in checkpoint.folders(run)] == ["step-00000010", "step-00000009"]
    assert checkpoint.latest(run)[1] == []


def test_a_renamed_folder_is_not_another_step(run: Run) -> None:
    newest = checkpoint.folders(run)[0]
    newest.rename(newest.parent / "step-00000099")
    found, passed = checkpoint.latest(run)
    assert found is not None
    assert found.step == 9
    assert "was renamed" in passed[0]


def test_another_format_is_named(run: Run) -> None:
    path = checkpoint.folders(run)[0]
    manifest = checkpoint.read(path).manifest | {"format": 99}
    (path / checkpoint.MANIFEST).write_bytes(checkpoint._sealed(manifest))
    with pytest.raises(CheckpointError, match="has format 99"):
        checkpoint.read(path)


def test_an_edited_manifest_is_refused(run: Run) -> None:
    path = checkpoint.folders(run)[0]
    manifest = checkpoint.read(path).manifest | {"step": 11}
    (path / checkpoint.MANIFEST).write_bytes(to_json_bytes(manifest))
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.read(path)


def mae(decoder_depth: int = 1, **encoder: int) -> MAE:
    return MAE(Encoder(TINY.changed(**encoder)), decoder_width=8, decoder_heads=1, decoder_depth=decoder_depth)


STRANGE = {
    "wider": lambda: mae(width=32),
    "deeper": lambda: mae(depth=2),
    "another decoder": lambda: mae(decoder_depth=2),
    "float64": lambda: mae().double(),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_another_architecture_is_refused_with_keys_and_shapes(run: Run, strange: str) -> None:
    objective = STRANGE[strange]()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"is of another model\. \d+ tensors of \d+ differ: model\."):
        load(run, objective, build_optimizer(objective, ADAMW, depth=1))
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())


def test_optimizer_tensors_that_nobody_claims_are_refused(run: Run) -> None:
    objective = tiny_objective()
    objective.mask_token.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"optimizer\.mask_token\.exp_avg"):
        load(run, objective, build_optimizer(objective, OptimizerConfig(), depth=1))
