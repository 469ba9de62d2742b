"""Objects in the images of an index, as memory-mapped columns that all workers share."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from vitlet.data.columns import read_column
from vitlet.data.detection.coco import FILE
from vitlet.data.index import Index
from vitlet.disk import write_csv
from vitlet.errors import DataError
from vitlet.text import plural, printable

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
    """Ids of the classes in the annotation files."""
    num_annotations: int
    """Number of annotations in the files, valid or not."""
    faults: tuple[dict[str, Any], ...]
    """Kind, count, rule and examples of each kind of fault."""
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
        """Pickle only the name of the folder."""
        return Annotations.load, (self.folder,)

    def objects(self, i: int, *, crowds: bool = True) -> list[int]:
        """Return the rows of the objects in image `i`, with or without those marked as crowds."""
        ends, is_crowd = self.columns["object_ends"], self.columns["crowds"]
        rows = range(int(ends[i - 1]) if i else 0, int(ends[i]))
        return [row for row in rows if crowds or not is_crowd[row]]

    def shape(self, i: int) -> tuple[int, int]:
        """Return height and width of image `i` as stated in the annotation file."""
        height, width = self.columns["image_shapes"][i]
        return int(height), int(width)

    def outline(self, row: int) -> Any:
        """Return the polygons or run lengths of an object in COCO's format; None if there are no usable ones."""
        ends = self.columns["outline_ends"]
        start, end = int(ends[row - 1]) if row else 0, int(ends[row])
        return json.loads(self.columns["outlines"][start:end].tobytes()) if end > start else None

    @property
    def num_left_out(self) -> int:
        """Number of annotations excluded from training and evaluation."""
        return self.num_annotations - len(self.columns["boxes"])

    def to_json(self) -> dict[str, Any]:
        """Return counts and faults for the record of a check, with lists cut after 20."""
        return {
            "num_annotations": self.num_annotations,
            "num_left_out": self.num_left_out,
            "num_images_without": int((np.diff(self.columns["object_ends"], prepend=0) == 0).sum()),
            "classes": {printable(name): count for name, count in self.balance().items()},
            "faults": [fault | {"examples": fault["examples"][:_SHOWN]} for fault in self.faults],
        }

    def balance(self) -> dict[str, int]:
        """Count the objects of each class."""
        counts = np.bincount(self.columns["categories"], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def write_faults(self, path: Path) -> None:
        """Write a CSV file (fault, rule, where) with the first 1,000 faults of each kind."""
        rows = ((fault["kind"], fault["rule"], where) for fault in self.faults for where in fault["examples"])
        write_csv(path, ("fault", "rule", "where"), rows)

    def require(self, *, masks: bool, max_bad: float, where: str) -> None:
        """Fail if too many annotations were left out, or if masks are needed and there are none.

        Raises:
            DataError: naming the kinds of faults.
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
    """Return the objects in the images of an index, or None if it has no annotations."""
    return Annotations.load(index.folder) if (index.folder / FILE).is_file() else None
