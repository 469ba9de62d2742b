"""An encoder or classifier as a folder that timm opens, and back.

`config.json` (timm's own format: architecture, its arguments, preprocessing), `model.safetensors` with timm's names,
and a `README.md` card. The head count stands among the arguments, since tensors alone do not show it. A `vitlet`
section that timm ignores holds what is needed to train on.

    timm.create_model("local-dir:RUN/encoder", pretrained=True)
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
from torch import Tensor

from vitlet.errors import CheckpointError
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.recipe import Centre, EncoderConfig, View
from vitlet.run import read_json, to_json_bytes, write_folder
from vitlet.text import plural, printable

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


@dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    encoder: Encoder
    classifier: Classifier | None
    classes: tuple[str, ...]
    evaluation: View
    sha256: str
    """Of the weights file."""
    facts: dict[str, Any]
    """Provenance as it was written."""


def write_model(
    path: Path,
    *,
    encoder: Encoder,
    evaluation: View,
    facts: dict[str, Any],
    classifier: Classifier | None = None,
    classes: tuple[str, ...] = (),
) -> None:
    """Write the folder, whole or not at all.

    Args:
        path: The folder; replaced if it is there.
        encoder: Its tensors get timm's names.
        evaluation: The view that evaluation uses, told to timm as preprocessing.
        facts: Provenance for the card: recipe, data, command, numbers.
        classifier: Adds `fc_norm` and `head`.
        classes: Names of the head's outputs.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.vit.state_dict().items()}
    if classifier is not None:
        tensors |= {k: v.detach().cpu().contiguous() for k, v in classifier.state_dict().items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    config = _timm_config(encoder, evaluation, classifier, classes)
    config["vitlet"] = {
        "encoder": encoder.config.to_json(),
        "evaluation": evaluation.to_json(),
        "pool": classifier.pool if classifier else None,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "facts": facts,
    }
    write_folder(path, {WEIGHTS: weights, CONFIG: to_json_bytes(config), CARD: _card(encoder, classes, facts).encode()})


def _timm_config(
    encoder: Encoder, evaluation: View, classifier: Classifier | None, classes: tuple[str, ...]
) -> dict[str, Any]:
    shape = encoder.config
    num_classes = len(classes)
    share = evaluation.crop.share if isinstance(evaluation.crop, Centre) else 1.0
    pool = "token" if shape.final_norm else "avg"
    arguments = {
        "img_size": shape.image_size,
        "patch_size": shape.patch_size,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": shape.mlp_ratio,
        "global_pool": pool,
        # Without a head an encoder trained for mean pooling has no final norm at all.
        **({"final_norm": False} if not shape.final_norm and classifier is None else {}),
    }
    return {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": num_classes,
        "num_features": shape.width,
        "global_pool": pool,
        "model_args": arguments,
        **({"label_names": list(classes)} if classes else {}),
        "pretrained_cfg": {
            "input_size": [3, shape.image_size, shape.image_size],
            "fixed_input_size": True,
            "interpolation": evaluation.crop.interpolation if isinstance(evaluation.crop, Centre) else "bicubic",
            "crop_pct": share,
            "crop_mode": "center",
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "num_classes": num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _card(encoder: Encoder, classes: tuple[str, ...], facts: dict[str, Any]) -> str:
    shape = encoder.config
    kind = f"classifier of {plural(len(classes), 'class', 'classes')}" if classes else "encoder without a head"
    lines = [
        "---",
        "library_name: timm",
        "tags: [image-classification, vision-transformer, vitlet]",
        "---",
        "",
        f"# Vision transformer, {kind}",
        "",
        f"Width {shape.width}, depth {shape.depth}, {shape.heads} heads, {shape.image_size} px in patches of "
        f"{shape.patch_size} px. Written by vitlet.",
        "",
        "```python",
        "import timm",
        'model = timm.create_model("local-dir:PATH/OF/THIS/FOLDER", pretrained=True)',
        "```",
        "",
        "## Provenance",
        "",
        "```json",
        json.dumps(facts, indent=2).replace("```", "'''"),
        "```",
        "",
    ]
    return "\n".join(lines)


def read_model(path: Path) -> Saved:
    """Read a folder that `write_model` wrote, all of it, verified.

    Raises:
        CheckpointError: if a file is missing, altered, or the tensors are not exactly the network's.
    """
    config = read_json(path / CONFIG)
    ours = config.get("vitlet") if isinstance(config, dict) else None
    if not isinstance(ours, dict):
        raise CheckpointError(
            f"{printable(path / CONFIG)} was not written by vitlet", fix="vitlet import FILE --out DIR"
        )
    content = (path / WEIGHTS).read_bytes() if (path / WEIGHTS).is_file() else b""
    if hashlib.sha256(content).hexdigest() != ours["sha256"]:
        raise CheckpointError(
            f"{printable(path / WEIGHTS)} is missing or damaged", why="its SHA-256 is not the one in config.json"
        )
    tensors = safetensors.torch.load(content)
    preprocessing = config["pretrained_cfg"]
    encoder = Encoder(
        EncoderConfig.from_json(ours["encoder"]),
        mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]),
    )
    classes = tuple(config.get("label_names", ()))
    classifier = None
    if ours["pool"]:
        classifier = Classifier(encoder.config.width, num_classes=len(classes), pool=ours["pool"], seed=0)
        names = classifier.state_dict().keys()
        classifier.load_state_dict({k: tensors.pop(k) for k in list(names) if k in tensors})
    load_exactly(encoder, tensors, where=printable(path / WEIGHTS))
    return Saved(encoder, classifier, classes, View.from_json(ours["evaluation"]), ours["sha256"], ours["facts"])


def load_exactly(encoder: Encoder, tensors: dict[str, Tensor], *, where: str) -> None:
    """Load tensors with timm's names; every one must be used and none may be missing.

    Raises:
        CheckpointError: naming the first names and shapes that differ.
    """
    here = {k: tuple(v.shape) for k, v in encoder.vit.state_dict().items()}
    there = {k: tuple(v.shape) for k, v in tensors.items()}
    differing = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
    if differing:
        shown = "; ".join(f"{k}: {there.get(k, 'missing')} there, {here.get(k, 'missing')} here" for k in differing[:5])
        raise CheckpointError(f"{where} does not fit this encoder", why=f"{len(differing)} tensors differ: {shown}")
    encoder.vit.load_state_dict(tensors)


def initialised_from(source: Encoder, target: EncoderConfig, *, seed: int) -> Encoder:
    """An encoder made as `target` says, with all tensors of `source` that it has.

    The final norm is the only part that may be left out (a mean-pooling head brings its own) or start afresh; its
    absence is by design of the recipe. Everything else must fit.

    Raises:
        CheckpointError: if the shapes differ.
    """
    encoder = Encoder(target, mean=source.mean, std=source.std, seed=seed)
    tensors = cast(dict[str, Tensor], dict(source.vit.state_dict()))
    if not target.final_norm:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("norm.")}
    elif not source.config.final_norm:
        tensors |= {k: v for k, v in encoder.vit.state_dict().items() if k.startswith("norm.")}
    load_exactly(encoder, tensors, where="the initial encoder")
    return encoder
