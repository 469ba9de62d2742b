"""COCO's twelve metrics, over all classes and per class, computed by faster-coco-eval (extra `detection`).

The tests verify that they equal pycocotools'. Source: https://cocodataset.org/#detection-eval
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vitlet.data.detection.outlines import require_coco

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In COCO's order. AP is the mean over ten overlap thresholds from 0.50 to 0.95; s, m and l are small, medium and large
objects, of up to 32², up to 96² and more pixels; AR is recall with at most that many detections per image."""

Kind = Literal["bbox", "segm"]


@dataclass(frozen=True)
class Scores:
    """Shares of 1; None if there is no object to count."""

    kind: Kind
    numbers: dict[str, float | None]
    """By the names of `NAMES`."""
    per_class: dict[str, float | None]
    """AP by class name."""
    num_images: int


def score(truth: dict[str, Any], found: list[dict[str, Any]], *, kind: Kind) -> Scores:
    """Score detections against the ground truth.

    Args:
        truth: Content of a COCO file.
        found: Detections in COCO's results format: `image_id`, `category_id`, `score`, and `bbox` or `segmentation`.
        kind: Overlap of boxes or of masks. For masks, the box of an object without outline counts as a crowd:
            finding it is neither right nor wrong.

    Raises:
        UsageError: if faster-coco-eval is not installed.
    """
    require_coco()
    from faster_coco_eval import COCO, COCOeval_faster

    names = {number: name for number, name in ((c["id"], c["name"]) for c in truth["categories"])}
    truth = copy.deepcopy(truth)
    for entry in truth["annotations"]:
        if kind == "segm" and "segmentation" not in entry:
            x, y, width, height = entry["bbox"]
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            entry |= {"segmentation": [corners], "iscrowd": 1}
    # If results have boxes beside masks, the reference takes a mask's size from its box; detectron2 drops them too.
    wanted = ("image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation")
    reference = COCO(truth, print_function=_silent)
    results = reference.loadRes([{k: copy.deepcopy(entry[k]) for k in wanted} for entry in found])
    run = COCOeval_faster(reference, results, iouType=kind, print_function=_silent, rle_iou_max_workers=1)
    run.evaluate()
    run.accumulate()
    run.summarize()
    # Axes: overlap threshold, recall, class, object size, number of detections.
    precision = np.asarray(run.eval["precision"]).reshape([int(n) for n in run.eval["counts"]])
    by_class = {names[number]: _mean(precision[:, :, k, 0, -1]) for k, number in enumerate(run.params.catIds)}
    numbers = {name: None if v < 0 else float(v) for name, v in zip(NAMES, run.stats, strict=False)}
    return Scores(kind, numbers, by_class, len(truth["images"]))


def _mean(values: np.ndarray) -> float | None:
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else None


def _silent(*_: object) -> None:
    return
