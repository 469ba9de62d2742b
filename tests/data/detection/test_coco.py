"""COCO files to columns: what is read, and one rule for each kind of fault."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitlet.data.detection.annotations import Annotations, annotations_of
from vitlet.data.detection.coco import RULES, is_outline
from vitlet.data.index import open_index
from vitlet.errors import DataError

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def entry(**changes: Any) -> dict[str, Any]:
    """A good annotation of image 1, changed."""
    good = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0}
    return {**good, "segmentation": SQUARE, **changes}


def write(root: Path, *, images: list[Any] | None = None, annotations: list[Any]) -> Path:
    """A file with one image of 20 × 16 pixels beside it."""
    root.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16)).save(root / "a.png")
    images = images if images is not None else [{"id": 1, "file_name": "a.png", "width": 20, "height": 16}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "set.json").write_text(json.dumps(content))
    return root / "set.json"


def read(file: Path) -> Annotations:
    found = annotations_of(open_index(file))
    assert found is not None
    return found


def test_what_is_read(annotated: Path) -> None:
    index = open_index(annotated)
    found = annotations_of(index)
    assert found is not None
    assert (len(index), found.classes, found.category_ids) == (9, ("red", "green"), (3, 7))
    assert [index.path(i) for i in range(2)] == ["train/0.png", "train/1.png"]
    assert index.splits.tolist() == [0] * 6 + [1] * 3
    assert index.classes == ()
    assert [len(found.objects(i)) for i in range(9)] == [2, 1, 1, 1, 1, 0, 2, 1, 0]
    (row,) = found.objects(1)
    assert found.columns["boxes"][row].tolist() == [5, 6, 18, 13]
    assert found.columns["categories"][row] == 1
    assert found.outline(row)["size"] == [32, 40]
    assert found.shape(1) == (32, 40)
    assert (found.faults, found.num_left_out, found.num_annotations) == ((), 0, 9)


FAULTS = {
    "annotation of an unknown image": entry(image_id=5),
    "unknown class": entry(category_id=2),
    "box that is no four finite numbers": entry(bbox=[float("nan"), 2, 3, 4]),
    "inverted box": entry(bbox=[10, 10, -5, 5]),
    "box without area": entry(bbox=[2, 2, 0, 5]),
    "box outside the image": entry(bbox=[25, 2, 5, 5]),
    "box partly outside the image": entry(bbox=[15, 2, 10, 5]),
    "no usable outline": entry(segmentation=[[1, 2, 3, 4]]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_annotation_is_counted_ruled_and_listed(kind: str, tmp_path: Path) -> None:
    found = read(write(tmp_path, annotations=[entry(), FAULTS[kind]]))
    (fault,) = found.faults
    assert (fault["kind"], fault["count"], fault["rule"]) == (kind, 1, RULES[kind])
    assert fault["examples"][0].startswith("set.json: annotation 1")
    left_out = "left out" in RULES[kind]
    assert (found.num_left_out, len(found.columns["boxes"])) == (int(left_out), 2 - left_out)


def test_faulty_images_too(tmp_path: Path) -> None:
    good = {"id": 1, "file_name": "a.png", "width": 20, "height": 16}
    images = [
        good,
        {**good, "id": 2},
        {**good, "id": 3, "file_name": "b.png"},
        {**good, "id": 4, "file_name": "../c.png"},
        {**good, "id": None},
        {**good, "id": 5, "width": 0},
    ]
    found = read(write(tmp_path / "set", images=images, annotations=[entry(image_id=3)]))
    counts = {fault["kind"]: fault["count"] for fault in found.faults}
    assert counts == {
        "missing image file": 1,
        "image outside the folder": 1,
        "repeated image": 1,
        "image without id, name or size": 2,
    }
    assert found.num_left_out == 1, "its image is missing"
    assert {*counts, *FAULTS} == set(RULES), "every rule is tested"


@pytest.mark.parametrize("box", [[2, 2, 3], "2 2 3 3", [2, 2, 3, None], None, [float("inf"), 0, 1, 1]])
def test_boxes_of_another_form(box: Any, tmp_path: Path) -> None:
    (fault,) = read(write(tmp_path, annotations=[entry(bbox=box)])).faults
    assert fault["kind"] == "box that is no four finite numbers"


def test_too_much_left_out_stops_and_names_it(tmp_path: Path) -> None:
    found = read(write(tmp_path, annotations=[entry(), entry(category_id=9)]))
    with pytest.raises(DataError, match=r"1 of 2 annotations cannot be used.*unknown class: 1.*--max-bad 0\.5"):
        found.require(masks=True, max_bad=0.01, where="set")
    found.require(masks=True, max_bad=0.5, where="set")
    boxes_alone = read(write(tmp_path / "boxes", annotations=[entry(segmentation=None)]))
    boxes_alone.require(masks=False, max_bad=0, where="set")
    with pytest.raises(DataError, match=r"no annotation has an outline.*objective\.masks=false"):
        boxes_alone.require(masks=True, max_bad=0, where="set")


def test_the_annotations_are_in_the_fingerprint(tmp_path: Path) -> None:
    prints = {
        open_index(write(tmp_path, annotations=[entry(**change)])).fingerprint
        for change in ({}, {}, {"bbox": [2, 2, 10, 9]}, {"segmentation": [[2, 2, 12, 2, 12, 11]]}, {"iscrowd": 1})
    }
    assert len(prints) == 4


def test_files_that_are_not_in_the_format(tmp_path: Path) -> None:
    broken = {
        "[1, 2": "as JSON",
        "[]": "not in COCO's format",
        '{"images": [], "categories": []}': "no categories",
    }
    for text, words in broken.items():
        (tmp_path / "set.json").write_text(text)
        with pytest.raises(DataError, match=words):
            open_index(tmp_path / "set.json")
    with pytest.raises(DataError, match="no image of the annotation files is there"):
        open_index(write(tmp_path, images=[], annotations=[]))


def test_outlines() -> None:
    assert is_outline(SQUARE, height=16, width=20)
    assert is_outline({"size": [16, 20], "counts": [0, 320]}, height=16, width=20)
    for wrong in (None, [], [[]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, np.inf]], {"size": [20, 16], "counts": []}):
        assert not is_outline(wrong, height=16, width=20)
