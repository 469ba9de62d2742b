"""Frozen features of a split: every image once, cached under a hash of everything they depend on.

A cached file is named by digests of the encoder as a function (tensors, head count, normalisation, view) and of the
images. So no path, run name or date has to be trusted, and a sweep over probes never computes a feature twice. Labels
are not cached; they come from the index each time.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vitlet.augmentation import Fit, View
from vitlet.choices import InferencePrecision, Pool
from vitlet.data.batch import Batch
from vitlet.data.decode import decoder_version
from vitlet.data.index import Index
from vitlet.data.loader import evaluation_batches
from vitlet.disk import write_file
from vitlet.distributed.world import World
from vitlet.errors import NonFiniteError
from vitlet.evaluation.images import each_once
from vitlet.nn.convnet import AnyEncoder, require_patches
from vitlet.nn.encoder import Encoded, Encoder

_TRAINING_ONLY = {"drop_path", "init", "position", "sincos_order"}
"""Encoder settings that affect how tensors were made, not what they compute; positions are among the tensors."""


@dataclass(frozen=True)
class Reading:
    """How features are read from an image."""

    view: View
    """How the image is cropped to the encoder's size."""
    pool: Pool
    precision: InferencePrecision = "fp32"
    every_block: bool = False
    """[n, L, D] instead of [n, D]."""


def extract(
    encoder: AnyEncoder, loader: Iterable[Batch], *, pool: Pool, precision: InferencePrecision = "fp32"
) -> tuple[Float[Tensor, "n D"], Int[Tensor, "n"]]:
    """Pooled features (float32, on the CPU) and labels of all images of `loader`, in its order.

    Runs on the encoder's device in evaluation mode, and restores the encoder's mode afterwards.

    Args:
        encoder: Left unchanged.
        loader: Batches of one split, each image once; the last may be shorter.
        pool: The mean of the patch tokens, or the class token.
        precision: Precision of the matrix products.

    Raises:
        DataError: as `each_once`.
        NonFiniteError: if a feature is NaN or infinite.
    """
    return _extract(encoder, loader, lambda images: encoder.pooled(images, pool), precision=precision)


def extract_blocks(
    encoder: Encoder, loader: Iterable[Batch], *, pool: Pool, precision: InferencePrecision = "fp32"
) -> tuple[Float[Tensor, "n L D"], Int[Tensor, "n"]]:
    """Like `extract`, for the output of every block, lowest first, before the final norm."""
    names = [f"block.{i}.output" for i in range(encoder.config.depth)]

    def pooled(images: Tensor) -> Float[Tensor, "B L D"]:
        traced = encoder.encode(encoder.embed(images), trace=names).traced
        return torch.stack([Encoded(traced[name]).pooled(pool) for name in names], dim=1)

    return _extract(encoder, loader, pooled, precision=precision)


def _extract(
    encoder: AnyEncoder, loader: Iterable[Batch], pooled: Callable[[Tensor], Tensor], *, precision: InferencePrecision
) -> tuple[Tensor, Int[Tensor, "n"]]:
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    features, labels = [], []
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
        ):
            for batch in each_once(loader):
                features.append(pooled(batch.images.to(device)).float().cpu())
                labels.append(batch.labels)
    finally:
        encoder.train(was_training)
    # Outside inference mode; otherwise the result could not be used in a later gradient computation.
    result = torch.cat(features)
    if not result.isfinite().all():
        raise NonFiniteError(
            "the encoder gives NaN or infinite features",
            why="Its weights are damaged, or the training that made them diverged",
            fix="use an earlier checkpoint, or train again with a lower optimizer.base_lr",
        )
    return result, torch.cat(labels)


def cached_features(
    encoder: AnyEncoder,
    index: Index,
    ids: Int[np.ndarray, "n"],
    *,
    reading: Reading,
    cache: Path,
    workers: int = 0,
) -> tuple[Float[Tensor, "n *L D"], Int[Tensor, "n"]]:
    """`extract` (or `extract_blocks`) for the rows `ids` of `index`, computed at most once; by several ranks together.

    Args:
        encoder: Any encoder; identified by its content.
        index: Index of the images.
        ids: Rows to use, in the order of the result.
        reading: How features are read.
        cache: Cache folder, as from `columns.cache_folder`.
        workers: Loader processes, if features must be computed.

    Raises:
        UsageError: if every block of a ConvNet is requested.
    """
    view, pool, precision = reading.view, reading.pool, reading.precision
    name = f"{encoder_digest(encoder, view=view)[:16]}-{images_digest(index, ids)[:16]}-{pool}-{precision}"
    name += "-blocks" * reading.every_block
    name += "-padded" * isinstance(view.crop, Fit)  # earlier files were padded with ImageNet's mean for every encoder
    path = cache / "features" / f"{name}.safetensors"
    labels = torch.from_numpy(index.labels[ids].astype(np.int64))
    world = World.here()
    cached = _read(path)
    if not world.max(int(cached is None)) and cached is not None:
        return cached, labels
    shared = world.among(len(ids))
    loader = evaluation_batches(
        index,
        ids,
        view=view,
        workers=workers,
        rank=shared.rank,
        num_ranks=shared.size,
        normalisation=encoder.normalisation,
    )
    if reading.every_block:
        plain = require_patches(encoder, purpose="a probe of every block")
        features, _ = extract_blocks(plain, loader, pool=pool, precision=precision)
    else:
        features, _ = extract(encoder, loader, pool=pool, precision=precision)
    features = shared.gather_rows(features, total=len(ids))
    if world.is_first:
        write_file(path, save({"features": features}))
    return features, labels


def encoder_digest(encoder: AnyEncoder, *, view: View) -> str:
    """SHA-256 (hex) of everything between an image and its tokens: view, normalisation, settings, tensors."""
    settings = {
        "config": encoder.config.model_dump(mode="json", exclude=_TRAINING_ONLY),
        "mean": encoder.normalisation.mean,
        "std": encoder.normalisation.std,
        "view": view.to_json(),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def images_digest(index: Index, ids: Int[np.ndarray, "n"]) -> str:
    """SHA-256 (hex) of the selected images and their order, by their size and modification time when indexed, and of
    how they are decoded.
    """
    digest = hashlib.sha256(f"{index.fingerprint} {decoder_version()}".encode())
    for column in (ids, index.sizes[ids], index.mtimes[ids]):
        digest.update(np.ascontiguousarray(column, dtype=np.int64).data)
    return digest.hexdigest()


def _read(path: Path) -> Float[Tensor, "n *L D"] | None:
    try:
        return load_file(path)["features"]
    except (FileNotFoundError, SafetensorError):  # absent or damaged: it can be computed again
        return None
