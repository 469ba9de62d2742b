"""Models side by side: names of three kinds, measured apart from published."""

import json
from pathlib import Path

import pytest
from small_runs import QUIET

from vitlet.benchmarks.published import PAPER
from vitlet.disk import write_json
from vitlet.errors import UsageError
from vitlet.jobs import lineup
from vitlet.jobs.lineup import accuracy_of, bench_lineup, candidate
from vitlet.run import Run


def test_a_run_a_recipe_and_a_model_of_timm_stand_in_one_table(
    tuned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(tuned.path), "finetune_micro", "test_vit"]
    file = tmp_path / "deep" / "models.json"
    found = bench_lineup(names, batch_size=2, repeats=1, out=file, options=QUIET.changed(device="cpu"))
    assert json.loads(file.read_text()) == found
    models = found["figures"]["models"]
    assert list(models) == names
    assert models[names[0]]["accuracy"]["value"] == json.loads((tuned.results / "top1.json").read_text())["value"]
    assert models["finetune_micro"]["accuracy"] is None
    assert not any("published" in row for row in models.values())
    assert {"processor", "command"} <= found["machine"].keys()


def test_published_figures_have_a_place_and_a_tag_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(candidates, **_):
        row = {"parameters": 1, "flops": 1, "image_size": 1, "images_per_second": 7.0}
        return {"models": {name: dict(row) for name in candidates}, "engine": "e", "batch_size": 1, "repeats": 1}

    monkeypatch.setattr(lineup, "bench_models", measured)
    monkeypatch.setattr(lineup, "candidate", lambda name: name)
    rows = bench_lineup(["mine"], preset="paper", options=QUIET)["figures"]["models"]
    assert list(rows) == [*PAPER, *lineup.OURS, "mine"]
    row = rows["resnet18"]
    assert row["images_per_second"] == 7.0
    assert row["published"]["images_per_second"]["value"] == 8950.63
    assert all(entry["source"].startswith("L: ") for entry in row["published"].values())
    assert "published" not in rows["mine"]


def test_the_papers_network_has_its_parameters() -> None:
    network = candidate("finetune_tiny_impr_300e").network
    assert sum(p.numel() for p in network.parameters()) == 5_717_416


def test_accuracy_of_what_is_no_run_comes_from_a_result_file(tmp_path: Path) -> None:
    assert accuracy_of("resnet18", tmp_path) is None
    entry = {
        "metric": "top1",
        "value": 0.697,
        "n": 50_000,
        "split": "val",
        "protocol": "p",
        "data": {"name": "imagenet"},
    }
    for file, model, labels in (
        ("other", "resnet50", "val"),
        ("real", "resnet18", "real"),
        ("right", "resnet18", "val"),
    ):
        write_json(tmp_path / "a" / f"{file}.json", {**entry, "details": {"model": model, "labels": labels}})
    (tmp_path / "broken.json").write_text("{")
    found = accuracy_of("resnet18", tmp_path)
    assert found is not None
    assert (found["value"], found["n"], found["data"], found["file"]) == (0.697, 50_000, "imagenet", "right.json")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean resnet18"):
        candidate("resnet81")
    with pytest.raises(UsageError, match="no models to compare"):
        bench_lineup([], options=QUIET)
