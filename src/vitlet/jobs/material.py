"""The inputs of a job: checked images, the device, the initial encoder."""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitlet.console import Teller
from vitlet.data.choice import Subset
from vitlet.data.detection.annotations import Annotations, annotations_of
from vitlet.data.detection.following import Objects
from vitlet.data.index import Index
from vitlet.data.subsets import balanced, divide, subset_ids, training_ids
from vitlet.data.verdicts import Verdicts
from vitlet.errors import CheckpointError, UsageError
from vitlet.evaluation.features import encoder_digest
from vitlet.jobs.images import judged, require_labels
from vitlet.jobs.launch import RANDOM_START, Launch
from vitlet.jobs.left_out import leave_out_again
from vitlet.jobs.options import Options
from vitlet.nn.convnet import AnyEncoder, ConvEncoder, new_encoder, require_patches
from vitlet.recipe import AnyEncoderConfig, ConvNetConfig, Recipe
from vitlet.text import printable
from vitlet.weights.folder import Saved, initialised_from, load_exactly
from vitlet.weights.source import load_encoder

_SHAPE = {
    *("kind", "image_size", "patch_size", "width", "depth", "heads", "mlp_ratio", "relative_position"),
    *("architecture", "output_stride"),
}
_BEGINNING = {"init", "position", "sincos_order"}


@dataclass(frozen=True)
class Material:
    """The images a run may use."""

    index: Index
    verdicts: Verdicts
    ids: np.ndarray
    """Rows to train on; their order defines the positions."""
    held_out: np.ndarray
    """Rows that training does not see; may be empty."""
    held_out_split: str
    """Their name: `test`, `val` or `held-out train`."""
    num_whole: int
    """Training images before a subset was chosen."""
    annotations: Annotations | None = None
    """The objects in the images, if they are learned."""
    workers: int = 0
    """Loader processes."""

    @property
    def num_classes(self) -> int:
        """0 without labels."""
        return len(self.index.classes)

    def check(self) -> dict[str, Any]:
        """Return what is known about the data, for the record of a run."""
        more = {} if self.annotations is None else {"annotations": self.annotations.to_json()}
        return self.verdicts.to_json() | more

    def objects(self, recipe: Recipe) -> Objects | None:
        """Return the objects that the loader delivers with the images, if the method learns them."""
        if self.annotations is None:
            return None
        return Objects(self.annotations, masks=recipe.objective.learns_objects() == "masks")


def pick_device(options: Options) -> torch.device:
    """Return the requested device, or the best available; under torchrun each rank of a host has its own GPU.

    Raises:
        UsageError: if the requested device is not available, or a host has more ranks than GPUs.
    """
    local_rank = os.environ.get("LOCAL_RANK")
    has_mps = torch.backends.mps.is_available() and local_rank is None  # gloo does not support MPS tensors
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": has_mps}
    chosen = next(name for name in ("cuda", "mps", "cpu") if here[name]) if options.device == "auto" else options.device
    if not here[chosen]:
        raise UsageError(f"no {chosen} device on this machine", fix="--device auto")
    if chosen != "cuda" or local_rank is None:
        return torch.device(chosen)
    if int(local_rank) >= torch.cuda.device_count():
        raise UsageError(
            f"rank {local_rank} of this host has no GPU",
            why=f"There are {torch.cuda.device_count()}",
            fix="as many --nproc-per-node as there are GPUs, or --device cpu",
        )
    return torch.device("cuda", int(local_rank))


def gather_material(
    index: Index,
    recipe: Recipe,
    launch: Launch,
    options: Options,
    teller: Teller,
    *,
    left_out: np.ndarray | None = None,
) -> Material:
    """Check the images and choose those to train on.

    Args:
        index: The images.
        recipe: What is learned.
        launch: Which of the images.
        options: Workers, the accepted share of bad images.
        teller: For progress and notes.
        left_out: Rows that the run has left out since it began, even if they can be used now.

    Raises:
        DataError: if too many images are bad, none is left, or labels are needed and missing.
    """
    learns = recipe.objective.learns_objects()
    if learns is not None and launch.num_labels is not None:
        raise UsageError(
            "--num-labels with a recipe of detection", why="It balances classes of images", fix="leave it out"
        )
    verdicts, workers = judged(index, options, teller), options.num_workers(image_size=recipe.encoder.image_size)
    if left_out is not None:
        verdicts = leave_out_again(index, verdicts, left_out, teller)
    if launch.verb == "pretrain":
        whole = training_ids(index, verdicts.good)
        ids = chosen_ids(index, whole, seed=recipe.budget.seed, subset=launch.subset)
        held_out = index.rows("test", verdicts.good)
        return Material(index, verdicts, ids, held_out, "test", len(whole), workers=workers)
    if learns is not None:
        annotations = annotations_of(index)
        assert annotations is not None, "`classes_of` refuses data without"
        annotations.require(masks=learns == "masks", max_bad=options.max_bad, where=index.name)
        whole, held_out, split = divide(index, verdicts.good, labelled=False, hold_out=launch.hold_out)
        ids = chosen_ids(index, whole, seed=recipe.budget.seed, subset=launch.subset)
        return Material(index, verdicts, ids, held_out, split, len(whole), annotations, workers)
    whole, held_out, split = divide(index, verdicts.good, hold_out=launch.hold_out)
    require_labels(index, verdicts, whole, held_out if len(held_out) else whole, split)  # holding out none is no error
    ids = chosen_ids(index, whole, seed=recipe.budget.seed, subset=launch.subset, num_labels=launch.num_labels)
    if launch.subset is not None:  # a list may leave a class out
        require_labels(index, verdicts, ids, held_out if len(held_out) else ids, split)
    return Material(index, verdicts, ids, held_out, split, len(whole), workers=workers)


