"""Detection as a job: what a run leaves, that nothing but the recipe decides it, and what is found with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import DETECTING, QUIET, losses, on_two_ranks, stands, weights, write_images

from vitlet.cli import main
from vitlet.errors import CheckpointError, DataError, UsageError
from vitlet.jobs.checking import check
from vitlet.jobs.detecting import detect
from vitlet.jobs.exporting import export
from vitlet.jobs.training import finetune, pretrain
from vitlet.run import Run
from vitlet.weights.folder import read_model


def tuned(data: Path, out: Path, *, init: Path | None = None, **more: Any) -> Run:
    more = {"options": QUIET, "set": DETECTING} | more
    return finetune("debug_detection", init=init, data=data, out=out, **more)


@pytest.fixture(scope="module")
def run(annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tuned(annotated, tmp_path_factory.mktemp("runs") / "detector")


def test_what_a_run_leaves(run: Run) -> None:
    assert read_model(run.encoder).encoder.config.image_size == 32
    for kind in ("bbox", "segm"):
        result = json.loads((run.results / f"{kind}.json").read_text())
        assert (result["metric"], result["n"], result["split"]) == (f"{kind}_ap", 3, "val")
        assert len(result["details"]["numbers"]) == 12
        assert set(result["details"]["per_class"]) == {"red", "green"}
        assert result["value"] == result["details"]["numbers"]["AP"]
    check = json.loads((run.path / "data_check.json").read_text())
    assert check["annotations"]["classes"] == {"red": 6, "green": 3}
    assert {"objectness", "proposal", "class", "box", "mask"} <= run.metrics()[0].keys()
    with np.load(run.analysis / "detections.npz") as pictures:
        assert pictures["truth"].shape == pictures["found"].shape == (2, 320, 320, 3)
    about = json.loads((run.analysis / "detections.json").read_text())
    assert [image["file"] for image in about["images"]] == ["val/0.png", "val/1.png"]


def test_neither_workers_nor_global_generators_matter(annotated: Path, run: Run, tmp_path: Path) -> None:
    np.random.seed(5)
    again = tuned(annotated, tmp_path / "again", options=QUIET.changed(workers=2))
    assert weights(again) == weights(run)
    assert weights(tuned(annotated, tmp_path / "seed", seed=1)) != weights(run), "the control"


def test_accumulation_changes_rounding_alone(annotated: Path, run: Run, tmp_path: Path) -> None:
    again = tuned(annotated, tmp_path / "again", options=QUIET.changed(micro_batch=1))
    losses = [[row["loss"] for row in r.metrics()] for r in (run, again)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_two_ranks_learn_and_score_what_one_does(annotated: Path, run: Run, tmp_path: Path) -> None:
    words = ("finetune", "debug_detection", "--init", "none", "--data", annotated, "--out", tmp_path / "run")
    on_two_ranks(*words, folder=tmp_path, settings=DETECTING)
    two = Run(tmp_path / "run")
    assert losses(two) == pytest.approx(losses(run), rel=1e-4)
    for kind in ("bbox", "segm"):
        ours, theirs = (json.loads((r.results / f"{kind}.json").read_text()) for r in (two, run))
        assert ours["n"] == theirs["n"] == 3
        assert ours["value"] == pytest.approx(theirs["value"], abs=1e-3)


def test_two_ranks_find_what_one_does(annotated: Path, run: Run, tmp_path: Path) -> None:
    """Nine images for two ranks; the file lists them in the order of one."""
    one = detect(run.path, data=annotated, out=tmp_path / "one.json", options=QUIET)
    pictures = tmp_path / "drawn"
    words = ("detect", run.path, "--data", annotated, "--out", tmp_path / "two.json", "--pictures", pictures)
    on_two_ranks(*words, folder=tmp_path)
    ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("two.json", one.name))
    assert len(theirs) > 9
    places = [[(entry["file_name"], entry["category_id"]) for entry in entries] for entries in (ours, theirs)]
    assert places[0] == places[1]
    for entries in zip(ours, theirs, strict=True):
        first, second = ((*entry["bbox"], entry["score"]) for entry in entries)
        assert first == pytest.approx(second, abs=1e-3)
    assert len(list(pictures.iterdir())) == 9


def test_an_encoder_of_another_size_is_the_start(annotated: Path, tmp_path: Path) -> None:
    shape = {k: DETECTING[k] for k in ("encoder.width", "encoder.depth", "encoder.heads")}
    shape |= {"objective.decoder_width": 16, "objective.decoder_heads": 2, "encoder.patch_size": 8}
    larger = {"encoder.image_size": 64, "data.views.0.size": 64, "data.evaluation.size": 64, "budget.batch_size": 4}
    start = pretrain("debug", data=annotated, out=tmp_path / "start", options=QUIET, set=shape | larger)
    still = {"optimizer.base_lr": 1e-30, "optimizer.final_lr": 0.0}
    run = tuned(annotated, tmp_path / "run", init=start.path, set=DETECTING | still)
    before, after = (dict(read_model(r.encoder).encoder.vit.state_dict()) for r in (start, run))
    assert before["pos_embed"].shape != after["pos_embed"].shape == (1, 17, 24)
    name = "blocks.1.attn.qkv.weight"
    assert np.allclose(before[name], after[name], rtol=0, atol=1e-20)


def test_detect_writes_coco_results_and_pictures(annotated: Path, run: Run, tmp_path: Path) -> None:
    out = detect(run.path, data=annotated, out=tmp_path / "p.json", pictures=tmp_path / "drawn", options=QUIET)
    found = json.loads(out.read_text())
    assert {entry["category_id"] for entry in found} <= {3, 7}
    assert {entry["image_id"] for entry in found} <= set(range(10, 16))
    for entry in found:
        left, top, width, height = entry["bbox"]
        assert left >= 0 <= top
        assert (left + width, top + height) <= (40.01, 32.01)
        assert width > 0 < height
        assert entry["segmentation"]["size"] == [32, 40]
    drawn = sorted(p.name for p in (tmp_path / "drawn").iterdir())
    assert drawn == [f"{s}_{i}.png.png" for s, n in (("train", 6), ("val", 3)) for i in range(n)]
    with Image.open(tmp_path / "drawn" / drawn[0]) as picture:
        assert picture.size == (40, 32)


def test_detect_on_plain_images(annotated: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(annotated / "val", tmp_path / "plain")
    found = json.loads(detect(run.path, data=tmp_path / "plain", out=tmp_path / "p.json", options=QUIET).read_text())
    assert {(entry["image_id"], entry["file_name"]) for entry in found} <= {(i, f"{i}.png") for i in range(3)}
    assert found


def test_refuses(annotated: Path, run: Run, data: Path, short: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no boxes.*instances_train\.json"):
        tuned(data, tmp_path / "run")
    with pytest.raises(UsageError, match="--num-labels with a recipe of detection"):
        tuned(annotated, tmp_path / "run", num_labels=2)
    with pytest.raises(UsageError, match="finds no objects"):
        detect(short.path, data=annotated, out=tmp_path / "p.json")
    damaged = Run(shutil.copytree(run.path, tmp_path / "damaged"))
    content = bytearray((damaged.path / "detector/model.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged.path / "detector/model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        detect(damaged.path, data=annotated, out=tmp_path / "p.json")
    assert stands(tmp_path / "run") == {}


def test_check_says_what_is_wrong_with_annotations(
    annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(annotated, tmp_path / "set")
    file = root / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["bbox"] = [5, 6, -3, 4]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"1 of 9 annotations cannot be used.*inverted box"):
        check(root, out=tmp_path / "check")
    assert "inverted box: 1; the annotation is left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "check/data_check.json").read_text())["annotations"]["num_left_out"] == 1
    assert "inverted box,the annotation is left out" in (tmp_path / "check/bad_annotations.csv").read_text()


@pytest.mark.usefixtures("few_witnesses")
def test_a_detector_is_not_pushed_and_its_encoder_is_exported(run: Run, tmp_path: Path) -> None:
    assert main(["push", str(run.path), "hf://someone/digits"]) == 2
    images = write_images(tmp_path / "images", train=0, test=24)
    folder = export(run.encoder, out=tmp_path / "model", images=images, options=QUIET)
    assert read_model(folder).encoder.config.image_size == 32
