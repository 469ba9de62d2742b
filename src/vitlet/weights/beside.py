"""Reads `config.json` and `preprocessor_config.json` next to a third-party weights file.

Invalid values give a remark rather than an error, since the weights themselves may be intact.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from vitlet.bounds import Deviations, Means
from vitlet.normalisation import Normalisation


@dataclass(frozen=True)
class Beside:
    """Hugging Face's or timm's metadata for a weights file."""

    heads: int | None = None
    width: int | None = None
    depth: int | None = None
    pool: str | None = None
    """What the classifier reads, as timm's `global_pool`: `token`, `avg`, …."""
    normalisation: Normalisation | None = None
    activation: str = "gelu"
    remarks: tuple[str, ...] = ()
    """Sentences about metadata that is ignored."""


def read_beside(path: Path) -> Beside:
    """Read the metadata next to the weights file `path`; defaults if there is none."""
    remarks: list[str] = []
    config, preprocessing = (
        _object(path.parent / name, remarks) for name in ("config.json", "preprocessor_config.json")
    )
    normalisation = _normalisation(_part(config, "pretrained_cfg"), ("mean", "std"), "config.json", remarks)
    normalisation = normalisation or _normalisation(
        preprocessing, ("image_mean", "image_std"), "preprocessor_config.json", remarks
    )
    arguments, activation = _part(config, "model_args"), config.get("hidden_act")
    pool = arguments.get("global_pool", config.get("global_pool"))
    return Beside(
        heads=_count(config.get("num_attention_heads"), arguments.get("num_heads")),
        width=_count(config.get("hidden_size"), arguments.get("embed_dim")),
        depth=_count(config.get("num_hidden_layers"), arguments.get("depth")),
        pool=pool if isinstance(pool, str) else None,
        normalisation=normalisation,
        activation=activation if isinstance(activation, str) else "gelu",
        remarks=tuple(remarks),
    )


def _object(path: Path, remarks: list[str]) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    remarks.append(f"{path.name} beside the file is not a JSON object and is ignored")
    return {}


def _part(table: dict[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _count(*found: object) -> int | None:
    return next((value for value in found if type(value) is int and value > 0), None)


def _normalisation(
    table: dict[str, Any], names: tuple[str, str], file: str, remarks: list[str]
) -> Normalisation | None:
    values = [table.get(name) for name in names]
    if values == [None, None]:
        return None
    try:
        mean, std = (
            TypeAdapter(kind).validate_python(tuple(value) if isinstance(value, list) else value, strict=True)
            for kind, value in zip((Means, Deviations), values, strict=True)
        )
    except ValueError:  # raised by pydantic and by our own validators
        remarks.append(
            f"{file} beside the file is ignored: its {names[0]} and {names[1]} are not three numbers each, within "
            "0 … 1 and the second above 0"
        )
        return None
    return Normalisation(mean, std)
