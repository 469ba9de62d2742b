"""Ground truth of images, in COCO's format."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitlet.data.detection.annotations import Annotations
from vitlet.data.index import Index
from vitlet.text import printable


def ground_truth(index: Index, annotations: Annotations, ids: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Convert the images `ids` of the index to the content of a COCO file.

    Objects are renumbered from 1, since the files of some tools use a number twice.
    """
    columns = annotations.columns
    images, objects = [], []
    for i in map(int, ids):
        height, width = annotations.shape(i)
        number = int(columns["image_ids"][i])
        images.append({"id": number, "height": height, "width": width, "file_name": printable(index.path(i))})
        for row in annotations.objects(i):
            box = [float(v) for v in columns["boxes"][row]]
            outline = annotations.outline(row)
            objects.append(
                {
                    "id": row + 1,
                    "image_id": number,
                    "category_id": annotations.category_ids[int(columns["categories"][row])],
                    "bbox": box,
                    "area": float(columns["areas"][row]),
                    "iscrowd": int(columns["crowds"][row]),
                    **({} if outline is None else {"segmentation": outline}),
                }
            )
    named = zip(annotations.category_ids, annotations.classes, strict=True)
    return {
        "images": images,
        "annotations": objects,
        "categories": [{"id": number, "name": printable(name)} for number, name in named],
    }
