"""Showing what is there: one page, and the verdicts of a check."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import QUIET, pixels, stands, write_image, write_images

from vitlet.errors import CheckpointError, DataError
from vitlet.jobs.checking import check
from vitlet.jobs.options import Options
from vitlet.jobs.reporting import report
from vitlet.run import Run


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
            check(troubled, out=tmp_path / "out")
        written = json.loads((tmp_path / "out/data_check.json").read_text())
        assert (written["num_images"], written["num_bad"], written["duplicates"]["count"]) == (20, 1, 1)
        assert written["balance"]["train"] == {"dark": 9, "light": 10}
        assert written["images_per_second"] > 0
        told = capsys.readouterr().out
        for words in ("unusable", "train/dark/=1+1.png: not a JPEG", "2 classes of 9 to 10", "same bytes twice"):
            assert words in told
        assert stands(troubled) == before

    @pytest.mark.parametrize("written", [False, True])
    def test_names_the_first_pair_of_each_kind_and_says_where_the_others_are(
        self, written: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = write_images(tmp_path / "images", train=4, test=4)
        for i in range(2):
            write_image(root / f"test/dark/leak{i}.png", i, light=False)
        check(root, out=tmp_path / "out" if written else None)
        told = capsys.readouterr().out
        assert "held-out images also in train: train/dark/00.png and test/dark/leak0.png, and 1 more pair\n" in told
        assert "same bytes twice: test/dark/leak0.png and train/dark/00.png, and 1 more pair\n" in told
        assert "look alike: " not in told
        assert ("all with --out DIR, in copies.csv" in told) is not written
        assert (tmp_path / "out/copies.csv").is_file() is written

    def test_one_pair_is_all(self, troubled: Path, capsys: pytest.CaptureFixture[str]) -> None:
        check(troubled, options=Options(max_bad=0.05))
        told = capsys.readouterr().out
        assert "same bytes twice: train/light/00.png and train/light/again.png\n" in told
        assert "--out" not in told

    def test_images_that_are_not_read_are_said_and_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = write_images(tmp_path / "images", train=2)
        (root / "train/dark/phone.heic").write_bytes(b"x")
        check(root, out=tmp_path / "out")
        note = "1 file looks like an image in a format vitlet does not read: 1 .heic"
        assert f"note: {note}\n" in capsys.readouterr().out
        classes = "Folders are read as 2 classes: dark, light"
        assert json.loads((tmp_path / "out/data_check.json").read_text())["notes"] == [classes, note]

    def test_a_split_without_labels_is_called_so(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = write_images(tmp_path / "images", train=3)
        write_image(root / "test/1.png", 77, light=True)
        check(root)
        lines = capsys.readouterr().out.splitlines()
        assert any("test images" in line and "1, no labels" in line for line in lines)
        assert any("train images" in line and "6, 2 classes of 3 to 3" in line for line in lines)

    def test_a_name_cannot_act_as_a_formula(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        for i in range(3):
            write_image(root / f"{i}.png", i, light=False)
        (root / "=HYPERLINK(1).png").write_bytes(b"no image")
        check(root, out=tmp_path / "out", options=QUIET.changed(max_bad=0.5))
        with (tmp_path / "out/bad_files.csv").open(newline="") as file:
            (header, (name, reason)) = csv.reader(file)
        assert header == ["path", "reason"]
        assert name == "'=HYPERLINK(1).png"
        assert reason.startswith("not a JPEG")

    def test_passes_what_is_accepted_and_writes_only_where_it_is_asked_to(
        self, troubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        places = sorted(tmp_path.iterdir())
        assert check(troubled, options=Options(quiet=True, max_bad=0.05)).good.sum() == 19
        assert sorted(tmp_path.iterdir()) == places
        assert capsys.readouterr().out == ""

    def test_sees_grey_and_large_images_as_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        Image.fromarray(pixels(1, light=True)[:, :, 0]).save(tmp_path / "images/grey.png")
        Image.fromarray(np.tile(pixels(2, light=True), (2, 3, 1))).save(tmp_path / "images/wide.jpg")
        found = check(tmp_path / "images", options=QUIET)
        assert found.modes == {"JPEG RGB": 1, "PNG L": 1}
        assert (found.widths, found.heights) == ((32, 64, 96), (32, 48, 64))
