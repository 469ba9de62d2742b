"""Words for a part of the training images: read, written again, and refused each with its reason."""

import subprocess
import sys
from pathlib import Path

import pytest

from vitlet.data.choice import Subset
from vitlet.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("text", "subset"),
    [
        ("0.01", Subset(share=0.01)),
        ("1%", Subset(share=0.01)),
        ("1e-2", Subset(share=0.01)),
        ("1", Subset(share=1)),
        ("tail:100", Subset(imbalance=100)),
    ],
)
def test_words_and_back(text: str, subset: Subset) -> None:
    assert Subset.parse(text) == subset == Subset.parse(str(subset)) == Subset.parse(subset.words())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "empty subset"),
        ("1.5", "out of range. 0 to 1."),
        ("101%", "out of range. 0 to 100."),
        ("-1", "out of range"),
        ("nan", "out of range"),
        ("1.2.3", "names no subset"),
        ("tail:0.5", "out of range. 1 to"),
        ("tail:", "names no subset"),
        ("nowhere.txt", "No such file"),
        ("", "No such file"),
    ],
)
def test_other_words_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        Subset.parse(text)
    assert "a share like 0.01 or 1%, tail:100, or a file" in str(refused.value)


def test_a_list_is_remembered_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some@names.txt").write_text("b.png\n\n a.png \n")
    subset = Subset.parse("some@names.txt")
    assert subset.names() == ["b.png", "a.png"]
    assert subset.words() == "some@names.txt"
    monkeypatch.chdir("/")
    assert Subset.parse(str(subset)) == subset
    (tmp_path / "some@names.txt").write_text("b.png\n")
    with pytest.raises(DataError, match="has changed since the run began"):
        Subset.parse(str(subset))
    (tmp_path / "some@names.txt").unlink()
    with pytest.raises(DataError, match="cannot read the list"):
        Subset.parse(str(subset))


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n\n")
    with pytest.raises(DataError, match="names no image"):
        Subset.parse(str(tmp_path / "names.txt")).names()


def test_reading_words_needs_no_torch() -> None:
    code = "import sys, vitlet.data.choice; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
