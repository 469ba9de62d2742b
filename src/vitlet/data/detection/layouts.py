"""Locates the annotation files of a folder and their images.

| found | read as |
|---|---|
| `annotations/instances_NAME.json` with `NAME/`, `images/NAME/`, `images/` | COCO; NAME begins with the split |
| `annotations/{train,val,test}*.json` | the same without the word `instances` |
| `{train,valid,test}/_annotations.coco.json` | Roboflow's export; images beside the file |
| one `.json` file | training images, next to it or in `images/` |
"""

import re
from dataclasses import dataclass
from pathlib import Path

from vitlet.data.splits import SPLITS, TRAIN, WORDS, code_of_file
from vitlet.errors import DataError
from vitlet.text import printable

_ROBOFLOW = "_annotations.coco.json"
_INSTANCES = re.compile(r"\Ainstances_", re.IGNORECASE)


@dataclass(frozen=True)
class AnnotationFile:
    """An annotation file in COCO's format."""

    file: Path
    images: Path
    """Folder that its file names are relative to."""
    split: int
    """Index into `SPLITS`."""


def find_annotations(source: Path) -> list[AnnotationFile]:
    """Return the annotation files of a folder, or `source` itself if it is one; empty if there are none.

    Raises:
        DataError: if a split has two, or the images of one are not found.
    """
    if source.suffix.lower() == ".json" and source.is_file():
        images = source.parent / "images"
        return [AnnotationFile(source, images if images.is_dir() else source.parent, TRAIN)]
    if not source.is_dir():
        return []
    annotations = _roboflow(source) or _coco(source)
    for code, split in enumerate(SPLITS):
        files = [f.file.name for f in annotations if f.split == code]
        if len(files) > 1:
            raise DataError(
                f"{len(files)} annotation files for the {split} images: {', '.join(map(printable, files))}",
                where=printable(source),
                fix="keep one of them in annotations/",
            )
    return annotations


def _roboflow(source: Path) -> list[AnnotationFile]:
    return [
        AnnotationFile(source / word / _ROBOFLOW, source / word, code)
        for word, code in WORDS.items()
        if (source / word / _ROBOFLOW).is_file()
    ]


def _coco(source: Path) -> list[AnnotationFile]:
    files = sorted(file for file in (source / "annotations").glob("*.json") if file.is_file())
    instances = [file for file in files if _INSTANCES.match(file.stem)]
    annotations = []
    for file in instances or files:
        name = _INSTANCES.sub("", file.stem)
        code = code_of_file(name)
        if code is not None:
            annotations.append(AnnotationFile(file, _images_of(name, source), code))
    return annotations


def _images_of(name: str, source: Path) -> Path:
    places = [source / name, source / "images" / name, source / "images"]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise DataError(
            f"no images for annotations/{printable(name)}.json",
            where=printable(source),
            why=f"There is neither {printable(name)}/ nor images/",
            fix="put the images into one of them",
        )
    return folder
