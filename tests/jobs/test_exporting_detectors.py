"""Detectors in other runtimes: each finds there what it finds here, and one that does not is not handed out."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import DETECTING, QUIET

from vitlet.choices import ExportTarget
from vitlet.cli import main
from vitlet.disk import read_json
from vitlet.errors import CheckpointError, DataError, UsageError
from vitlet.jobs import witnesses
from vitlet.jobs.detecting import detect
from vitlet.jobs.exporting import export
from vitlet.jobs.training import finetune
from vitlet.run import Run
from vitlet.weights import portable_detector
from vitlet.weights.files import CARD, ONNX, PREPROCESSING, PROOF

pytestmark = pytest.mark.usefixtures("few_witnesses", "converted_once")
IMAGES = 9
LIMIT = 0.3
"""Scores of a detector that has hardly learned reach it, and not 0.5."""
GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/detection.md"


@pytest.fixture(autouse=True, scope="module")
def _as_many_as_there_are() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(witnesses, "DETECTOR_IMAGES", IMAGES)
        yield


@pytest.fixture(scope="module")
def run(annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "detector"
    return finetune("debug_detection", init=None, data=annotated, out=out, options=QUIET, set=DETECTING)


@pytest.fixture(scope="module")
def model(run: Run, annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "onnx"
    return export(run.path, out=out, to="onnx", images=annotated, options=QUIET)


def require_proved(folder: Path, run: Run, *, target: str) -> None:
    proof = read_json(folder / PROOF)
    found = proof["agreement"]
    assert found["max_relative_error"] <= 1e-4
    assert set(found["relative_errors"]) == {"boxes", "scores", "masks"}
    assert (found["top1_agreement"], found["top1_of"], found["n"]) == (1.0, "class, box and score", IMAGES)
    assert found["num_detections"] > 2 * IMAGES
    assert proof["throughput"]["batch_size"] == 1
    (result,) = (read_json(path) for path in run.results.glob(f"export-{target}*.json"))
    assert result["details"]["agreement"] == found


def test_onnx_finds_the_same_and_says_what_it_is(run: Run, model: Path) -> None:
    assert {p.name for p in model.iterdir()} == {ONNX, PREPROCESSING, PROOF, CARD}
    require_proved(model, run, target="onnx")
    told = read_json(model / PREPROCESSING)
    assert told["input"]["shape"] == [1, 3, 32, 32]
    assert [step["do"] for step in told["steps"]] == ["rgb", "resize", "pad", "divide", "standardise", "channels_first"]
    assert {name: value["shape"] for name, value in told["outputs"].items()} == {
        "boxes": [1, 40, 4], "labels": [1, 40], "scores": [1, 40], "masks": [1, 40, 28, 28],
    }  # fmt: skip
    assert told["classes"] == ["red", "green"]
    assert told["outputs"]["labels"]["category_ids"] == [3, 7]
    card = (model / CARD).read_text()
    for words in ("detector of 2 classes", "Mask R-CNN", "20 regions", "| bbox_ap |", "padded at the right"):
        assert words in card


@pytest.mark.parametrize("how", [{"to": "openvino"}, {"to": "torch-export", "embed_preprocessing": True}], ids=str)
def test_the_other_runtimes_find_the_same(run: Run, annotated: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    folder = export(run.path, out=tmp_path / "model", images=annotated, options=QUIET, **how)
    require_proved(folder, run, target=how["to"])


def test_a_detector_that_finds_something_else_is_not_handed_out(
    run: Run, annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: boxes are suppressed at a slightly larger overlap than they should be."""
    right = portable_detector.nms
    monkeypatch.setattr(portable_detector, "nms", lambda boxes, scores, overlap: right(boxes, scores, overlap + 0.2))
    with pytest.raises(CheckpointError, match=r"same class, box and score for .* detections.*Nothing was written"):
        export(run.path, out=tmp_path / "model", to="torch-export", images=annotated, options=QUIET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "to", ["torch-export", *(pytest.param(to, marks=pytest.mark.long) for to in ("onnx", "openvino"))]
)
def test_images_without_any_object_prove_nothing(run: Run, annotated: Path, tmp_path: Path, to: ExportTarget) -> None:
    """The runtime takes images on which no score reaches the threshold, and the export is refused all the same."""
    recipe = read_json(run.recipe_file)
    recipe["objective"]["score_threshold"] = 1.0
    strict = tmp_path / "strict"
    strict.mkdir()
    for part in ("encoder", "detector"):
        (strict / part).symlink_to(run.path / part)
    (strict / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(DataError, match=r"finds nothing on the images.*--images with objects"):
        export(strict, out=tmp_path / "model", to=to, images=annotated, options=QUIET)
    assert not (tmp_path / "model").exists()


def test_a_format_without_detectors_is_refused_and_the_encoder_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.path), "--out", str(tmp_path / "model")]) == 2
    said = capsys.readouterr().err
    assert "is a detector. timm has no detectors. Fix: vitlet export --to onnx" in said
    assert f"vitlet export {run.encoder} exports its encoder" in said
    with pytest.raises(UsageError, match="leave --int8 out"):
        export(run.path, out=tmp_path / "model", to="onnx", int8=True)
    assert list(tmp_path.iterdir()) == []


# Runs the guide's program with any score, and prints its words as JSON.
_TELLING = """
import json, sys
program = sys.argv.pop(1)
exec(program, {"print": lambda *words: print(json.dumps([str(word) for word in words]))})
"""


def test_the_guide_s_program_finds_what_vitlet_finds(run: Run, model: Path, tmp_path: Path) -> None:
    """On images that need no resizing, which libraries do differently; in a wide and in a tall one, with padding."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("tall", (20, 32)), ("wide", (32, 24))):
        pixels = np.full((size[1], size[0], 3), 90, dtype=np.uint8)
        pixels[4:16, 5:17] = (200, 20, 20)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    found = json.loads(detect(run.path, data=folder, out=tmp_path / "found.json", options=QUIET).read_text())
    expected = [entry for entry in found if entry["score"] > LIMIT]
    assert {entry["file_name"] for entry in expected} == {"tall.png", "wide.png"}
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    assert "vitlet" not in program
    lower = re.sub(r"> 0\.5\b", f"> {LIMIT}", program)
    assert lower != program
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TELLING, lower, str(model), *map(str, sorted(folder.iterdir()))],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(expected)
    for (path, name, score, *box), entry in zip(lines, expected, strict=True):
        assert (Path(path).name, {"red": 3, "green": 7}[name]) == (entry["file_name"], entry["category_id"])
        left, top, width, height = entry["bbox"]
        assert [*map(float, box)] == pytest.approx([left, top, left + width, top + height], abs=2e-3)
        assert float(score) == pytest.approx(entry["score"], abs=1e-5)
