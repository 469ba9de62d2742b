"""Evaluation as a job: which images, which labels, the same over one rank and two."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import QUIET, write_image

from vitlet.errors import DataError, UsageError
from vitlet.evaluation.imagenet import real_labels, synsets
from vitlet.jobs.evaluating import evaluate
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import new_classifier
from vitlet.normalisation import Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.run import Run
from vitlet.weights.folder import write_model
from vitlet.weights.source import evaluation_view


def model(folder: Path, classes: tuple[str, ...], *, answer: int) -> Path:
    """A classifier of no depth worth the name that always gives the output `answer`, then the ones after it."""
    shape = EncoderConfig(image_size=32, patch_size=16, width=8, depth=1, heads=2, final_norm=False)
    encoder = Encoder(shape, normalisation=Normalisation((0.5,) * 3, (0.5,) * 3), seed=0)
    head: Any = new_classifier(encoder, num_classes=len(classes), pool="mean", seed=0)
    with torch.no_grad():
        head.head.weight.zero_()
        head.head.bias.copy_(-((torch.arange(len(classes)) - answer) % len(classes)).float())
    write_model(folder, encoder=encoder, evaluation=evaluation_view(32), facts={}, classifier=head, classes=classes)
    return folder


@pytest.fixture
def tuned(tuned: Run, tmp_path: Path) -> Run:
    """A copy, since a score is written into its run."""
    return Run(Path(shutil.copytree(tuned.path, tmp_path / "tuned")))


def test_a_fine_tuned_run_scores_what_it_did_when_it_ended(tuned: Run, data: Path) -> None:
    result = evaluate(tuned.path, data=data, options=QUIET)
    assert result.value == json.loads((tuned.results / "top1.json").read_text())["value"]
    assert (result.n, result.split, result.details["order"]) == (12, "test", "classes by name")
    written = json.loads((tuned.results / "evaluate-val.json").read_text())
    assert written["value"] == result.value
    assert {"command", "hardware", "wall_seconds", "seed"} <= written.keys()


def test_folders_with_numbers_mean_places_in_the_synsets(tmp_path: Path) -> None:
    for name in ("0", "2", "10"):
        write_image(tmp_path / "v2" / name / "a.png", int(name), light=True)
    run = model(tmp_path / "m", synsets(), answer=2)
    result = evaluate(run, data=tmp_path / "v2", protocol="v2", options=QUIET)
    assert (result.value, result.n) == (pytest.approx(1 / 3), 3)  # of 0, 2 and 10 the second
    assert result.details["top5"] == pytest.approx(1 / 3)  # outputs 2 … 6
    shutil.move(tmp_path / "v2" / "10", tmp_path / "v2" / "4")
    assert evaluate(run, data=tmp_path / "v2", protocol="v2", options=QUIET).details["top5"] == pytest.approx(2 / 3)


def test_real_labels_go_by_the_names_of_the_files(tmp_path: Path) -> None:
    known = [i + 1 for i, labels in enumerate(real_labels()) if labels][:5]
    unknown = next(i + 1 for i, labels in enumerate(real_labels()) if not labels)
    for number in (*known, unknown):
        write_image(tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.png", number, light=True)
    answer = real_labels()[known[0] - 1][0]
    right = sum(answer in real_labels()[number - 1] for number in known)
    run = model(tmp_path / "m", synsets(), answer=answer)
    result = evaluate(run, data=tmp_path / "val", protocol="real", json=tmp_path / "out.json", options=QUIET)
    assert (result.value, result.n, result.details["left_out"]) == (right / 5, 5, 1)
    assert json.loads((tmp_path / "out.json").read_text())["details"]["model"] == "m"
    write_image(tmp_path / "val" / "cat.png", 0, light=True)
    with pytest.raises(DataError, match=r"1 name not of ImageNet.*cat\.png"):
        evaluate(run, data=tmp_path / "val", protocol="real", options=QUIET)


def test_what_cannot_be_scored_is_refused(pretrained: Run, tuned: Run, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without a classifier"):
        evaluate(pretrained.path, data=data, options=QUIET)
    with pytest.raises(DataError, match="not ImageNet-V2"):
        evaluate(tuned.path, data=data, protocol="v2", options=QUIET)
    with pytest.raises(DataError, match="2 classes of the data unknown to the head: dark, light"):
        evaluate(model(tmp_path / "m", ("a", "b"), answer=0), data=data, options=QUIET)
    flat = shutil.copytree(data / "test" / "dark", tmp_path / "flat")
    with pytest.raises(DataError, match="no labelled images"):
        evaluate(tuned.path, data=flat, options=QUIET)


def test_two_ranks_count_what_one_counts(tuned: Run, data: Path, tmp_path: Path, on_ranks: Callable[..., None]) -> None:
    """11 images: the ranks' shares differ by one."""
    odd = shutil.copytree(data, tmp_path / "odd")
    next((odd / "test" / "dark").iterdir()).unlink()
    alone = evaluate(tuned.path, data=odd, options=QUIET)
    assert alone.n == 11

    def body() -> None:
        rank = os.environ["RANK"]
        found = evaluate(tuned.path, data=odd, json=tmp_path / f"{rank}.json", options=QUIET)
        (tmp_path / f"rank{rank}").write_text(f"{found.value!r} {found.n} {found.details['top5']!r}")

    on_ranks(body, size=2)
    for rank in range(2):
        assert (tmp_path / f"rank{rank}").read_text() == f"{alone.value!r} 11 {alone.details['top5']!r}"
    assert [(tmp_path / f"{rank}.json").exists() for rank in range(2)] == [True, False], "one rank writes"
