"""The table of methods: what is above random weights, budgets in views, and a run of it from end to end."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, write_images

from in_place import in_place
from vitlet.evaluation.compare import Arm
from vitlet.jobs import learning, side_by_side
from vitlet.jobs.learning import METHODS, TEACHER, _length, _rows, learn
from vitlet.run import Run
from vitlet.units import Images

LIKE = dict.fromkeys(("method", "mae_micro", "dmae_micro"), "random")


def arm(name: str, *values: float) -> Arm:
    return Arm(name, name, values, seeds=tuple(range(len(values))), cpu_seconds=(1.0,) * len(values))


@pytest.mark.parametrize(
    ("values", "above"),
    [
        ((0.50, 0.51, 0.52), True),
        ((0.31, 0.33, 0.35), False),  # the intervals touch
        ((0.30, 0.60, 0.95), False),  # a higher mean is not enough
        ((0.10, 0.11, 0.12), False),  # worse
        ((0.30, 0.31, 0.32), False),  # equal
    ],
)
def test_above_random_means_intervals_that_do_not_touch(values: tuple[float, ...], above: bool) -> None:
    rows = _rows([arm("method", *values), arm("random", 0.30, 0.31, 0.32)], LIKE)
    assert rows["method"]["above_random"] is above
    assert rows["random"].keys() == {"title", "values", "mean", "low", "high"}, "it is not compared with itself"


def test_of_one_seed_it_cannot_be_said() -> None:
    assert not _rows([arm("method", 0.9), arm("random", 0.1)], LIKE)["method"]["above_random"]


def test_a_method_probed_once_with_all_labels_is_compared_without_an_interval_of_its_own() -> None:
    once = Arm("mae_micro", "", (0.5,), (0,), (1.0,), once=True)
    rows = _rows([once, dataclasses.replace(once, name="dmae_micro"), arm("random", 0.30, 0.31, 0.32)], LIKE)
    row = rows["dmae_micro"]
    assert (row["once"], row["low"], row["high"], row["above_random"]) == (True, None, None, True)
    assert row["difference"]["low"] > 0
    assert row["beside"] == {"name": "mae_micro", "mean": 0, "low": None, "high": None}
    below = _rows([dataclasses.replace(once, values=(0.32,)), arm("random", 0.30, 0.31, 0.32)], LIKE)["mae_micro"]
    assert not below["above_random"], "within the interval of random weights"


def test_numbers_by_hand() -> None:
    rows = _rows([arm("method", 0.6, 0.8), arm("random", 0.5, 0.5)], LIKE)
    assert rows["method"]["values"] == [0.6, 0.8]
    assert rows["method"]["mean"] == pytest.approx(0.7)
    assert rows["method"]["high"] - 0.7 == pytest.approx(12.7062 * 0.1, rel=1e-4), "Student's t of one degree"
    assert rows["method"]["difference"]["mean"] == pytest.approx(0.2)
    assert (rows["random"]["low"], rows["random"]["high"]) == (0.5, 0.5)


def test_a_distilled_method_is_compared_with_what_it_adds_to() -> None:
    arms = [arm("mae_micro", 0.5, 0.5, 0.5), arm("dmae_micro", 0.6, 0.6, 0.6), arm("random", 0.3, 0.3, 0.3)]
    rows = _rows(arms, LIKE)
    assert rows["dmae_micro"]["beside"]["name"] == "mae_micro"
    assert rows["dmae_micro"]["beside"]["low"] == pytest.approx(0.1)
    assert "beside" not in rows["mae_micro"]


@pytest.mark.parametrize(
    ("method", "images"),
    [("mae_micro", 6_000), ("simmim_micro", 6_000), ("mocov3_micro", 3_000), ("dino_micro", 2_000)],
)
def test_views_count_by_their_area(method: str, images: int) -> None:
    assert method in METHODS
    assert _length(method, 6_000)["budget.duration"] == Images(n=images)


@pytest.mark.long
def test_a_table_of_both_families_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(side_by_side, "processes", in_place)
    monkeypatch.setattr(learning, "PROBES", 2)
    methods = ("mae_micro", "seed_micro")
    options: dict[str, Any] = {
        "data": write_images(tmp_path / "images", train=72, test=16),
        "out": tmp_path / "out",
        "views": 128,
        "num_labels": 8,
        "seeds": 1,
        "seed": 3,
        "methods": methods,
        "settings": {"budget.duration": Images(n=64), "budget.batch_size": 8},
    }
    found = learn(**options, json=tmp_path / "table.json")
    written = json.loads((tmp_path / "table.json").read_text())
    assert written == json.loads((tmp_path / "out/learning.json").read_text()) == json.loads(json.dumps(found))
    assert (written["kind"], written["n"], written["seeds"]) == ("learning", 32, 1)
    assert written["title"] == "images: 128 image views, 8 labels, 32 test images"
    assert list(written["protocols"]) == ["finetune", "knn", "logistic"]
    for protocol, rows in written["protocols"].items():
        assert set(rows) == {"mae_micro", "random-1", "seed_micro", "random-2"}
        assert {len(row["values"]) for row in rows.values()} == {1 if protocol == "finetune" else 2}
    finetuned = written["protocols"]["finetune"]
    assert [finetuned[method]["random"] for method in methods] == ["random-1", "random-2"]
    assert finetuned["random-1"]["title"] == "random weights like mae_micro"
    assert not any(finetuned[method]["above_random"] for method in methods), "one seed has no interval"
    assert set(written["pretraining_cpu_seconds"]) == set(methods)
    assert written["seed"] == 3
    assert {Run(tmp_path / "out" / name).recipe_json()["budget"]["seed"] for name in (*methods, TEACHER)} == {3}
    assert {re.sub(".*-seed|-[^-]*$", "", run.name) for run in (tmp_path / "out/finetuned").iterdir()} == {"3"}
    steps = {name: Run(tmp_path / "out" / name).metrics()[-1]["step"] for name in ("mae_micro", TEACHER)}
    assert steps == {"mae_micro": 128 // 64, TEACHER: 3 * 128 // 64}
    assert written["teacher"]["views"] == 3 * 128
    told = capsys.readouterr().out
    assert "above random" in told
    assert told.count(" of 3") == 2
    again = learn(**options, options=QUIET)
    assert capsys.readouterr().out == "", "quiet"
    assert again["protocols"]["finetune"]["mae_micro"]["values"] == finetuned["mae_micro"]["values"]
