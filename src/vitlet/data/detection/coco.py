"""Reads COCO annotation files into columns of the index; faults are counted and listed.

Faulty entries neither stop reading nor pass silently: each kind of fault is handled by one rule (`RULES`).

Format: https://cocodataset.org/#format-data
"""

import io
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitlet.data.columns import Writer
from vitlet.data.detection.fields import file_name, finite, is_outline, shown, whole
from vitlet.data.detection.layouts import AnnotationFile
from vitlet.disk import is_inside, to_json_bytes
from vitlet.errors import DataError
from vitlet.text import plural, printable

RULES = {
    "missing image file": "the image is left out",
    "image outside the folder": "the image is left out",
    "repeated image": "the second is left out",
    "image without id, name or size": "the image is left out",
    "annotation of an unknown image": "the annotation is left out",
    "unknown class": "the annotation is left out",
    "box that is not four finite numbers": "the annotation is left out",
    "inverted box": "the annotation is left out",
    "crowd mark that is neither 0 nor 1": "the annotation is left out",
    "box without area": "the annotation is left out",
    "box outside the image": "the annotation is left out",
    "box partly outside the image": "it is cut at the border for training",
    "no usable outline": "the box is kept; masks are learned from the others",
}
"""How each kind of fault is handled."""

FILE = "coco.json"
_LISTED = 1000
_LONGEST_SIDE = 2**31 - 1
_SLACK_PIXELS = 1.0
"""Tolerance for boxes that annotation tools round to slightly outside the image."""


@dataclass
class Faults:
    """Number of faults of each kind, and the first 1,000 of them."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str) -> None:
        """Record a fault; `kind` is a key of `RULES`."""
        assert kind in RULES, kind
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < _LISTED:
            shown.append(printable(where))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the faults in the order of `RULES`."""
        return [
            {"kind": kind, "count": self.counts[kind], "rule": rule, "examples": self.examples[kind]}
            for kind, rule in RULES.items()
            if kind in self.counts
        ]


class _Object(NamedTuple):
    box: tuple[float, float, float, float]
    category: int
    crowd: bool
    area: float
    outline: bytes


@dataclass
class _Image:
    path: bytes
    split: int
    status: os.stat_result
    number: int
    height: int
    width: int
    objects: list[_Object] = field(default_factory=list)


def add_coco(files: list[AnnotationFile], *, root: Path, writer: Writer) -> None:
    """Add the images of all files in the byte order of their paths, and attach their objects as columns.

    Raises:
        DataError: if a file is not in COCO's format, the files have different classes, or no image is left.
    """
    faults, images, classes, total = Faults(), [], None, 0
    for file in files:
        content = _parsed(file.file)
        names = _classes(content, file.file)
        if classes is not None and names != classes:
            raise DataError(
                "the annotation files name different classes",
                where=printable(file.file),
                fix="write all files with the same categories",
            )
        classes = names
        total += len(content["annotations"])
        images += _read(content, file, root=root, numbers=list(names), faults=faults)
    images.sort(key=lambda image: image.path)
    if not images or classes is None:
        first = next(iter(faults.examples.values()), [""])[0]
        raise DataError(
            "no image of the annotation files is there",
            where=printable(root),
            why=f"Such as {first}" if first else "They name none",
            fix="put the images where the annotation files look for them",
        )
    for image in images:
        writer.add(image.path, label=None, split=image.split, size=image.status.st_size, mtime=image.status.st_mtime_ns)
    _attach(images, classes, faults, total, writer)
    objects = sum(len(image.objects) for image in images)
    writer.notes.append(
        f"read as COCO annotations: {plural(objects, 'object')} of {plural(len(classes), 'class', 'classes')}"
    )


