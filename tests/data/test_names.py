"""Names of public data sets, and that ordinary paths stay what they are."""

import os
from pathlib import Path

import pytest

from vitlet.data.names import TITLES, PublicData, absolute_data, relative_data
from vitlet.errors import UsageError


@pytest.mark.parametrize("name", TITLES)
def test_a_name_survives_being_written(name: str, tmp_path: Path) -> None:
    named = PublicData(name, tmp_path)
    assert PublicData.parse(str(named)) == named
    assert PublicData.parse(Path(str(named))) == named


@pytest.mark.parametrize("path", ["photos", "./torchvision/flowers", "a@b", "/x/y.csv"])
def test_a_path_is_no_name(path: str) -> None:
    assert PublicData.parse(path) is None


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("torchvision:flower102@/x", "Did you mean flowers102"),
        ("torchvision:pets", "does not name a folder"),
        ("torchvision:pets@", "does not name a folder"),
    ],
)
def test_what_names_nothing_is_refused(word: str, answer: str) -> None:
    with pytest.raises(UsageError, match=answer):
        PublicData.parse(word)


def test_a_relative_root_is_made_absolute_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute_data("torchvision:pets@data") == f"torchvision:pets@{tmp_path}/data"
    assert relative_data(f"torchvision:pets@{tmp_path}/data") == "torchvision:pets@data"
    assert absolute_data("data") == os.path.join(tmp_path, "data")
    assert absolute_data("data/../data/.") == absolute_data("data"), "one run, however its data is spelled"
    (tmp_path / "elsewhere/images").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere/images")
    (tmp_path / "images").mkdir()
    found = absolute_data("link/../images")
    assert os.path.samefile(found, tmp_path / "elsewhere/images"), "behind a link .. leads elsewhere"
    with pytest.raises(UsageError, match="no file or folder nowhere"):
        absolute_data("torchvision:pets@nowhere")
