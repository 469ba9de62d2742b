"""Images with boxes and masks, and their annotations. Not a test itself."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_annotated(root: Path, *, train: int = 6, val: int = 3) -> Path:
    """Data in COCO's format: images of 40 × 32 pixels, at most 15 a split, on each a red or a green rectangle, as
    polygon or run lengths; the last of each split is empty, the first has a crowd too.
    """
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        images, objects = [], []
        for i in range(count):
            pixels = np.full((32, 40, 3), 90, dtype=np.uint8)
            left, top, width, height = 4 + i, 6, 18, 12 + i
            images.append({"id": 10 + i, "file_name": f"{i}.png", "height": 32, "width": 40})
            if i + 1 < count:
                pixels[top : top + height, left : left + width] = ((200, 20, 20), (20, 200, 20))[i % 2]
                corners = [left, top, left + width, top, left + width, top + height, left, top + height]
                mask = np.zeros((32, 40), dtype=np.uint8)
                mask[top : top + height, left : left + width] = 1
                outline = {"size": [32, 40], "counts": run_lengths(mask)} if i % 2 else [corners]
                box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
                objects.append({"image_id": 10 + i, "category_id": (3, 7)[i % 2], "segmentation": outline, **box})
            Image.fromarray(pixels).save(root / split / f"{i}.png")
        crowd = {"size": [32, 40], "counts": [0, 32 * 4, 32 * 36]}
        objects.append({"image_id": 10, "category_id": 3, "bbox": [0, 0, 4, 32], "area": 128, "iscrowd": 1,
                        "segmentation": crowd})  # fmt: skip
        for number, entry in enumerate(objects, start=1):
            entry["id"] = number
        (root / "annotations").mkdir(exist_ok=True)
        categories = [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}]
        content = {"images": images, "annotations": objects, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's plain run lengths: column by column, zeros first."""
    flat, counts, value = mask.T.reshape(-1), [], 0
    start = 0
    while start < len(flat):
        end = start
        while end < len(flat) and flat[end] == value:
            end += 1
        counts.append(end - start)
        start, value = end, 1 - value
    return counts
