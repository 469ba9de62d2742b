"""Speed of turning photographs into a training batch, relative to the published chain, and the pixel differences.

Both sides turn the same JPEGs into normalised floats, interleaved round by round in one process on one thread, and
are timed in CPU seconds, so that other work on the machine costs little more than its share of the caches.

  * Published (MAE, DeiT and descendants): Pillow decodes; torchvision's classic transforms crop, resize with bicubic
    weights, flip, convert and normalise image by image; a batch of floats is collated.
  * Ours: `decode`, `apply_view` and `collate` make a batch of uint8; `Encoder.normalised_patches` normalises it and
    also cuts it into patches, which is charged to us.

Our chain is also timed on packed data, read from shards of `vitlet pack` (JPEG with a short side of 256 pixels, and
raw pixels of that size), and on the same photographs from a folder of files, all with a warm page cache.

The images are crops of the two photographs that come with scikit-learn, resized to 500 × 375, a common size in
ImageNet, and saved at quality 92 with 4:2:0 chroma: about 50 kB each.
"""

import contextlib
import io
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)

from vitlet.augmentation import Resample, View
from vitlet.data.decode import decode
from vitlet.data.index import Index, open_index
from vitlet.data.packing import Form, pack
from vitlet.data.samples import collate
from vitlet.data.views import apply_view, random_box
from vitlet.evaluation.pace import conditions, one_thread, timed
from vitlet.nn.encoder import Encoder
from vitlet.normalisation import IMAGENET
from vitlet.recipe import EncoderConfig
from vitlet.rng import derive

_WIDTH, _HEIGHT = 500, 375
_SIZE = 224
_SHORT_SIDE = 256
_BATCH = 32
_SEED = 0


def bench(*, repeats: int = 5, num_images: int = 64) -> dict[str, Any]:
    """Time both chains, in rounds over the same JPEGs, after one warm-up round.

    Args:
        repeats: Number of timed rounds.
        num_images: JPEGs per round.

    Returns:
        Medians over the rounds, in CPU milliseconds per image: `published_image_ms` up to normalised images,
        `published_batch_ms` including their batch, `ours_uint8_ms` up to the batch of uint8, `ours_batch_ms` including
        its normalisation. `ratio`: how many times faster ours is: the batch of `uint8` against published images, which
        is the loader's share of the work, and the `normalised` batch against theirs. `pixel_difference`: mean absolute
        difference from Pillow's pixels on identical crops, in levels of 255; `pixel_difference_worst`: that of the
        worst image. `num_images`, `kilobytes` (mean of the JPEGs), and the conditions.
    """
    files = photographs(num_images)
    published, ours = _published_chain(), _our_chain()
    # torchvision's classic transforms draw from the global generator.
    with one_thread(), torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        with _packed(files) as sources:
            rounds = [
                (*published(files, turn), *ours(files, turn), *(chain(turn) for chain in sources))
                for turn in range(repeats + 1)
            ]
    medians = [1000 * statistics.median(column) / num_images for column in zip(*rounds[1:], strict=True)]
    published_image, published_batch, ours_uint8, ours_batch, folder, small, raw = medians
    differences = [_pixel_difference(file, key=derive(_SEED, "compare", i)) for i, file in enumerate(files)]
    return {
        "published_image_ms": published_image,
        "published_batch_ms": published_batch,
        "ours_uint8_ms": ours_uint8,
        "ours_batch_ms": ours_batch,
        "ratio": {"uint8": published_image / ours_uint8, "normalised": published_batch / ours_batch},
        "folder_ms": folder,
        "shards_256_ms": small,
        "shards_256_raw_ms": raw,
        "packed_ratio": {name: published_image / ms for name, ms in (("folder", folder), ("256", small), ("raw", raw))},
        "pixel_difference": statistics.fmean(differences),
        "pixel_difference_worst": max(differences),
        "num_images": num_images,
        "kilobytes": statistics.fmean(len(file) for file in files) / 1000,
        **conditions(repeats),
    }


