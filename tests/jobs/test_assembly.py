"""What a training is put together from: that the values of its recipe reach the images."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import DETECTING, QUIET, SHORT, SMALLER
from torch import Tensor

from vitlet.augmentation import Fit
from vitlet.data.batch import Batch
from vitlet.errors import DataError
from vitlet.jobs import assembly
from vitlet.jobs.detecting import detect
from vitlet.jobs.training import finetune, pretrain
from vitlet.methods.detection import Detection
from vitlet.normalisation import IMAGENET
from vitlet.train.log import MetricsLog
from vitlet.train.trackers import Ending

RED: dict[str, Any] = {"data.mean": (1.0, 0.0, 0.0), "data.std": (1e-9, 1e-9, 1e-9)}
"""Noise around this mean is one colour, which no image of the tests has."""


class CaughtError(Exception):
    """Ends a training before its first step."""


@pytest.fixture
def first_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Batch]:
    """The first batch that a training would have seen."""

    def caught(start: Callable[[], object]) -> Batch:
        found: list[Batch] = []

        def instead(_objective: object, *, batches: Any, **_: object) -> None:
            found.append(next(batches.from_step(0)))
            raise CaughtError

        monkeypatch.setattr(assembly, "train", instead)
        with pytest.raises(CaughtError):
            start()
        return found[0]

    return caught


def are(images: Tensor, colour: tuple[int, ...]) -> Tensor:
    """B × H × W: which pixels have just this colour."""
    return (images == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(dim=1)


def test_erasing_follows_the_normalisation_of_the_recipe(
    data: Path, tmp_path: Path, first_batch: Callable[[Callable[[], object]], Batch]
) -> None:
    def start(out: Path, **values: Any) -> Callable[[], object]:
        settings = SHORT | {"data.views.0.erase": 1.0} | values
        return lambda: pretrain("debug", data=data, out=out, options=QUIET, set=settings)

    seen = are(first_batch(start(tmp_path / "red", **RED)).images, (255, 0, 0))
    assert seen.flatten(1).any(dim=1).sum() >= 7, "of eight; a rectangle need not fit"
    control = first_batch(start(tmp_path / "control"))
    assert not are(control.images, (255, 0, 0)).any()


def test_erasing_follows_the_encoder_that_a_training_starts_from(
    data: Path, tmp_path: Path, first_batch: Callable[[Callable[[], object]], Batch]
) -> None:
    init = pretrain("debug", data=data, out=tmp_path / "init", options=QUIET, set=SHORT | RED)
    settings = SMALLER | {"data.views.0.erase": 1.0}
    batch = first_batch(
        lambda: finetune(
            "debug_supervised", init=init.path, data=data, out=tmp_path / "tuned", options=QUIET, set=settings
        )
    )
    assert are(batch.images, (255, 0, 0)).flatten(1).any(dim=1).sum() >= 7


@pytest.mark.parametrize("values", [{}, {"data.mean": (1.0, 0.0, 0.0)}], ids=["imagenet", "red"])
def test_a_detector_sees_its_own_mean_beside_an_image(
    annotated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first_batch: Callable[[Callable[[], object]], Batch],
    values: dict[str, Any],
) -> None:
    """Images of 40 × 32 pixels in a square: below them there is nothing, in training and afterwards."""
    fill = (255, 0, 0) if values else IMAGENET.fill
    settings = DETECTING | {"data.views.0.crop": Fit(), "data.views.0.flip": 0.0} | values

    def start(out: Path) -> Any:
        return finetune("debug_detection", init=None, data=annotated, out=out, options=QUIET, set=settings)

    run = start(tmp_path / "run")
    seen: list[Tensor] = []
    whole = Detection.detect
    monkeypatch.setattr(Detection, "detect", lambda self, images: seen.append(images) or whole(self, images))
    detect(run.path, data=annotated, out=tmp_path / "found.json", options=QUIET)
    trained = first_batch(lambda: start(tmp_path / "other"))
    for images in (*seen, trained.images):
        assert are(images, fill)[:, -1].all()
        assert not are(images, fill)[:, 0].any()


@pytest.mark.parametrize("fails", [True, False])
def test_trackers_hear_that_an_evaluation_failed(
    fails: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training is over by then; the control is a run that ends well."""
    heard: list[str] = []
    close = MetricsLog.close

    def noted(log: MetricsLog, ending: Ending = "finished") -> None:
        heard.append(ending)
        close(log, ending)

    def failing(*_: object) -> None:
        raise DataError("planted")

    monkeypatch.setattr(MetricsLog, "close", noted)
    if fails:
        monkeypatch.setattr(assembly, "finish_pretraining", failing)
    with pytest.raises(DataError, match="planted") if fails else contextlib.nullcontext():
        pretrain("debug", data=data, out=tmp_path / "run", options=QUIET, set=SHORT)
    assert heard == ["failed" if fails else "finished"]
