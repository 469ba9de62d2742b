"""Scores are pycocotools'."""

import contextlib
import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitlet.evaluation.detection.scores import NAMES, Scores, score


def reference(truth: dict[str, Any], found: list[dict[str, Any]], kind: str) -> tuple[list[float], dict[str, float]]:
    """The twelve numbers and AP by class, from pycocotools; −1 where there is nothing to count on."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(copy.deepcopy(found)), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = {c["id"]: c["name"] for c in truth["categories"]}
    precision = run.eval["precision"][:, :, :, 0, -1]
    by_class = {}
    for k, number in enumerate(run.params.catIds):
        values = precision[:, :, k]
        by_class[names[number]] = values[values > -1].mean() if (values > -1).any() else -1
    return run.stats.tolist(), by_class


def equal(scores: Scores, expected: tuple[list[float], dict[str, float]]) -> None:
    numbers = [-1 if scores.numbers[name] is None else scores.numbers[name] for name in NAMES]
    assert numbers == pytest.approx(expected[0], abs=1e-12)
    by_class = {name: -1 if v is None else v for name, v in scores.per_class.items()}
    assert by_class == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize(("kind", "known"), [("bbox", (0.505, 0.697, 0.573)), ("segm", (0.320, 0.562, 0.299))])
def test_the_fixtures(shared: Path, kind: Any, known: tuple[float, ...]) -> None:
    folder = shared / "coco_eval_fixtures"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    found = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    scores = score(truth, found, kind=kind)
    assert tuple(scores.numbers[n] for n in ("AP", "AP50", "AP75")) == pytest.approx(known, abs=5e-4)
    assert scores.num_images == 100
    equal(scores, reference(truth, found, kind))


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rectangles on eight images, some of them crowds, some found a little beside, some not there at all."""
    draw = random.Random(seed)
    truth: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": c, "name": f"c{c}"} for c in (2, 5, 9)],
    }
    found = []
    for image in range(1, 9):
        truth["images"].append({"id": image, "height": 200, "width": 240, "file_name": f"{image}"})
        for _ in range(draw.randrange(5)):
            box = [draw.randrange(100), draw.randrange(80), draw.randrange(4, 140), draw.randrange(4, 120)]
            category = draw.choice((2, 5))
            entry = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category, "bbox": box}
            entry |= {"area": box[2] * box[3], "iscrowd": int(draw.random() < 0.15), "segmentation": runs(box)}
            truth["annotations"].append(entry)
            for _ in range(draw.randrange(3)):
                moved = [v + draw.randrange(-6, 7) for v in box]
                near = [max(0, v) for v in moved[:2]] + [max(1, v) for v in moved[2:]]
                chosen = category if draw.random() < 0.8 else 9
                found.append({"image_id": image, "category_id": chosen, "score": round(draw.random(), 2), "bbox": near})
    return truth, found


def runs(box: list[int]) -> dict[str, Any]:
    mask = np.zeros((200, 240), dtype=np.uint8, order="F")
    mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
    coded = masks.encode(mask)
    return {"size": coded["size"], "counts": coded["counts"].decode()}


@pytest.mark.parametrize("seed", range(6))
def test_random_cases(seed: int) -> None:
    truth, found = random_case(seed)
    equal(score(truth, found, kind="bbox"), reference(truth, found, "bbox"))
    shapes = [{**{k: v for k, v in f.items() if k != "bbox"}, "segmentation": runs(f["bbox"])} for f in found]
    equal(score(truth, shapes, kind="segm"), reference(truth, shapes, "segm"))


def test_nothing_found_is_zero_and_nothing_there_is_none() -> None:
    truth, _ = random_case(0)
    assert score(truth, [], kind="bbox").numbers["AP"] == 0
    nothing = score({**truth, "annotations": []}, [], kind="bbox")
    assert set(nothing.numbers.values()) == {None}
    assert set(nothing.per_class.values()) == {None}


def test_what_is_given_stays_as_it_is() -> None:
    truth, found = random_case(1)
    before = copy.deepcopy((truth, found))
    score(truth, found, kind="bbox")
    assert (truth, found) == before


def test_an_object_without_outline_counts_for_boxes_and_not_for_masks() -> None:
    truth, _ = random_case(2)
    copied = ("image_id", "category_id", "bbox", "segmentation")
    exact = [{k: a[k] for k in copied} | {"score": 0.9} for a in truth["annotations"] if not a["iscrowd"]]
    for entry in truth["annotations"]:
        if entry["id"] % 2:
            del entry["segmentation"]
    assert score(truth, exact, kind="bbox").numbers["AP"] == pytest.approx(1)
    assert score(truth, exact, kind="segm").numbers["AP"] == pytest.approx(1)
    assert score(truth, exact[::2], kind="bbox").numbers["AP"] < 0.9, "the control"