def photographs(count: int) -> list[bytes]:
    """JPEGs of real photographs, 500 × 375; the same on every call."""
    scenes = [Image.fromarray(scene) for scene in load_sample_images().images]
    draw = random.Random(_SEED)
    files = []
    for i in range(count):
        scene = scenes[i % len(scenes)]
        width = draw.uniform(0.4, 0.7) * scene.width
        height = width * _HEIGHT / _WIDTH
        left, top = draw.uniform(0, scene.width - width), draw.uniform(0, scene.height - height)
        box = (left, top, left + width, top + height)
        file = io.BytesIO()
        scene.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC, box=box).save(
            file, "JPEG", quality=92, subsampling="4:2:0"
        )
        files.append(file.getvalue())
    return files


_Chain = Callable[[list[bytes], int], tuple[float, float]]
"""(JPEGs, round number) → CPU seconds up to the half-way mark of `bench`, and in total."""


def _published_chain() -> _Chain:
    transform = Compose(
        [
            RandomResizedCrop(_SIZE, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
            RandomHorizontalFlip(),
            ToTensor(),
            Normalize(*IMAGENET),
        ]
    )

    def images(files: list[bytes], _turn: int, _start: int) -> list[Tensor]:
        return [cast(Tensor, transform(_with_pillow(file))) for file in files]

    return _in_batches(images, torch.stack)


def _our_chain() -> _Chain:
    view = View(size=_SIZE, crop=Resample(interpolation="bicubic"))
    # Normalisation depends only on the image and patch sizes; the rest of the encoder is as small as possible.
    encoder = Encoder(EncoderConfig(image_size=_SIZE, width=4, depth=1, heads=1))

    def batch(files: list[bytes], turn: int, start: int) -> Tensor:
        return collate([_row(file, view, turn, start + i) for i, file in enumerate(files)])["views"][0]

    return _in_batches(batch, encoder.normalised_patches)


@contextlib.contextmanager
def _packed(files: list[bytes]) -> Iterator[list[Callable[[int], float]]]:
    """Functions from the round number to CPU seconds, for the folder, the shards of JPEGs and those of raw pixels."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "folder").mkdir()
        for i, file in enumerate(files):
            (root / "folder" / f"{i:04d}.jpg").write_bytes(file)
        folder = open_index(root / "folder", cache=root / "cache")
        for kind in ("jpeg", "raw"):
            form = Form(short_side=_SHORT_SIDE, raw=kind == "raw")
            pack(folder, np.arange(len(files)), out=root / kind, form=form)
        shards = [open_index(root / kind, cache=root / "cache") for kind in ("jpeg", "raw")]
        yield [_index_chain(index) for index in (folder, *shards)]


def _index_chain(index: Index) -> Callable[[int], float]:
    view = View(size=_SIZE, crop=Resample(interpolation="bicubic"))

    def run(turn: int) -> None:
        for start in range(0, len(index), _BATCH):
            positions = range(start, min(len(index), start + _BATCH))
            collate([_row(index.read(position), view, turn, position) for position in positions])

    return lambda turn: timed(run, turn)[1]


def _row(file: bytes, view: View, turn: int, position: int) -> dict[str, Any]:
    """One item as the loader makes it."""
    image = decode(file, path="photograph")
    pixels = apply_view(image, view, key=derive(_SEED, turn, position))
    shape = (image.shape[1], image.shape[2])
    return {"views": (pixels,), "label": -1, "position": position, "replaced": None, "shape": shape}


def _in_batches(first: Callable[[list[bytes], int, int], Any], second: Callable[[Any], Tensor]) -> _Chain:
    def run(files: list[bytes], turn: int) -> tuple[float, float]:
        half, whole = 0.0, 0.0
        for start in range(0, len(files), _BATCH):
            images, seconds = timed(first, files[start : start + _BATCH], turn, start)
            half += seconds
            whole += seconds + timed(second, images)[1]
        return half, whole

    return run


def _pixel_difference(file: bytes, *, key: int) -> float:
    crop = Resample(interpolation="bicubic")
    ours = apply_view(decode(file, path="photograph"), View(size=_SIZE, crop=crop, flip=0.0), key=key)
    # A view's first draws are those of its crop, so this is the box that `ours` used.
    top, left, height, width = random_box(_HEIGHT, _WIDTH, crop, random.Random(key))
    theirs = _with_pillow(file).crop((left, top, left + width, top + height))
    theirs = theirs.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
    return float(np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs)).mean())


def _with_pillow(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")