def chosen_ids(
    index: Index, ids: np.ndarray, *, seed: int, subset: str | None = None, num_labels: int | None = None
) -> np.ndarray:
    """Return the rows of `ids` that a run with this seed trains on: the subset, and `num_labels` of it.

    Raises:
        DataError: as `subset_ids` and `balanced`.
    """
    if subset is not None:
        ids = subset_ids(index, ids, Subset.parse(subset), seed=seed)
    if num_labels is not None:
        ids = ids[balanced(np.asarray(index.labels[ids]), num=num_labels, seed=seed)]
    return ids


def start_content(source: str | os.PathLike[str] | None, keep_blocks: int | None = None) -> str:
    """Identify what a training takes from its start by content, not by path: changes with any weight that is kept.

    If no block is kept, it describes how the encoder's weights were drawn before its training.

    Raises:
        CheckpointError, UsageError: as `load_encoder`.
    """
    return RANDOM_START if source is None else _content(load_encoder(source), keep_blocks)


def _content(saved: Saved, keep_blocks: int | None) -> str:
    if keep_blocks == 0:
        return _described(saved.encoder, _SHAPE | _BEGINNING)
    return f"{encoder_digest(saved.encoder, view=saved.evaluation)} {keep_blocks}"


def shape_of(encoder: AnyEncoder) -> str:
    """Describe the architecture and pixel normalisation, independent of the weights and their initialisation."""
    return _described(encoder, _SHAPE)


def _described(encoder: AnyEncoder, values: set[str]) -> str:
    return json.dumps([encoder.config.model_dump(mode="json", include=values), *encoder.normalisation])


def start_encoder(recipe: Recipe, launch: Launch) -> tuple[AnyEncoder, Recipe, str]:
    """Return the encoder to train, the recipe with its actual shape, and a note if the final norm is dropped or new.

    An initial encoder brings its own shape and, if the recipe fixes positions, what they are; the recipe decides
    everything else that is not a tensor.

    Raises:
        CheckpointError: if the encoder at `launch.init` has changed since the run began.
        UsageError: if it does not fit the recipe.
    """
    data, seed = recipe.data, recipe.budget.seed
    shape: AnyEncoderConfig = recipe.encoder
    if launch.init is None:
        return new_encoder(shape, normalisation=data.normalisation, seed=seed), recipe, ""
    saved = load_encoder(launch.init)
    if _content(saved, launch.keep_blocks) != launch.start:
        raise CheckpointError(
            f"{printable(launch.init)} is not the encoder that the run was started from",
            why="It was trained again or replaced since",
            fix="restore the old one, or give the command that began the run again, with --fresh",
        )
    found = saved.encoder
    if isinstance(shape, ConvNetConfig):
        if launch.keep_blocks is not None:
            raise UsageError("--keep-blocks with a ConvNet", why="It has no blocks", fix="leave it out")
        return *_start_convnet(recipe, shape, found), ""
    source = require_patches(found, purpose=f"recipe {recipe.name}")
    changes = {k: getattr(source.config, k) for k in ("patch_size", "width", "depth", "heads", "mlp_ratio")}
    if source.config.image_size != recipe.encoder.image_size and recipe.objective.learns_objects() is None:
        raise UsageError(
            f"the initial encoder sees {source.config.image_size} px",
            why=f"recipe {recipe.name} works on {recipe.encoder.image_size} px",
            fix="choose a recipe of the same image size",
        )
    if recipe.encoder.position == "sincos":  # the table is the source's: fixed if it was, under its own name
        changes |= {k: getattr(source.config, k) for k in ("position", "sincos_order")}
    changes["relative_position"] = recipe.encoder.relative_position or source.config.relative_position
    wanted = recipe.encoder.changed(**changes)
    changed = recipe.changed(encoder=wanted, data=data.changed(**source.normalisation._asdict()))
    # With some blocks kept, the norm above them is new in any case.
    note = _note_on_norm(source.config.final_norm, wanted.final_norm) if launch.keep_blocks is None else ""
    return initialised_from(source, wanted, seed=seed, keep_blocks=launch.keep_blocks), changed, note


def _note_on_norm(had: bool, has: bool) -> str:
    if had == has:
        return ""
    if had:
        return "the final norm of the initial encoder is left out (encoder.final_norm=false)"
    return "the initial encoder has no final norm; a new one is trained (encoder.final_norm=true)"


def _start_convnet(recipe: Recipe, shape: ConvNetConfig, source: AnyEncoder) -> tuple[ConvEncoder, Recipe]:
    if not isinstance(source, ConvEncoder):
        raise UsageError(
            f"recipe {recipe.name} trains a ConvNet and the initial encoder is a vision transformer",
            fix="another --init, or a recipe of vitlet recipes for vision transformers",
        )
    wanted = shape.changed(architecture=source.config.architecture, output_stride=source.config.output_stride)
    encoder = ConvEncoder(wanted, normalisation=source.normalisation)
    load_exactly(encoder, dict(source.network.state_dict()), where="the initial encoder")
    return encoder, recipe.changed(encoder=wanted, data=recipe.data.changed(**source.normalisation._asdict()))
