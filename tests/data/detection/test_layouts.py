"""Where annotation files and their images are found."""

from pathlib import Path

import pytest

from vitlet.data.detection.layouts import find_annotations
from vitlet.errors import DataError


def made(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    return root


def places(root: Path) -> list[tuple[str, str, int]]:
    found = find_annotations(root)
    base = root if root.is_dir() else root.parent
    return [(str(f.file.relative_to(base)), str(f.images.relative_to(base)), f.split) for f in found]


def test_coco(tmp_path: Path) -> None:
    root = made(
        tmp_path, "annotations/instances_train2017.json", "annotations/instances_val2017.json",
        "annotations/captions_train2017.json", "train2017/a", "images/val2017/b",
    )  # fmt: skip
    assert places(root) == [
        ("annotations/instances_train2017.json", "train2017", 0),
        ("annotations/instances_val2017.json", "images/val2017", 1),
    ]


def test_plain_names_and_one_folder_of_images(tmp_path: Path) -> None:
    root = made(tmp_path, "annotations/train.json", "annotations/test.json", "images/a")
    assert places(root) == [("annotations/test.json", "images", 2), ("annotations/train.json", "images", 0)]


def test_roboflow(tmp_path: Path) -> None:
    root = made(tmp_path, "train/_annotations.coco.json", "valid/_annotations.coco.json", "train/a.jpg")
    assert places(root) == [
        ("train/_annotations.coco.json", "train", 0),
        ("valid/_annotations.coco.json", "valid", 1),
    ]


def test_one_file(tmp_path: Path) -> None:
    assert places(made(tmp_path, "set.json") / "set.json") == [("set.json", ".", 0)]
    assert places(made(tmp_path, "images/a") / "set.json") == [("set.json", "images", 0)]


def test_what_is_not_annotated(tmp_path: Path) -> None:
    assert places(made(tmp_path, "train/cat/a.png", "annotations/notes.txt", "annotations/people.json")) == []


def test_refuses_what_is_not_clear(tmp_path: Path) -> None:
    root = made(tmp_path / "two", "annotations/train.json", "annotations/train2.json", "images/a")
    with pytest.raises(DataError, match=r"2 annotation files for the train images"):
        find_annotations(root)
    with pytest.raises(DataError, match=r"no images for annotations/val\.json.*neither val/ nor images/"):
        find_annotations(made(tmp_path / "none", "annotations/val.json"))
