"""`vitlet pack` as a user calls it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotated_images import write_annotated
from vitlet.cli import main
from vitlet.data import check as checking
from vitlet.data.check import check
from vitlet.data.decode import BadImage
from vitlet.data.index import Index, open_index
from vitlet.errors import DataError
from vitlet.host import available_cores
from vitlet.jobs.options import Options
from vitlet.jobs.packing import pack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for i in range(10):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "3.png").write_bytes(path.read_bytes()[:100])
    return tmp_path / "images"


def test_what_is_unreadable_is_left_out_and_counted(folder: Path, tmp_path: Path, capsys) -> None:
    facts = pack(folder, out=tmp_path / "out", options=Options(max_bad=0.1))
    assert (facts["num_images"], facts["num_left_out"]) == (9, 1)
    assert facts["left_out"][0][0] == "3.png"
    assert "9 images in 1 shard" in capsys.readouterr().out
    index = open_index(tmp_path / "out")
    assert len(index) == 9
    assert check(index, workers=1).good.all()


@pytest.mark.parametrize(
    ("words", "expected"), [([], available_cores()), (["--workers", "0"], 1), (["--workers=3"], 3)]
)
@pytest.mark.parametrize("verb", ["check", "pack"])
def test_the_number_of_processes_is_the_users(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, words: list[str], expected: int
) -> None:
    """A process that does not start says to take fewer."""
    started, parallel = [], checking.parallel
    monkeypatch.setattr(checking, "parallel", lambda *a, **k: started.append(k["workers"]) or parallel(*a, **k))
    assert main([verb, str(folder), "--out", str(tmp_path / "out"), "--max-bad", "0.5", *words]) == 0
    assert started == [expected]


def test_too_much_unreadable_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 10 images"):
        pack(folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class TestWhatBecomesUnreadableAfterTheCheck:
    @pytest.fixture(autouse=True)
    def _lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The image in row 5; checks read in processes of their own, which are let pass."""
        read, here = Index.read, os.getpid()

        def failing(self: Index, i: int) -> bytes:
            if i == 5 and os.getpid() == here:
                raise BadImage(self.path(i), "cannot read the file: Input/output error")
            return read(self, i)

        monkeypatch.setattr(Index, "read", failing)

    @pytest.mark.parametrize("form", [{}, {"short_side": 8}, {"raw": True}])
    def test_is_left_out_with_its_reason(
        self, folder: Path, tmp_path: Path, form: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        index = open_index(folder)
        facts = pack(folder, out=tmp_path / "out", options=Options(max_bad=0.2), **form)
        assert (facts["num_images"], facts["num_left_out"]) == (8, 2)
        assert facts["left_out"][1] == ["5.png", "cannot read the file: Input/output error"]
        assert "8 images in 1 shard" in (said := capsys.readouterr().out)
        assert "2 unreadable images left out" in said
        packed = open_index(tmp_path / "out")
        assert [packed.path(i) for i in range(8)] == [index.path(i) for i in range(10) if i not in (3, 5)]

    def test_counts_against_the_accepted_share(self, folder: Path, tmp_path: Path) -> None:
        """One of the two was known before; the share accepts one."""
        with pytest.raises(DataError, match=r"2 of 10 images cannot be packed.*accepted 10\.0%.*5\.png.*Input/output"):
            pack(folder, out=tmp_path / "out", options=Options(max_bad=0.1))
        assert not (tmp_path / "out").exists()


def test_annotated_objects_are_not_dropped_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_annotated(tmp_path / "annotated", train=4), tmp_path / "out"
    assert main(["pack", str(folder), "--out", str(out)]) == 3
    said = capsys.readouterr().err
    assert "annotated has annotated objects, which shards cannot hold" in said
    assert "Fix: train on the folder itself, or pack only its images: give the folder that they are in" in said
    assert not out.exists()
    assert main(["pack", str(folder / "train"), "--out", str(out)]) == 0
    assert len(open_index(out)) == 4
