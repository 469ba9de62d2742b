"""COCO files to columns: what is read, and one rule for each kind of fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitlet.data.detection.annotations import Annotations, annotations_of
from vitlet.data.detection.coco import RULES
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
    "box that is not four finite numbers": entry(bbox=[float("nan"), 2, 3, 4]),
    "inverted box": entry(bbox=[10, 10, -5, 5]),
    "crowd mark that is neither 0 nor 1": entry(iscrowd="0"),
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


BOXES = [
    [2, 2, 3], "2 2 3 3", [2, 2, 3, None], None, [float("inf"), 0, 1, 1], ["2", "2", "3", "3"], [2, 2, [3], 3],
    [2, 2, True, 3], [10**400, 2, 3, 3], [2, 2, 1e300, 3], {"x": 2}, 7,
]  # fmt: skip


@pytest.mark.parametrize("box", BOXES)
def test_boxes_of_another_form(box: Any, tmp_path: Path) -> None:
    (fault,) = read(write(tmp_path, annotations=[entry(bbox=box)])).faults
    assert fault["kind"] == "box that is not four finite numbers"


NESTED: list[Any] = []
for _ in range(200):
    NESTED = [NESTED]
JUNK = [
    None, True, "1", "\0", "\ud800", [1], [], {"a": 1}, {}, NESTED,
    1.5, float("nan"), float("inf"), -1, 2**70, 10**400,
]  # fmt: skip
GOOD_ALL_THE_SAME = {"id": JUNK, "area": JUNK, "segmentation": JUNK, "iscrowd": [None, True]}
"""An annotation is kept without a usable outline or area, and nothing is asked of its id."""


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"])
def test_whatever_stands_in_an_annotation_is_counted_and_stops_nothing(key: str, tmp_path: Path) -> None:
    """`"image_id": [1]` was a TypeError; what is kept can be written and printed."""
    found = read(write(tmp_path, annotations=[entry(), *(entry(**{key: value}) for value in JUNK)]))
    kept = [value for value in JUNK if any(value is good for good in GOOD_ALL_THE_SAME.get(key, ()))]
    assert found.num_left_out == len(JUNK) - len(kept)
    outlines = [found.outline(row) for row in found.objects(0)]
    assert outlines == [SQUARE, *((None if key == "segmentation" else SQUARE) for _ in kept)]
    areas = [value if key == "area" and value in (1.5, 2**70) else 100 for value in kept]
    assert found.columns["areas"].tolist() == [100, *areas]
    found.write_faults(tmp_path / "faults.csv")
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("key", ["id", "file_name", "width", "height"])
def test_whatever_stands_in_an_image_too(key: str, tmp_path: Path) -> None:
    good = {"id": 1, "file_name": "a.png", "width": 20, "height": 16}
    images = [good, *({**good, "id": 2, key: value} for value in JUNK), *JUNK]
    found = read(write(tmp_path, images=images, annotations=[entry()]))
    counts = {fault["kind"]: fault["count"] for fault in found.faults}
    # -1 is an id as good as another, of an image that is there already; "1" is a name, of a file that is not.
    other = {"id": "repeated image", "file_name": "missing image file"}.get(key)
    wanted = {"image without id, name or size": 2 * len(JUNK) - (other is not None)}
    assert counts == wanted | ({other: 1} if other else {})
    assert len(found.columns["boxes"]) == 1


def test_ids_may_be_written_as_pandas_does(tmp_path: Path) -> None:
    images = [{"id": 1.0, "file_name": "a.png", "width": 20.0, "height": 16.0}]
    found = read(
        write(tmp_path, images=images, annotations=[entry(), entry(image_id=1.0, category_id=1.0, iscrowd=1.0)])
    )
    assert (found.faults, found.columns["crowds"].tolist()) == ((), [False, True])


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
        "[" * 100_000: "as JSON",
        '{"images": [], "categories": []}': "no categories",
        '{"images": [], "categories": {}}': "not in COCO's format",
        '{"images": [], "categories": [], "annotations": 5}': "not in COCO's format",
        '{"images": [], "categories": [], "annotations": {"a": 1}}': "not in COCO's format",
        '{"images": [], "categories": [7]}': r"a category without id or name: 7",
        '{"images": [], "categories": [{"id": [1], "name": "a"}]}': "a category without id or name",
        '{"images": [], "categories": [{"id": 1, "name": null}]}': "a category without id or name",
        '{"images": [], "categories": [{"id": Infinity, "name": "a"}]}': "a category without id or name",
        '{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1.0, "name": "b"}]}': "one id twice",
    }
    for text, words in broken.items():
        (tmp_path / "set.json").write_text(text)
        with pytest.raises(DataError, match=words):
            open_index(tmp_path / "set.json")
    with pytest.raises(DataError, match="no image of the annotation files is there"):
        open_index(write(tmp_path, images=[], annotations=[]))


def test_images_without_annotations(tmp_path: Path) -> None:
    file = write(tmp_path, annotations=[])
    content = json.loads(file.read_text())
    for annotations in ({"annotations": None}, {}):
        del content["annotations"]
        file.write_text(json.dumps(content | annotations))
        found = read(file)
        assert (found.num_annotations, found.faults, list(found.objects(0))) == (0, (), [])
        content["annotations"] = []
