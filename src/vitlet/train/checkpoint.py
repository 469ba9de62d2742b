"""Checkpoints: everything training needs to go on, in one folder that is whole or not there.

`checkpoints/step-00000123/{state.safetensors, manifest.json}`. The manifest carries the SHA-256 of the tensors, since
neither safetensors nor torch notices a flipped bit. The latest checkpoint is computed, never stored; at least two are
kept, and the older goes only when the newer is on the disk. No pickle is written or read.
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

from vitlet.errors import CheckpointError
from vitlet.run import Run, remove_folder, to_json_bytes, write_folder
from vitlet.text import plural, printable
from vitlet.train.optim import named_parameters

FORMAT = 1
KEEP = 2
STATE, MANIFEST = "state.safetensors", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes are what was written."""

    path: Path
    manifest: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def step(self) -> int:
        """Steps that were taken before it was written."""
        return self.manifest["step"]


def folder_name(step: int) -> str:
    """`step-00000123`."""
    return f"step-{step:08d}"


def folders(run: Run) -> list[Path]:
    """Checkpoint folders, newest step first; by the step in the name, never by the clock."""
    if not run.checkpoints.is_dir():
        return []
    found = [p for p in run.checkpoints.iterdir() if re.fullmatch(r"step-\d{8}", p.name)]
    return sorted(found, reverse=True)


def save(run: Run, *, step: int, objective: nn.Module, optimizer: Optimizer, facts: dict[str, Any]) -> Path:
    """Write the checkpoint of `step`, then prune.

    Args:
        run: Where.
        step: Steps taken so far.
        objective: Its whole state dict is kept: teachers, heads and centres too.
        optimizer: Made by `build_optimizer`.
        facts: Further entries of the manifest (recipe, data fingerprint, offset of the metrics, machine).

    Raises:
        ResourceError: if the disk is full; the checkpoints that were there still are.
    """
    state = safetensors.torch.save(_tensors(objective, optimizer))
    manifest = {
        "format": FORMAT,
        "step": step,
        "files": {STATE: {"sha256": hashlib.sha256(state).hexdigest(), "bytes": len(state)}},
        **facts,
    }
    path = run.checkpoints / folder_name(step)
    write_folder(path, {STATE: state, MANIFEST: to_json_bytes(manifest)})
    for old in folders(run)[KEEP:]:
        remove_folder(old)
    return path


def _tensors(objective: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value.detach().contiguous() for name, value in objective.state_dict().items()}
    for name, parameter in named_parameters(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value).detach().contiguous()
    return tensors


def read(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Raises:
        CheckpointError: if a file is missing, cut short, altered, or of another format.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        expected = manifest["files"][STATE]
        state = (path / STATE).read_bytes()
        written_by = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {printable(path)} is damaged", why=f"{type(error).__name__}: {error}") from None
    if written_by != FORMAT:
        raise CheckpointError(f"checkpoint {printable(path)} has format {written_by}", why=f"this vitlet reads {FORMAT}")
    if len(state) != expected["bytes"] or hashlib.sha256(state).hexdigest() != expected["sha256"]:
        raise CheckpointError(
            f"checkpoint {printable(path)} is damaged",
            why=f"{STATE} has {len(state):,} bytes and is not what was written ({expected['bytes']:,} bytes)",
        )
    return Checkpoint(path, manifest, safetensors.torch.load(state))


def latest(run: Run) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint, and a sentence for each newer one that had to be passed over.

    Raises:
        CheckpointError: if there are checkpoints and none is valid.
    """
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
            fix="restore a copy, or start anew with --fresh",
        )
    return None, []


def restore(checkpoint: Checkpoint, *, objective: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's tensors into `objective` and `optimizer`, all of them or none.

    Raises:
        CheckpointError: naming the first keys and shapes that differ.
    """
    here = {f"model.{name}": tuple(value.shape) for name, value in objective.state_dict().items()}
    there = {k: tuple(v.shape) for k, v in checkpoint.tensors.items() if k.startswith("model.")}
    differing = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
    if differing:
        shown = "; ".join(f"{k}: {there.get(k, 'missing')} there, {here.get(k, 'missing')} here" for k in differing[:5])
        raise CheckpointError(
            f"checkpoint {printable(checkpoint.path)} is of another model",
            why=f"{plural(len(differing), 'tensor')} of {len(here)} differ: {shown}",
            fix="give another --out, or start anew with --fresh",
        )
    objective.load_state_dict({k.removeprefix("model."): v for k, v in checkpoint.tensors.items() if k in here})
    for name, parameter in named_parameters(optimizer):
        prefix = f"optimizer.{name}."
        state = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {k: _placed(v, parameter) for k, v in state.items()}


def _placed(value: Tensor, parameter: nn.Parameter) -> Tensor:
    return value.to(parameter.device) if value.ndim else value.clone()
