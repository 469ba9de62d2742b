"""The objects on the images of an index: columns that are mapped, so that every worker reads the same pages."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from vitlet.data.columns import read_column
from vitlet.data.detection.coco import FILE
from vitlet.data.index import Index
from vitlet.disk import write_file
from vitlet.errors import DataError
from vitlet.text import csv_cell, plural, printable

_COLUMNS = (
    "image_ids", "image_shapes", "object_ends", "boxes", "categories", "crowds", "areas", "outline_ends", "outlines",
)  # fmt: skip
_SHOWN = 20


@final
@dataclass(frozen=True, eq=False)
class Annotations:
    """Boxes, classes and outlines by image; row i belongs to image i of the index."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """What the files call each class."""
    num_annotations: int
    """That were in the files, good or not."""
    faults: tuple[dict[str, Any], ...]
    """Kind, count, rule and examples of whatever was wrong."""
    folder: Path
    columns: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: Path) -> "Annotations":
        """Map the columns that `add_coco` attached to an index."""
        meta = json.loads((folder / FILE).read_bytes())
        return cls(
            classes=tuple(meta["classes"]),
            category_ids=tuple(meta["category_ids"]),
            num_annotations=meta["num_annotations"],
            faults=tuple(meta["faults"]),
            folder=folder,
            columns={name: read_column(folder, name) for name in _COLUMNS},
        )

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        """A pickle is the name of a folder."""
        return Annotations.load, (self.folder,)

    def objects(self, i: int) -> range:
        """Rows of the objects on image `i`."""
        ends = self.columns["object_ends"]
        return range(int(ends[i - 1]) if i else 0, int(ends[i]))

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of image `i`, as the file states them."""
        height, width = self.columns["image_shapes"][i]
        return int(height), int(width)

    def outline(self, row: int) -> Any:
        """Polygons or run lengths of an object as COCO writes them; None where there are no usable ones."""
        ends = self.columns["outline_ends"]
        start, end = int(ends[row - 1]) if row else 0, int(ends[row])
        return json.loads(self.columns["outlines"][start:end].tobytes()) if end > start else None

    @property
    def num_left_out(self) -> int:
        """Annotations that no training and no score knows of."""
        return self.num_annotations - len(self.columns["boxes"])

    def to_json(self) -> dict[str, Any]:
        """Counts and faults, for the record of a check; lists cut after 20."""
        return {
            "num_annotations": self.num_annotations,
            "num_left_out": self.num_left_out,
            "num_images_without": int((np.diff(self.columns["object_ends"], prepend=0) == 0).sum()),
            "classes": {printable(name): count for name, count in self.balance().items()},
            "faults": [fault | {"examples": fault["examples"][:_SHOWN]} for fault in self.faults],
        }

    def balance(self) -> dict[str, int]:
        """Objects of each class."""
        counts = np.bincount(self.columns["categories"], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def write_faults(self, path: Path) -> None:
        """A CSV file (kind, what happens, where) of the first 1,000 faults of each kind."""
        stream = io.StringIO(newline="")
        writer = csv.writer(stream)
        writer.writerow(("fault", "rule", "where"))
        for fault in self.faults:
            writer.writerows((fault["kind"], fault["rule"], csv_cell(example)) for example in fault["examples"])
        write_file(path, stream.getvalue().encode())

    def require(self, *, masks: bool, max_bad: float, where: str) -> None:
        """Stop where too many annotations were left out, or none can be learned from.

        Raises:
            DataError: naming the kinds.
        """
        share = self.num_left_out / max(1, self.num_annotations)
        if share > max_bad:
            kinds = "; ".join(f"{f['kind']}: {f['count']:,}, such as {f['examples'][0]}" for f in self.faults[:5])
            raise DataError(
                f"{self.num_left_out:,} of {plural(self.num_annotations, 'annotation')} cannot be used",
                where=where,
                why=f"{share:.1%} is more than the accepted {max_bad:.1%}. {kinds}",
                fix="repair them (vitlet check DATA --out DIR lists them), or go on without: --max-bad "
                f"{min(1.0, np.ceil(share * 100) / 100):g}",
            )
        if masks and not len(self.columns["outlines"]):
            raise DataError(
                "no annotation has an outline",
                where=where,
                why="Mask R-CNN learns masks",
                fix="--set objective.masks=false for boxes alone, or annotate polygons",
            )


def annotations_of(index: Index) -> Annotations | None:
    """The objects on the images of an index, or None where they were not annotated."""
    return Annotations.load(index.folder) if (index.folder / FILE).is_file() else None
