"""The table of methods: what is above random weights, budgets in views, and a run of it from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitlet.evaluate.compare import Arm
from vitlet.jobs.learning import _length, _rows, learn
from vitlet.units import Images


def arm(name: str, *values: float) -> Arm:
    return Arm(name, name, values, seeds=(0, 1, 2), cpu_seconds=(1.0, 1.0, 1.0))


def test_above_random_means_intervals_that_do_not_touch() -> None:
    random = arm("random", 0.30, 0.31, 0.32)
    rows = _rows([arm("far", 0.50, 0.51, 0.52), arm("near", 0.31, 0.33, 0.35), random])
    assert rows["far"]["above_random"]
    assert not rows["near"]["above_random"]
    assert rows["near"]["difference"]["mean"] == pytest.approx(0.02)
    assert "difference" not in rows["random"]


def test_a_distilled_method_is_compared_with_what_it_adds_to() -> None:
    rows = _rows([arm("mae_micro", 0.5, 0.5, 0.5), arm("dmae_micro", 0.6, 0.6, 0.6), arm("random", 0.3, 0.3, 0.3)])
    assert rows["dmae_micro"]["beside"]["name"] == "mae_micro"
    assert rows["dmae_micro"]["beside"]["low"] == pytest.approx(0.1)
    assert "beside" not in rows["mae_micro"]


@pytest.mark.parametrize(("method", "images"), [("mae_micro", 6_000), ("mocov3_micro", 3_000), ("dino_micro", 2_000)])
def test_views_count_by_their_area(method: str, images: int) -> None:
    assert _length(method, 6_000)["budget.duration"] == Images(n=images)


@pytest.mark.timeout(300)  # processes of its own, each of which imports torch
def test_a_table_from_end_to_end(tmp_path: Path) -> None:
    draw = np.random.Generator(np.random.Philox(key=1))
    for split, count in (("train", 72), ("test", 16)):
        for code, name in enumerate(("dark", "light")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 120, (32, 32, 3)) + 130 * code
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / split / name / f"{i:02}.png")
    found = learn(
        data=tmp_path / "data",
        out=tmp_path / "out",
        views=128,
        num_labels=8,
        seeds=1,
        methods=("seed_micro",),
        settings={"budget.duration": Images(n=64)},
        file=tmp_path / "table.json",
    )
    assert json.loads((tmp_path / "table.json").read_text())["protocols"] == found["protocols"]
    assert set(found["protocols"]) == {"finetune", "knn", "logistic"}
    for rows in found["protocols"].values():
        assert set(rows) == {"seed_micro", "random_convnet"}
        assert not rows["seed_micro"]["above_random"], "one seed has no interval"
    assert set(found["pretraining_cpu_seconds"]) == {"seed_micro"}
