"""Handing out: a model folder that timm opens, one page, and the verdicts of a check."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from small_runs import QUIET, pixels, stands, write_image, write_images

from vitlet.errors import CheckpointError, DataError, UsageError
from vitlet.jobs import output
from vitlet.jobs.options import Options
from vitlet.jobs.output import check_data, difference_in_timm, export, report
from vitlet.run import Run
from vitlet.weights.folder import CARD, CONFIG, WEIGHTS
from vitlet.weights.source import load_encoder


class TestExport:
    @pytest.mark.parametrize("kind", ["pretrained", "tuned"])
    def test_timm_computes_the_same_from_the_folder_alone(
        self, kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run: Run = request.getfixturevalue(kind)
        model = export(run.path, out=tmp_path / "model")
        assert {p.name for p in model.iterdir()} == {CARD, CONFIG, WEIGHTS}
        assert "opened by timm, features equal to" in capsys.readouterr().out
        assert difference_in_timm(load_encoder(run.path), model) <= 1e-5

    def test_timm_alone_tells_the_classes(self, tuned: Run, data: Path, tmp_path: Path) -> None:
        """By hand: pixels normalised as config.json says, classes named as it names them."""
        export(tuned.path, out=tmp_path / "model")
        config = json.loads((tmp_path / "model" / CONFIG).read_text())
        mean, std = (torch.tensor(config["pretrained_cfg"][key])[:, None, None] for key in ("mean", "std"))
        model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
        for path in sorted((data / "test").rglob("*.png"))[::3]:
            image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255
            with torch.inference_mode():
                logits = model(((image - mean) / std)[None])
            assert config["label_names"][int(logits.argmax())] == path.parent.name

    def test_other_things_are_never_replaced(self, pretrained: Run, tmp_path: Path) -> None:
        precious = write_images(tmp_path / "precious", train=1)
        before, of_the_run = stands(precious), stands(pretrained.path)
        for place in (precious, pretrained.path, next(precious.rglob("*.png"))):
            with pytest.raises(UsageError, match=r"is there and not a model folder.*--out a new folder"):
                export(pretrained.path, out=place)
        assert stands(precious) == before
        assert stands(pretrained.path) == of_the_run

    def test_an_older_model_is_replaced(self, pretrained: Run, tuned: Run, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        for run in (pretrained, tuned):
            export(run.path, out=tmp_path / "model")
        assert load_encoder(tmp_path / "model").classes == ("dark", "light")

    def test_what_timm_computes_otherwise_is_no_success(
        self, pretrained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The control: with another head count timm opens the same tensors without a word."""
        saved = load_encoder(pretrained.path)
        model = export(pretrained.path, out=tmp_path / "model")
        config = json.loads((model / CONFIG).read_text())
        config["model_args"]["num_heads"] = 2
        (model / CONFIG).write_text(json.dumps(config))
        assert difference_in_timm(saved, model) > 1e-3
        monkeypatch.setattr(output, "TOLERANCE", 0.0)
        with pytest.raises(CheckpointError, match="timm computes something else"):
            export(pretrained.path, out=tmp_path / "again")

    def test_an_unfinished_run_has_nothing_to_hand_out(self, pretrained: Run, tmp_path: Path) -> None:
        begun = shutil.copytree(pretrained.path, tmp_path / "begun", ignore=shutil.ignore_patterns("encoder"))
        with pytest.raises(CheckpointError, match="no finished encoder"):
            export(begun, out=tmp_path / "model")
        assert not (tmp_path / "model").exists()


def test_a_page_about_several_runs(pretrained: Run, tuned: Run, tmp_path: Path) -> None:
    page = report([pretrained.path, tuned.path], out=tmp_path / "deep" / "page.html").read_text()
    for words in ("pretrained", "tuned", "top-1", "Loss curves", "What the model sees", "Health during pre-training"):
        assert words in page
    with pytest.raises(CheckpointError, match="no run at"):
        report([pretrained.path, tmp_path], out=tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


class TestCheck:
    @pytest.fixture
    def troubled(self, tmp_path: Path) -> Path:
        """Nineteen good images of two classes, one of them twice, and one file that acts as a formula and is none."""
        root = write_images(tmp_path / "images", train=9)
        write_image(root / "train/light/again.png", 1000, light=True)
        (root / "train/dark/=1+1.png").write_bytes(b"no image")
        return root

    def test_tells_and_writes_everything_and_then_stops(
        self, troubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = stands(troubled)
        with pytest.raises(DataError, match=r"1 of 20 images cannot be used.*--max-bad 0.05"):
            check_data(troubled, out=tmp_path / "out")
        written = json.loads((tmp_path / "out/data_check.json").read_text())
        assert (written["num_images"], written["num_bad"], written["duplicates"]["count"]) == (20, 1, 1)
        assert written["balance"]["train"] == {"dark": 9, "light": 10}
        assert written["images_per_second"] > 0
        told = capsys.readouterr().out
        for words in ("unusable", "train/dark/=1+1.png: not a JPEG", "2 classes of 9 to 10", "same bytes twice"):
            assert words in told
        assert stands(troubled) == before

    def test_a_name_cannot_act_as_a_formula(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        for i in range(3):
            write_image(root / f"{i}.png", i, light=False)
        (root / "=HYPERLINK(1).png").write_bytes(b"no image")
        check_data(root, out=tmp_path / "out", options=QUIET.changed(max_bad=0.5))
        with (tmp_path / "out/bad_files.csv").open(newline="") as file:
            (header, (name, reason)) = csv.reader(file)
        assert header == ["path", "reason"]
        assert name == "'=HYPERLINK(1).png"
        assert reason.startswith("not a JPEG")

    def test_passes_what_is_accepted_and_writes_only_where_it_is_asked_to(
        self, troubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        places = sorted(tmp_path.iterdir())
        assert check_data(troubled, options=Options(quiet=True, max_bad=0.05)).good.sum() == 19
        assert sorted(tmp_path.iterdir()) == places
        assert capsys.readouterr().out == ""

    def test_sees_grey_and_large_images_as_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        Image.fromarray(pixels(1, light=True)[:, :, 0]).save(tmp_path / "images/grey.png")
        Image.fromarray(np.tile(pixels(2, light=True), (2, 3, 1))).save(tmp_path / "images/wide.jpg")
        found = check_data(tmp_path / "images", options=QUIET)
        assert found.modes == {"JPEG RGB": 1, "PNG L": 1}
        assert (found.widths, found.heights) == ((32, 64, 96), (32, 48, 64))
