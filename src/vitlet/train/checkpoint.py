"""Checkpoints: everything needed to continue training, in one folder that is complete or absent.

`checkpoints/step-00000123/{state.safetensors, manifest.json}`. The manifest carries the SHA-256 of the tensors and
its own, since neither safetensors nor torch notices a flipped bit. The latest checkpoint is computed, never stored;
two valid ones are kept, and the older is removed only once the newer is on disk. No pickle is written or read.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitlet.disk import remove_folder, storage_error, to_json_bytes, write_folder
from vitlet.distributed.world import World
from vitlet.errors import CheckpointError, NonFiniteError
from vitlet.run import Run
from vitlet.text import plural, printable
from vitlet.train.optim import named_parameters, names_of_state, state_of
from vitlet.weights.tensors import require_same

FORMAT = 2
KEEP = 2
STATE, MANIFEST = "state.safetensors", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes have been verified."""

    path: Path
    manifest: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def step(self) -> int:
        """Number of steps taken before it was written."""
        return self.manifest["step"]


def folder_name(step: int) -> str:
    """`step-00000123`."""
    return f"step-{step:08d}"


def folders(run: Run) -> list[Path]:
    """Checkpoint folders, newest step first; sorted by the step in the name, never by the clock."""
    if not run.checkpoints.is_dir():
        return []
    found = [p for p in run.checkpoints.iterdir() if re.fullmatch(r"step-\d{8,}", p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")), reverse=True)


def save(run: Run, *, step: int, objective: nn.Module, optimizer: Optimizer, facts: dict[str, Any]) -> Path:
    """Write the checkpoint of `step`, then prune.

    Args:
        run: Run directory to write to.
        step: Steps taken so far.
        objective: Its whole state dict is saved, including teachers, heads and centres.
        optimizer: Optimizer made by `build_optimizer`.
        facts: Further entries of the manifest (recipe, data fingerprint, offset of the metrics, machine).

    Raises:
        ResourceError: if the disk is full or the run's folder is gone; earlier checkpoints remain.
        NonFiniteError: if a weight is NaN or infinite; nothing is written.
    """
    tensors = _tensors(objective, optimizer)
    _require_finite(tensors, step=step, where=printable(run.path))
    state = safetensors.torch.save(tensors)
    manifest = {
        "format": FORMAT,
        "step": step,
        "files": {STATE: {"sha256": hashlib.sha256(state).hexdigest(), "bytes": len(state)}},
        **facts,
    }
    path = run.checkpoints / folder_name(step)
    try:
        run.checkpoints.mkdir(exist_ok=True)  # not its parents: a run that was moved away must not exist twice
    except OSError as error:
        raise storage_error(error, path, len(state)) from error
    write_folder(path, {STATE: state, MANIFEST: _sealed(manifest)})
    _prune(run, newest=path)
    return path


def _prune(run: Run, *, newest: Path) -> None:
    """Remove all but the newest valid ones; the steps in damaged ones have been trained again."""
    kept = 0
    for path in folders(run):
        if kept < KEEP and (path == newest or _is_valid(path)):
            kept += 1
        else:
            remove_folder(path)


def _tensors(objective: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value.detach().contiguous() for name, value in objective.state_dict().items()}
    for name, parameter in named_parameters(optimizer):
        for key, value in state_of(optimizer, parameter).items():
            tensors[f"optimizer.{name}.{key}"] = value.detach().contiguous()
    return tensors


def _require_finite(tensors: dict[str, Tensor], *, step: int, where: str) -> None:
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise NonFiniteError(
            f"NaN or infinity in {bad[0]} after step {step}",
            where=where,
            why=f"{plural(len(bad), 'tensor')} of {len(tensors)} have them; the last checkpoint is intact",
            fix="a lower learning rate (--set optimizer.base_lr=…), optimizer.clip_norm=1.0, or --precision fp32",
        )


def _sealed(manifest: dict[str, Any]) -> bytes:
    """JSON of the manifest plus the SHA-256 of the JSON without it."""
    return to_json_bytes({**manifest, "sha256": hashlib.sha256(to_json_bytes(manifest)).hexdigest()})


def _unsealed(content: bytes) -> dict[str, Any]:
    """Return the manifest if `content` is byte for byte what `_sealed` made.

    Raises:
        ValueError: if it is not.
    """
    manifest = json.loads(content)
    if not isinstance(manifest, dict) or not manifest.pop("sha256", None) or _sealed(manifest) != content:
        raise ValueError(f"{MANIFEST} is not what was written")
    return manifest


def _is_valid(path: Path) -> bool:
    try:
        read(path)
    except CheckpointError:
        return False
    return True


def read(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Raises:
        CheckpointError: if a file is missing, cut short, altered, or of another format.
    """
    try:
        manifest = _unsealed((path / MANIFEST).read_bytes())
        state = (path / STATE).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {printable(path)} is damaged", why=str(error)) from None
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {printable(path)} has format {manifest['format']}", why=f"this vitlet reads {FORMAT}"
        )
    expected = manifest["files"][STATE]
    if hashlib.sha256(state).hexdigest() != expected["sha256"]:
        raise CheckpointError(
            f"checkpoint {printable(path)} is damaged",
            why=f"{STATE} has {len(state):,} bytes and is not what was written ({expected['bytes']:,} bytes)",
        )
    if folder_name(manifest["step"]) != path.name:
        raise CheckpointError(
            f"checkpoint {printable(path)} was renamed", why=f"it was written after step {manifest['step']}"
        )
    return Checkpoint(path, manifest, safetensors.torch.load(state))


def latest(run: Run, *, world: World | None = None) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest valid checkpoint, and one sentence for each newer one that was skipped.

    Args:
        run: Run directory to read.
        world: All its ranks get what rank 0 finds: another host may not see the folder, or see a stale copy of it.

    Raises:
        CheckpointError: if there are checkpoints and none is valid.
    """
    world = world or World()
    found, passed = _latest_here(run) if world.is_first else (None, [])
    if world.size == 1:
        return found, passed
    manifest = world.broadcast(None if found is None else to_json_bytes(found.manifest))
    state = world.broadcast(None if found is None else safetensors.torch.save(found.tensors))
    if manifest is not None and state is not None and found is None:
        told = json.loads(manifest)
        found = Checkpoint(run.checkpoints / folder_name(told["step"]), told, safetensors.torch.load(state))
    return found, passed


def _latest_here(run: Run) -> tuple[Checkpoint | None, list[str]]:
    passed: list[str] = []
    candidates = folders(run)
    for path in candidates:
        try:
            return read(path), passed
        except CheckpointError as error:
            passed.append(str(error))
    if passed:
        raise CheckpointError(
            f"no valid checkpoint among {plural(len(candidates), 'checkpoint')}",
            where=printable(run.checkpoints),
            why=passed[0].rstrip("."),
            fix="restore a copy, or give the command that began the run again, with --fresh",
        )
    return None, []


def restore(checkpoint: Checkpoint, *, objective: nn.Module, optimizer: Optimizer) -> None:
    """Load a checkpoint's tensors into `objective` and `optimizer`, all of them or none.

    Raises:
        CheckpointError: naming the first keys, types and shapes that differ.
    """
    require_same(
        checkpoint.tensors,
        _tensors(objective, optimizer),
        what=f"checkpoint {printable(checkpoint.path)} is of another model",
        fix="give another --out, or give the command that began the run again, with --fresh",
        types=True,
    )
    parts = {name: name.removeprefix("model.") for name in checkpoint.tensors if name.startswith("model.")}
    objective.load_state_dict({short: checkpoint.tensors[name] for name, short in parts.items()})
    for name, parameter in named_parameters(optimizer):
        for key in names_of_state(optimizer):
            optimizer.state[parameter][key] = checkpoint.tensors[f"optimizer.{name}.{key}"].to(parameter.device)
