"""Exports that prove themselves: each runtime computes the same from its files, and what does not is not handed out."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from small_runs import QUIET, on_two_ranks, pixels, stands, write_image, write_images

from vitlet.data.decode import decode
from vitlet.data.views import apply_view
from vitlet.disk import read_json
from vitlet.errors import CheckpointError, DataError, ResourceError, UsageError
from vitlet.evaluation.agreement import FP32, relative_error
from vitlet.jobs import exporting, witnesses
from vitlet.jobs.evaluation import embed, predict
from vitlet.jobs.exporting import export
from vitlet.jobs.importing import import_weights
from vitlet.jobs.options import Options
from vitlet.nn.heads import head_input
from vitlet.run import Run
from vitlet.weights.files import CARD, ONNX, OPENVINO, OPENVINO_WEIGHTS, PREPROCESSING, PROOF, TORCH
from vitlet.weights.names import CONFIG, WEIGHTS
from vitlet.weights.portable import Portable
from vitlet.weights.source import load_encoder

pytestmark = pytest.mark.usefixtures("few_witnesses", "converted_once")
BESIDE = {CARD, PREPROCESSING, PROOF}
FILES = {
    "timm": {CONFIG, WEIGHTS},
    "onnx": {ONNX},
    "openvino": {OPENVINO, OPENVINO_WEIGHTS},
    "torch-export": {TORCH},
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many images as an export asks for, 8 of them held out, and enough others to calibrate with."""
    return write_images(tmp_path_factory.mktemp("many"), train=28, test=4)