def _parsed(file: Path) -> dict[str, Any]:
    """Parse a file with lists of images, categories and annotations, whose entries are not yet checked."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot read {printable(file)} as JSON",
            why=printable(str(error))[:200],
            fix="export or copy the annotations again",
        ) from None
    lists = ("images", "categories", "annotations")
    if isinstance(content, dict) and content.get("annotations") is None:
        content["annotations"] = []  # images for prediction only have none
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        raise DataError(
            f"{printable(file)} is not in COCO's format",
            why="It has no lists `images` and `categories`, or its `annotations` are not a list",
            fix="export the annotations as COCO JSON",
        )
    return content


def _classes(content: dict[str, Any], file: Path) -> dict[int, str]:
    """Map ids to names, in the order of the ids."""
    classes: dict[int, str] = {}
    for entry in content["categories"]:
        number, name = (whole(entry.get("id")), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if number is None or type(name) not in (str, int):
            raise DataError(
                f"a category without id or name: {printable(shown(entry))}",
                where=printable(file),
                fix="give each category a whole number and a name",
            )
        classes[number] = str(name)
    if not classes or len(classes) != len(content["categories"]):
        raise DataError("no categories, or one id twice", where=printable(file), fix="give each category an id")
    return dict(sorted(classes.items()))


def _read(
    content: dict[str, Any], file: AnnotationFile, *, root: Path, numbers: list[int], faults: Faults
) -> list[_Image]:
    images, names = {}, set()
    for entry in content["images"]:
        image = _image(entry, file, root=root, faults=faults)
        if image is None:
            continue
        if image.number in images or image.path in names:
            faults.add("repeated image", os.fsdecode(image.path))
            continue
        images[image.number] = image
        names.add(image.path)
    listed = {whole(entry.get("id")) for entry in content["images"] if isinstance(entry, dict)} - {None}
    place = {number: i for i, number in enumerate(numbers)}
    for entry in content["annotations"]:
        where = f"{file.file.name}: annotation {shown(entry.get('id') if isinstance(entry, dict) else entry)}"
        number = whole(entry.get("image_id")) if isinstance(entry, dict) else None
        if number not in listed:
            faults.add("annotation of an unknown image", where)
        elif number in images:
            image = images[number]
            annotated = _object(entry, image, place, faults, where=f"{where} of {os.fsdecode(image.path)}")
            if annotated is not None:
                image.objects.append(annotated)
    return list(images.values())


def _image(entry: Any, file: AnnotationFile, *, root: Path, faults: Faults) -> _Image | None:
    stated = entry if isinstance(entry, dict) else {}
    number, name = whole(stated.get("id")), file_name(stated.get("file_name"))
    height, width = (whole(stated.get(side)) or 0 for side in ("height", "width"))
    if number is None or name is None or not (1 <= height <= _LONGEST_SIDE and 1 <= width <= _LONGEST_SIDE):
        faults.add("image without id, name or size", f"{file.file.name}: {shown(entry)}")
        return None
    real = os.path.realpath(file.images / name)
    if not is_inside(real, os.path.realpath(file.images)):
        faults.add("image outside the folder", name)
        return None
    try:
        status = os.stat(real)
    except (OSError, ValueError):
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        faults.add("missing image file", name)
        return None
    path = os.fsencode(os.path.relpath(file.images / name, root))
    return _Image(path, file.split, status, number, height, width)


def _object(
    entry: dict[str, Any], image: _Image, place: dict[int, int], faults: Faults, *, where: str
) -> _Object | None:
    category, crowd = whole(entry.get("category_id")), entry.get("iscrowd")
    number = None if category is None else place.get(category)
    box = _box(entry.get("bbox"))
    fault = "unknown class" if number is None else _box_fault(box, image)
    if fault is None and crowd not in (None, 0, 1):
        fault = "crowd mark that is neither 0 nor 1"
    if fault is not None:
        faults.add(fault, where)
        return None
    assert number is not None
    assert box is not None
    x, y, width, height = box
    if min(x, y, image.width - x - width, image.height - y - height) < -_SLACK_PIXELS:
        faults.add("box partly outside the image", where)
    outline = entry.get("segmentation")
    usable = is_outline(outline, height=image.height, width=image.width)
    if not usable:
        faults.add("no usable outline", where)
    area = finite(entry.get("area"))
    return _Object(
        box=box,
        category=number,
        crowd=bool(crowd),
        area=width * height if area is None or area < 0 else area,
        outline=json.dumps(outline).encode() if usable else b"",
    )


def _box(stated: Any) -> tuple[float, float, float, float] | None:
    numbers = [finite(value) for value in stated] if isinstance(stated, list) and len(stated) == 4 else [None] * 4
    x, y, width, height = numbers
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, width, height


def _box_fault(box: tuple[float, float, float, float] | None, image: _Image) -> str | None:
    if box is None:
        return "box that is not four finite numbers"
    x, y, width, height = box
    if width < 0 or height < 0:
        return "inverted box"
    if width == 0 or height == 0:
        return "box without area"
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        return "box outside the image"
    return None


def _attach(images: list[_Image], classes: dict[int, str], faults: Faults, total: int, writer: Writer) -> None:
    objects = [each for image in images for each in image.objects]
    columns: Iterator[tuple[str, np.ndarray]] = iter(
        (
            ("image_ids", np.array([image.number for image in images], dtype=np.int64)),
            ("image_shapes", np.array([(image.height, image.width) for image in images], dtype=np.int32)),
            ("object_ends", np.cumsum([len(image.objects) for image in images], dtype=np.int64)),
            ("boxes", np.array([o.box for o in objects], dtype=np.float64).reshape(-1, 4)),
            ("categories", np.array([o.category for o in objects], dtype=np.int32)),
            ("crowds", np.array([o.crowd for o in objects], dtype=bool)),
            ("areas", np.array([o.area for o in objects], dtype=np.float64)),
            ("outline_ends", np.cumsum([len(o.outline) for o in objects], dtype=np.int64)),
            ("outlines", np.frombuffer(b"".join(o.outline for o in objects), dtype=np.uint8)),
        )
    )
    for name, values in columns:
        writer.attach(f"{name}.npy", _npy(values))
    meta = {
        "classes": list(classes.values()),
        "category_ids": list(classes),
        "num_annotations": total,
        "faults": faults.to_json(),
    }
    writer.attach(FILE, to_json_bytes(meta))


def _npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()
