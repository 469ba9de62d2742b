"""The halves of a user's images that stand in for the paper's data sets: every second class, and the rest.

The upstream half is every second class in name order, starting with the first; it stands in for ImageNet. The other
half has other classes and images and stands in for the data sets that a model is transferred to. A half is written
once as Parquet files in Hugging Face's layout, with image bytes and splits unchanged.
"""

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitlet.data.choice import Subset
from vitlet.data.index import Index, open_index
from vitlet.data.splits import SPLITS
from vitlet.data.subsets import divide, long_tailed, share_of
from vitlet.disk import write_folder
from vitlet.errors import DataError

Half = Literal["upstream", "downstream"]
_SEED = 0
"""Any seed: only the number of images in a subset is asked for."""


@dataclass(frozen=True)
class Counts:
    """Sizes of a data set."""

    classes: int
    train: int
    """Training images."""
    test: int
    """Test images."""
    smallest: int
    """Training images of the smallest class."""


def in_half(index: Index, half: Half) -> np.ndarray:
    """Bool [n]: which images, of all splits, belong to the half; images without a label belong to neither.

    Raises:
        DataError: if a half would have a single class, or a class has no image.
    """
    index.require_every_class()
    if len(index.classes) < 4:
        raise DataError(
            f"{index.name} has {len(index.classes)} classes",
            why="Half of them stand in for ImageNet and half for other data, and a half needs two or more",
            fix="give labelled images of four classes or more",
        )
    codes = np.arange(len(index.classes))[0 if half == "upstream" else 1 :: 2]
    return np.isin(index.labels, codes)


def counts(index: Index, among: np.ndarray | None = None, *, labelled: bool = True) -> Counts:
    """Count the images that a job would train on and evaluate on, if none is bad; see `divide`.

    Args:
        index: The images.
        among: Bool [n]: the images to count; None: all.
        labelled: Leave out images without a label.
    """
    train, test, _ = divide(index, np.ones(len(index), dtype=bool) if among is None else among, labelled=labelled)
    per_class = np.unique(index.labels[train], return_counts=True)[1]
    return Counts(len(per_class), len(train), len(test), int(per_class.min()) if len(per_class) else 0)


def num_chosen(found: Counts, labels: np.ndarray, subset: str) -> int:
    """Number of training images with these labels in a subset.

    Raises:
        DataError: if the subset leaves a class empty.
    """
    asked = Subset.parse(subset)
    if asked.file is not None:
        return min(found.train, len(asked.names()))
    if asked.imbalance is not None:
        return len(long_tailed(labels, imbalance=asked.imbalance, seed=_SEED))
    assert asked.share is not None
    return len(share_of(labels, share=asked.share, seed=_SEED))


def labels_of(found: Counts, share: float) -> int:
    """Number of labels, equally many of every class: `share` of the smallest class, at least one."""
    return found.classes * max(1, math.floor(share * found.smallest + 0.5))


def write_half(source: Path, half: Half, out: Path, *, note: bytes, follow_outside: bool = False) -> None:
    """Write the half as `out/{train,val,test}.parquet`, completely or not at all, with `note` as its node.json."""
    index = open_index(source, follow_outside=follow_outside)
    chosen = in_half(index, half)
    codes = np.unique(index.labels[chosen])
    names = [index.classes[int(code)] for code in codes]
    files = {"node.json": note}
    for split in SPLITS:
        rows = index.rows(split, chosen)
        if len(rows):
            files[f"{split}.parquet"] = _parquet(index, rows, codes=codes, names=names)
    write_folder(out, files)


def _parquet(index: Index, rows: np.ndarray, *, codes: np.ndarray, names: list[str]) -> bytes:
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.table(
        {
            "image": pa.array([{"bytes": index.read(row), "path": None} for row in rows], type=image),
            "label": pa.array(np.searchsorted(codes, np.asarray(index.labels[rows])), type=pa.int64()),
        },
        schema=schema,
    )
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()
