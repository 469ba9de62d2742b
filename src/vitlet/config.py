"""The base class of all configs: frozen values that reject unknown keys.

Configs are data without torch, so that a wrong key is reported before anything heavy is imported
(`docs/decisions/0001-configs-without-torch.md`).
"""

import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from vitlet.bounds import OutOfBounds
from vitlet.errors import UsageError
from vitlet.text import did_you_mean, uncapitalised

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(pydantic.BaseModel):
    """Frozen values with checked types and bounds; no number may be NaN or infinite."""

    # Without use_attribute_docstrings: to find them pydantic goes through all loaded modules, once for each field.
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def changed(self: ConfigT, **changes: Any) -> ConfigT:
        """Return a copy with top-level fields replaced and everything validated again."""
        return self.from_json({**self.to_json(), **{k: _plain(v) for k, v in changes.items()}})

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON types; `from_json` returns an equal value."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls: type[ConfigT], values: Mapping[str, Any], *, where: str = "") -> ConfigT:
        """Build a config from plain values.

        Raises:
            UsageError: naming each wrong key or value with its dotted path, and the nearest known key.
        """
        try:
            return cls.model_validate_json(json.dumps(values))
        except pydantic.ValidationError as error:
            raise explain(error, cls, where=where) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_json()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def parse_value(text: str) -> Any:
    """Parse the value of a `key=value` override: as JSON if valid (`3`, `1e-3`, `true`, `[0.2, 1]`), else as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def apply_overrides(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of plain `values` with dotted keys replaced (`{"optimizer.base_lr": 1e-3}`; list items by index).

    Raises:
        UsageError: for an unknown key; suggests the nearest known one.
    """
    result = json.loads(json.dumps(values))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node: Any = result
        for key in parents:
            node = _child(node, key, dotted, values)
        _child(node, last, dotted, values)
        if isinstance(node, list):
            node[int(last)] = _plain(value)
        else:
            node[last] = _plain(value)
    return result


def _child(node: Any, key: str, dotted: str, values: dict[str, Any]) -> Any:
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        return node[int(key)]
    if isinstance(node, dict) and key in node:
        return node[key]
    raise UsageError(
        f"unknown key {dotted!r}",
        why=did_you_mean(dotted, dotted_keys(values)),
        fix="vitlet recipes NAME",
    )


def dotted_keys(values: Any, prefix: str = "") -> list[str]:
    """Every dotted key that `apply_overrides` accepts in plain `values`."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    keys: list[str] = []
    for key, value in pairs:
        keys += [f"{prefix}{key}", *dotted_keys(value, f"{prefix}{key}.")]
    return keys


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested JSON to `a.b.0.c` → the value as text."""
    if isinstance(value, dict) and value:
        pairs = value.items()
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        pairs = enumerate(value)
    else:
        return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
    return {
        key: text
        for name, inner in pairs
        for key, text in flatten(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def fingerprint(values: Any) -> str:
    """Twelve hex digits that change with any of these plain values, and not with the order of keys."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def explain(error: pydantic.ValidationError, config: type[Config], *, where: str = "") -> UsageError:
    """Convert to one `UsageError` that names all wrong keys and values.

    A `UsageError` raised by a validator is kept; to that of a value out of bounds its key is added.
    """
    lines, fixes = [], []
    for item in error.errors():
        path, owner = _walk(config, item["loc"])
        key = ".".join(path)
        raised = item.get("ctx", {}).get("error")
        if isinstance(raised, OutOfBounds):
            at = f"{key} in {where}" if where else key
            return UsageError(raised.what, where=at, why=raised.why, fix=f"{key}={raised.fix}")
        if isinstance(raised, UsageError):
            return UsageError(raised.what, where=where or raised.where, why=raised.why, fix=raised.fix)
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}. {did_you_mean(path[-1], owner.model_fields if owner else [])}".rstrip())
        elif item["type"] == "missing":
            lines.append(f"key {key!r} is missing")
        else:
            shown = repr(item["input"])
            lines.append(f"{key} = {shown[:60]}: {uncapitalised(item['msg'])}")
        fixes.append(key)
    return UsageError("; ".join(lines).rstrip(".?"), where=where, fix=f"give {', '.join(fixes)} a valid value")


def _walk(config: type[Config], place: tuple[int | str, ...]) -> tuple[list[str], type[Config] | None]:
    """The dotted key of a location reported by pydantic, and the config class that its last part belongs to.

    Within a union pydantic also reports the tag of the member, which is not part of a key.
    """
    path: list[str] = []
    owner: type[Config] | None = config
    members = [config]
    for part in place:
        if len(members) > 1 and isinstance(part, str):
            members = [m for m in members if part in [field.default for field in m.model_fields.values()]]
            continue
        path.append(str(part))
        if isinstance(part, int):
            continue  # stay with the list's item type
        owner = next(iter(members), None)
        field = owner.model_fields.get(part) if owner else None
        members = _configs_in(field.annotation) if field else []
    return path, owner


def _configs_in(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return [c for a in typing.get_args(annotation) for c in _configs_in(a)]
    return []
