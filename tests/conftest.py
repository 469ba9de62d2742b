"""Fixtures shared by all tests."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: sums on two threads differ in the last bits; children inherit it

import numpy as np
import pytest
import torch
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data; a clone without it skips, and says why."""
    if not SHARED.is_dir():
        pytest.skip("development data (../shared/data) is not here")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or fill the user's cache."""
    os.environ["VITLET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def fp32_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers compute in fp32 on every processor: where the hardware has bf16 they would take that."""
    monkeypatch.setattr("vitlet.methods.distill.has_bf16", lambda _: False)


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in COCO's format: six training and three validation images of 40 × 32 pixels, on each a red or a green
    rectangle, as polygon or run lengths; the last of each split is empty, the first has a crowd too.
    """
    root = tmp_path_factory.mktemp("annotated")
    for split, count in (("train", 6), ("val", 3)):
        (root / split).mkdir()
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


_RANK = """
import os, sys
import torch
import torch.distributed as dist
torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
{script}
torch.save(result, sys.argv[3])
dist.destroy_process_group()
"""


@pytest.fixture
def two_ranks(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Runs a script as two ranks on gloo; it finds `rank` and leaves a dict of tensors in `result`, one a rank."""

    def run(script: str) -> list[dict[str, Any]]:
        source = _RANK.replace("{script}", script)
        outs = [tmp_path / f"rank{rank}.pt" for rank in range(2)]
        command = [sys.executable, "-c", source]
        ranks = [
            subprocess.Popen([*command, str(rank), str(tmp_path / "meeting"), str(out)], stderr=subprocess.PIPE)
            for rank, out in enumerate(outs)
        ]
        try:
            errors = [process.communicate(timeout=100)[1].decode() for process in ranks]
        finally:
            for process in ranks:
                process.kill()
        assert all(process.returncode == 0 for process in ranks), "\n".join(errors)
        return [torch.load(out, weights_only=True) for out in outs]

    return run
