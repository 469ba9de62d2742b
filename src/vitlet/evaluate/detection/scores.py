"""COCO's twelve numbers, over all classes and for each, computed by faster-coco-eval (extra `detection`).

The tests hold them equal to pycocotools'. Source: https://cocodataset.org/#detection-eval
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vitlet.data.detection.outlines import require_coco

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In COCO's order. AP is the mean over ten thresholds of overlap from 0.50 to 0.95; s, m and l are small, medium and
large objects, of up to 32², up to 96² and more pixels; AR is recall with at most so many detections an image."""

Kind = Literal["bbox", "segm"]


@dataclass(frozen=True)
class Scores:
    """Shares of 1; None where there is no object to count on."""

    kind: Kind
    numbers: dict[str, float | None]
    """By the names of `NAMES`."""
    per_class: dict[str, float | None]
    """AP by the name of the class."""
    num_images: int


def score(truth: dict[str, Any], found: list[dict[str, Any]], *, kind: Kind) -> Scores:
    """How much of `found` is right.

    Args:
        truth: The content of a COCO file.
        found: Detections as COCO writes results: `image_id`, `category_id`, `score`, and `bbox` or `segmentation`.
        kind: Overlap of boxes or of masks. Where an object has no outline its box counts as a crowd for masks: to find
            it is neither right nor wrong.

    Raises:
        UsageError: where faster-coco-eval is not installed.
    """
    require_coco()
    from faster_coco_eval import COCO, COCOeval_faster

    known = {number: name for number, name in ((c["id"], c["name"]) for c in truth["categories"])}
    truth = copy.deepcopy(truth)
    for entry in truth["annotations"]:
        if kind == "segm" and "segmentation" not in entry:
            x, y, width, height = entry["bbox"]
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            entry |= {"segmentation": [corners], "iscrowd": 1}
    # With boxes beside the masks the reference counts a mask's size by its box; detectron2 removes them too.
    wanted = ("image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation")
    reference = COCO(truth, print_function=_silent)
    results = reference.loadRes([{k: copy.deepcopy(entry[k]) for k in wanted} for entry in found])
    run = COCOeval_faster(reference, results, iouType=kind, print_function=_silent, rle_iou_max_workers=1)
    run.evaluate()
    run.accumulate()
    run.summarize()
    # Axes: threshold of overlap, recall, class, size of object, number of detections.
    precision = np.asarray(run.eval["precision"]).reshape([int(n) for n in run.eval["counts"]])
    by_class = {known[number]: _mean(precision[:, :, k, 0, -1]) for k, number in enumerate(run.params.catIds)}
    numbers = {name: None if v < 0 else float(v) for name, v in zip(NAMES, run.stats, strict=False)}
    return Scores(kind, numbers, by_class, len(truth["images"]))


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _silent(*_: object) -> None:
    return
