"""Learning a few images by heart: which ones, on what, and what is said about it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import QUIET, TINY_DETECTOR

from vitlet.data.detection.annotations import annotations_of
from vitlet.data.index import open_index
from vitlet.errors import DataError, UsageError
from vitlet.jobs import overfitting
from vitlet.jobs.overfitting import first_step, overfit, smoothed_losses, suitable


def test_which_images(annotated: Path) -> None:
    index = open_index(annotated)
    annotations = annotations_of(index)
    assert annotations is not None
    chosen = [index.path(int(i)) for i in suitable(index, annotations, count=4)]
    assert chosen == [f"train/{i}.png" for i in (1, 2, 3, 4)], "the first has a crowd, the sixth no object"
    with pytest.raises(DataError, match=r"4 training images.*5 are wanted.*--images 4"):
        suitable(index, annotations, count=5)


def test_the_record(annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = overfit(
        data=annotated,
        out=tmp_path / "out",
        images=2,
        steps=3,
        json=tmp_path / "r.json",
        settings=TINY_DETECTOR,
        options=QUIET,
    )
    assert capsys.readouterr().out == "", "quiet"
    assert json.loads((tmp_path / "r.json").read_text()) == found
    assert found["files"] == ["train/1.png", "train/2.png"]
    assert set(found["scores"]["random-0"]) == {"bbox", "segm"}
    assert found["learned"] is False, "three steps are not enough"
    (folder,) = (tmp_path / "out").glob("images-*")
    small = open_index(folder)
    assert [small.path(i) for i in range(4)] == ["train/0.png", "train/1.png", "val/0.png", "val/1.png"]
    assert small.read(0) == small.read(2) == (annotated / "train/1.png").read_bytes()
    recipe = json.loads((tmp_path / "out/random-0/recipe.json").read_text())
    assert recipe["data"]["views"][0]["crop"]["kind"] == "fit"


def test_ranks_that_cannot_share_a_batch_are_refused(
    annotated: Path, tmp_path: Path, on_ranks: Callable[..., None]
) -> None:
    def body() -> None:
        with pytest.raises(UsageError, match=r"of 2 images do not divide over 3 ranks.*--nproc-per-node 1 or 2$"):
            overfit(data=annotated, out=tmp_path / "out", images=2, settings=TINY_DETECTOR, options=QUIET)

    on_ranks(body, size=3)
    assert not (tmp_path / "out").exists()


def test_nothing_that_stood_in_the_folder_is_lost(annotated: Path, tmp_path: Path) -> None:
    """A folder called data with the only copy of the images, in the place where the run goes."""
    shutil.copytree(annotated, tmp_path / "out/data")
    before = {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "out/data").rglob("*") if p.is_file()}
    overfit(data=tmp_path / "out/data", out=tmp_path / "out", images=2, steps=1, settings=TINY_DETECTOR, options=QUIET)
    assert before
    assert {path: (tmp_path / path).read_bytes() for path in before} == before


def test_learned_means_both_goals(annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"data": annotated, "images": 2, "steps": 2, "settings": TINY_DETECTOR, "options": QUIET}
    for goals, learned in (({"bbox": 0.0, "segm": 0.0}, True), ({"bbox": 0.0, "segm": 1.1}, False)):
        monkeypatch.setattr(overfitting, "GOALS", goals)
        assert overfit(out=tmp_path / "out", **options)["learned"] is learned


def test_steps_to_a_loss() -> None:
    rows = [{"step": 10 * i, "loss": loss} for i, loss in enumerate((9.0, 6.0, 3.0, 0.0, 0.0))] + [{"step": 50}]
    curve = smoothed_losses(rows)
    assert curve == [(0, 9.0), (10, 7.5), (20, 6.0), (30, 3.0), (40, 1.0)]
    assert first_step(curve, 3.0) == 30
    assert first_step(curve, 8.0) == 10