@pytest.fixture(scope="module")
def tuned(tuned: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy, since an export leaves its numbers in the run."""
    return Run(shutil.copytree(tuned.path, tmp_path_factory.mktemp("exported") / "tuned"))


def small_export(run: Run, out: Path, images: Path, **how: Any) -> Path:
    return export(run.path, out=out, images=images, options=QUIET, **how)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("tuned", {"to": "timm"}),
        ("tuned", {"to": "onnx"}),
        ("tuned", {"to": "openvino"}),
        ("pretrained", {"to": "timm"}),
        ("pretrained", {"to": "torch-export", "embed_preprocessing": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_each_runtime_computes_the_same_and_the_proof_stands_beside(
    kind: str, how: dict[str, Any], request: pytest.FixtureRequest, many: Path, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(kind)
    folder = small_export(run, tmp_path / "model", many, **how)
    assert {p.name for p in folder.iterdir()} == BESIDE | FILES[how["to"]]
    proof = read_json(folder / PROOF)
    found = proof["agreement"]
    assert found["max_relative_error"] <= 1e-4
    assert (found["top1_agreement"], found["n"]) == (1.0, 48)
    assert found["top1_of"] == ("class" if kind == "tuned" else "nearest neighbour")
    assert (found["accuracy"] is None) == (kind == "pretrained")
    assert proof["throughput"]["ratio"] > 0
    assert proof["images"]["split"] == "train and test"
    told = read_json(folder / PREPROCESSING)
    assert told["input"]["dtype"] == ("uint8" if how.get("embed_preprocessing") else "float32")
    assert list(told["outputs"]) == (["logits"] if kind == "tuned" else ["tokens", "features"])
    results = list(run.results.glob(f"export-{how['to']}*.json"))
    assert results
    assert read_json(results[0])["details"]["agreement"]["n"] == 48


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_eight_bits_are_fewer_bytes_and_nearly_the_same(tuned: Run, many: Path, tmp_path: Path, to: str) -> None:
    folder = small_export(tuned, tmp_path / "small", many, to=to, int8=True)
    file = ONNX if to == "onnx" else OPENVINO_WEIGHTS
    in_fp32 = 4 * sum(value.numel() for value in load_encoder(tuned.path).encoder.parameters())
    assert (folder / file).stat().st_size < 0.6 * in_fp32
    proof = read_json(folder / PROOF)
    assert 1e-4 < proof["agreement"]["max_relative_error"] < 0.5
    assert proof["images"]["calibration"] == 16
    assert (proof["tolerance"]["top1_agreement"], proof["tolerance_fp32"]["top1_agreement"]) == (0.95, 0.999)
    assert "(95 % needed with 8 bits, 99.9 % without)" in (folder / CARD).read_text()


def test_beyond_the_tolerance_nothing_reaches_the_target(
    tuned: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: another head count, with which timm opens the same tensors without a word."""
    written = exporting._write

    def with_other_heads(saved: Any, model: Any, stage: Path, *rest: Any) -> None:
        written(saved, model, stage, *rest)
        config = json.loads((stage / CONFIG).read_text())
        config["model_args"]["num_heads"] = 2
        (stage / CONFIG).write_text(json.dumps(config))

    monkeypatch.setattr(exporting, "_write", with_other_heads)
    with pytest.raises(CheckpointError, match=r"timm computes something else.*relative error.*Nothing was written"):
        small_export(tuned, tmp_path / "model", many)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("divided", [True, False])
def test_a_graph_for_one_size_of_batch_is_not_handed_out(
    pretrained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divided: bool
) -> None:
    """The control: judged on whole batches alone, it passes."""

    def frozen(self: Portable) -> torch.export.ExportedProgram:
        return torch.export.export(self, (self.example()[:1].repeat(32, 1, 1, 1),))

    monkeypatch.setattr(Portable, "program", frozen)
    monkeypatch.setattr(witnesses, "PROOF_IMAGES", 64)
    if divided:
        with pytest.raises(CheckpointError, match=r"does not take a batch of 31 images.*Nothing was written"):
            small_export(pretrained, tmp_path / "model", many, to="torch-export")
        assert list(tmp_path.iterdir()) == []
        return
    monkeypatch.setattr(exporting, "_sizes", lambda count: [32] * (count // 32))
    small_export(pretrained, tmp_path / "model", many, to="torch-export")


def test_under_torchrun_one_rank_exports(tuned: Run, many: Path, tmp_path: Path) -> None:
    on_two_ranks("export", tuned.path, "--out", tmp_path / "model", "--images", many, folder=tmp_path)
    assert {p.name for p in (tmp_path / "model").iterdir()} == BESIDE | FILES["timm"]
    assert read_json(tmp_path / "model" / PROOF)["agreement"]["n"] == 48


def test_what_stood_there_stays_when_the_proof_fails(
    tuned: Run, pretrained: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_export(pretrained, tmp_path / "model", many)
    before = stands(folder)
    monkeypatch.setattr(exporting, "FP32", replace(FP32, max_relative_error=0.0))
    with pytest.raises(CheckpointError, match="timm computes something else"):
        small_export(tuned, folder, many)
    assert stands(folder) == before
    monkeypatch.undo()
    small_export(tuned, folder, many)
    assert load_encoder(folder).classes == ("dark", "light")


def test_a_run_that_takes_no_record_is_exported_all_the_same(
    tuned: Run, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be somebody else's, and read-only; the model is written and proved, and the missing record is said."""
    run = Run(shutil.copytree(tuned.path, tmp_path / "run"))
    shutil.rmtree(run.results)
    run.results.touch()  # as for a read-only folder, also where tests run as root
    export(run.path, out=tmp_path / "model", images=many, options=Options(workers=0))
    assert {p.name for p in (tmp_path / "model").iterdir()} == BESIDE | FILES["timm"]
    assert read_json(tmp_path / "model" / PROOF)["agreement"]["n"] == 48
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"note: the run keeps no record of this export, proof.json does: cannot write .*export-timm", said)
    assert "opened by timm" in said


def test_an_export_that_cannot_be_written_leaves_nothing_anywhere(tuned: Run, many: Path, tmp_path: Path) -> None:
    run = Run(shutil.copytree(tuned.path, tmp_path / "run"))
    shutil.rmtree(run.results, ignore_errors=True)
    (tmp_path / "file").touch()
    before = stands(tmp_path)
    with pytest.raises(ResourceError, match="cannot write"):
        small_export(run, tmp_path / "file/model", many)
    assert stands(tmp_path) == before, "neither a model nor a record of one"


def test_timm_alone_tells_the_classes(tuned: Run, data: Path, many: Path, tmp_path: Path) -> None:
    """By hand: pixels normalised as config.json says, classes named as it names them."""
    small_export(tuned, tmp_path / "model", many)
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    mean, std = (torch.tensor(config["pretrained_cfg"][key])[:, None, None] for key in ("mean", "std"))
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    for path in sorted((data / "test").rglob("*.png"))[::3]:
        image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            logits = model(((image - mean) / std)[None])
        assert config["label_names"][int(logits.argmax())] == path.parent.name


def test_timm_alone_computes_what_embed_writes(pretrained: Run, data: Path, tmp_path: Path) -> None:
    """From the run's folder and from one that was imported from its tensors; the class token is the control."""
    embed(pretrained.path, data=data, out=tmp_path / "features.parquet", options=QUIET)
    table = pq.read_table(tmp_path / "features.parquet").to_pydict()
    written = dict(zip(table["path"], np.array(table["feature"]), strict=True))
    theirs = Path(shutil.copytree(pretrained.encoder, tmp_path / "theirs"))
    config = json.loads((theirs / CONFIG).read_text())
    del config["vitlet"]  # as anybody's timm folder
    (theirs / CONFIG).write_text(json.dumps(config))
    again = import_weights(theirs / WEIGHTS, out=tmp_path / "again")
    for folder in (pretrained.encoder, again):
        config = json.loads((folder / CONFIG).read_text())
        mean, std = (torch.tensor(config["pretrained_cfg"][key])[:, None, None] for key in ("mean", "std"))
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        for name in list(written)[::7]:
            image = torch.from_numpy(np.array(Image.open(data / name))).permute(2, 0, 1).float() / 255
            with torch.inference_mode():
                features, tokens = (f(((image - mean) / std)[None])[0] for f in (model, model.forward_features))
            np.testing.assert_allclose(features.numpy(), written[name], rtol=1e-5, atol=1e-5)
            assert np.abs(tokens[0].numpy() - written[name]).max() > 1e-3


def test_the_card_has_the_numbers_the_data_and_the_licences(tuned: Run, many: Path, tmp_path: Path) -> None:
    card = (small_export(tuned, tmp_path / "model", many) / CARD).read_text()
    facts = load_encoder(tuned.path).facts
    for words in ("largest relative error", "| top1 |", facts["data_fingerprint"], facts["recipe_fingerprint"]):
        assert words in card
    assert "no licence of other weights applies" in card


def test_other_things_are_never_replaced(pretrained: Run, tmp_path: Path) -> None:
    precious = write_images(tmp_path / "precious", train=1)
    before, of_the_run = stands(precious), stands(pretrained.path)
    for place in (precious, pretrained.path, next(precious.rglob("*.png"))):
        with pytest.raises(UsageError, match=r"is there and not a model folder.*--out a new folder"):
            export(pretrained.path, out=place)
    assert stands(precious) == before
    assert stands(pretrained.path) == of_the_run


def test_too_few_images_and_unfinished_runs_are_refused(pretrained: Run, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"44 usable images.*judged on 48.*embedded digits"):
        small_export(pretrained, tmp_path / "model", data)
    begun = shutil.copytree(pretrained.path, tmp_path / "begun", ignore=shutil.ignore_patterns("encoder"))
    with pytest.raises(CheckpointError, match="no finished encoder"):
        export(begun, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/export.md"

# Runs a program of the guide as it stands, and prints its scores beside each line that it prints.
_TELLING = """
import json, sys
program, names = sys.argv.pop(1), {}
def tell(*words):
    print(json.dumps([*words, [float(score) for score in names["scores"]]]))
names["print"] = tell
exec(program, names)
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that show whether a program preprocesses as it is told to."""
    root, dark = tmp_path_factory.mktemp("odd"), [pixels(key, light=False) for key in (8, 9)]
    wide, thin = np.concatenate(dark, axis=1), np.full((32, 64, 1), 20, dtype=np.uint8)
    veiled = Image.fromarray(np.concatenate([wide, thin], axis=2))  # dark pixels, nearly white over white
    veiled.save(root / "transparent.png")
    veiled.resize((80, 40)).save(root / "large.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(wide[:, 8:56]).save(root / "turned.png", exif=exif)
    write_image(root / "light.png", 7, light=True)
    return root


@pytest.fixture(scope="module")
def answers(tuned: Run, odd: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The class that `vitlet predict` gives each of them."""
    with predict(tuned.path, data=odd, out=tmp_path_factory.mktemp("csv") / "a.csv", options=QUIET).open() as file:
        return {row["path"]: row["predicted"] for row in csv.DictReader(file)}


def logits_of(run: Run, path: Path) -> NDArray[np.float32]:
    """What the model computes for a file, preprocessed as in evaluation; 1 × C."""
    saved = load_encoder(run.path)
    image = apply_view(decode(path.read_bytes(), path=str(path)), saved.evaluation, key=0)
    assert saved.classifier is not None
    with torch.inference_mode():
        return saved.classifier.eval()(head_input(saved.encoder.eval(), image[None])).numpy()


@pytest.mark.long
@pytest.mark.parametrize(
    ("library", "how"),
    [("onnxruntime", {"to": "onnx"}), ("openvino", {"to": "openvino", "embed_preprocessing": True}), ("timm", {})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_guide_s_programs_compute_what_vitlet_does_without_it(
    library: str, how: dict[str, Any], tuned: Run, odd: Path, answers: dict[str, str], many: Path, tmp_path: Path
) -> None:
    """To the digits of the proof, except where an image is resized: libraries do that differently."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (program,) = [block for block in blocks if f"import {library}\n" in block]
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    assert "vitlet" not in program
    model = small_export(tuned, tmp_path / "model", many, **how)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TELLING, program, str(model), *map(str, sorted(odd.iterdir()))],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {Path(path).name: name for path, name, _ in found} == answers
    for path, _, scores in found:
        error = relative_error(logits_of(tuned, Path(path)), np.array([scores], dtype=np.float32))
        assert error <= (0.02 if path.endswith("large.png") else 1e-4), f"{path}: {error}"


def test_without_what_preprocessing_says_the_answers_are_others(
    tuned: Run, odd: Path, answers: dict[str, str], tmp_path: Path
) -> None:
    """The control for the images above."""
    for name, expected in (("transparent.png", "light"), ("large.png", "light"), ("turned.png", "dark")):
        assert answers[name] == expected
        Image.open(odd / name).convert("RGB").save(tmp_path / name, exif=b"")
        bare = logits_of(tuned, tmp_path / name)
        assert relative_error(logits_of(tuned, odd / name), bare) > 1e-3
        assert ("dark", "light")[bare.argmax()] == "dark"
