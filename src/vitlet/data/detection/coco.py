"""Annotation files in COCO's format to columns of the index; what is wrong in them is counted, ruled on and listed.

Nothing wrong stops the reading, and nothing wrong is passed on in silence: every kind of it has one rule (`RULES`).

Format: https://cocodataset.org/#format-data
"""

import io
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitlet.data.columns import Writer
from vitlet.data.detection.layouts import AnnotationFile
from vitlet.disk import to_json_bytes
from vitlet.errors import DataError
from vitlet.text import plural, printable

RULES = {
    "missing image file": "the image is left out",
    "image outside the folder": "the image is left out",
    "repeated image": "the second is left out",
    "image without id, name or size": "the image is left out",
    "annotation of an unknown image": "the annotation is left out",
    "unknown class": "the annotation is left out",
    "box that is no four finite numbers": "the annotation is left out",
    "inverted box": "the annotation is left out",
    "box without area": "the annotation is left out",
    "box outside the image": "the annotation is left out",
    "box partly outside the image": "it is cut at the border for training",
    "no usable outline": "the box is kept; masks are learned from the others",
}
"""What happens to each kind of fault."""

FILE = "coco.json"
_LISTED = 1000
_SLACK_PIXELS = 1.0
"""Rounding in annotation tools puts borders a little outside."""


@dataclass
class Faults:
    """How many of each kind, and the first 1,000 of them."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str) -> None:
        """One more of a kind of `RULES`."""
        assert kind in RULES, kind
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < _LISTED:
            shown.append(printable(where))

    def to_json(self) -> list[dict[str, Any]]:
        """In the order of `RULES`."""
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
    """Add the images of all files in the byte order of their paths, and their objects as columns beside them.

    Raises:
        DataError: if a file is not in the format, the files name different classes, or no image is left.
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
        total += len(content.get("annotations", ()))
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
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {printable(file)} as JSON", why=printable(str(error))[:200]) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "categories")):
        raise DataError(
            f"{printable(file)} is not in COCO's format",
            why="It has no lists `images` and `categories`",
            fix="export the annotations as COCO JSON",
        )
    return content


def _classes(content: dict[str, Any], file: Path) -> dict[int, str]:
    """Id → name, in the order of the ids."""
    try:
        found = {int(c["id"]): str(c["name"]) for c in content["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"a category without id or name ({error})", where=printable(file)) from None
    if not found or len(found) != len(content["categories"]):
        raise DataError("no categories, or one id twice", where=printable(file), fix="give each category an id")
    return dict(sorted(found.items()))


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
    known = {entry.get("id") for entry in content["images"] if isinstance(entry, dict)}
    place = {number: i for i, number in enumerate(numbers)}
    for entry in content.get("annotations") or ():
        where = f"{file.file.name}: annotation {entry.get('id') if isinstance(entry, dict) else entry}"
        if not isinstance(entry, dict) or entry.get("image_id") not in known:
            faults.add("annotation of an unknown image", where)
        elif entry["image_id"] in images:
            image = images[entry["image_id"]]
            found = _object(entry, image, place, faults, where=f"{where} of {os.fsdecode(image.path)}")
            if found is not None:
                image.objects.append(found)
    return list(images.values())


def _image(entry: Any, file: AnnotationFile, *, root: Path, faults: Faults) -> _Image | None:
    try:
        number, name = entry["id"], str(entry["file_name"])
        height, width = int(entry["height"]), int(entry["width"])
    except (KeyError, TypeError, ValueError):
        number, name, height, width = None, "", 0, 0
    if not isinstance(number, int) or not name or height < 1 or width < 1:
        faults.add("image without id, name or size", f"{file.file.name}: {str(entry)[:80]}")
        return None
    real, base = os.path.realpath(file.images / name), os.path.realpath(file.images)
    if not real.startswith(base.rstrip("/") + "/"):
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
    category = entry.get("category_id")
    number = place.get(category) if isinstance(category, int) else None
    fault = "unknown class" if number is None else _box_fault(entry.get("bbox"), image)
    if fault is not None:
        faults.add(fault, where)
        return None
    assert number is not None
    x, y, width, height = (float(value) for value in entry["bbox"])
    if min(x, y, image.width - x - width, image.height - y - height) < -_SLACK_PIXELS:
        faults.add("box partly outside the image", where)
    outline = entry.get("segmentation")
    usable = is_outline(outline, height=image.height, width=image.width)
    if not usable:
        faults.add("no usable outline", where)
    area = entry.get("area")
    return _Object(
        box=(x, y, width, height),
        category=number,
        crowd=bool(entry.get("iscrowd", 0)),
        area=float(area) if isinstance(area, int | float) and math.isfinite(area) else width * height,
        outline=json.dumps(outline).encode() if usable else b"",
    )


def _box_fault(box: Any, image: _Image) -> str | None:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
    if not numbers or not all(map(math.isfinite, box)):
        return "box that is no four finite numbers"
    x, y, width, height = box
    if width < 0 or height < 0:
        return "inverted box"
    if width == 0 or height == 0:
        return "box without area"
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        return "box outside the image"
    return None


def is_outline(outline: Any, *, height: int, width: int) -> bool:
    """Whether these are polygons of three points or more, or run lengths for an image of this size."""
    if isinstance(outline, dict):
        return outline.get("size") == [height, width] and isinstance(outline.get("counts"), list | str)
    if not isinstance(outline, list) or not outline:
        return False
    return all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(isinstance(v, int | float) and math.isfinite(v) for v in polygon)
        for polygon in outline
    )


def _attach(images: list[_Image], classes: dict[int, str], faults: Faults, total: int, writer: Writer) -> None:
    objects = [found for image in images for found in image.objects]
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
