"""Small data is judged before torch is imported, by the rules of the index; larger data is left to the job."""

from pathlib import Path

import pytest

from vitlet.data import glance as module
from vitlet.data.glance import glance
from vitlet.errors import DataError


def folder(place: Path, *names: str) -> Path:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"x" * 100)
    return place


def test_a_small_folder_is_listed(tmp_path: Path) -> None:
    found = glance(folder(tmp_path, "cat/1.png", "dog/2.jpg", "dog/more/3.webp"))
    assert found is not None
    assert (len(found), found.classes) == (3, ("cat", "dog"))


def test_a_small_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        glance(folder(tmp_path, "notes/a.md"))


def test_a_table_is_listed_too(tmp_path: Path) -> None:
    folder(tmp_path, "1.png")
    (tmp_path / "labels.csv").write_text("path,label\n1.png,cat\n")
    found = glance(tmp_path / "labels.csv")
    assert found is not None
    assert found.classes == ("cat",)


@pytest.mark.parametrize(("limit", "below", "above"), [("ENTRIES", 3, 2), ("BYTES", 200, 199)])
def test_larger_data_is_left_to_the_job(
    limit: str, below: int, above: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without images shows it: it is refused as soon as it is listed."""
    folder(tmp_path, "deep/a.md", "b.md")
    monkeypatch.setattr(module, limit, above)
    assert glance(tmp_path) is None
    monkeypatch.setattr(module, limit, below)
    with pytest.raises(DataError, match="no images"):
        glance(tmp_path)


def test_images_do_not_count_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES", 10)
    assert glance(folder(tmp_path / "images", "a/1.PNG", "b/2.jpeg")) is not None
    assert glance(folder(tmp_path / "shards", "train.tar")) is None
    (tmp_path / "labels.csv").write_text("path,label\n1.png,cat\n")
    assert glance(tmp_path / "labels.csv") is None


def test_links_in_a_circle_and_into_nothing_come_to_an_end(tmp_path: Path) -> None:
    folder(tmp_path, "cat/1.png")
    (tmp_path / "cat/again").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "nothing").symlink_to("nowhere")
    found = glance(tmp_path)
    assert found is None or len(found) == 1


def test_links_that_leave_the_folder_are_followed_on_request(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(folder(tmp_path / "elsewhere", "1.png"))
    with pytest.raises(DataError, match="no images"):
        glance(tmp_path / "data")
    found = glance(tmp_path / "data", follow_outside=True)
    assert found is not None
    assert len(found) == 1


def test_addresses_and_public_data_are_left_to_the_job(tmp_path: Path) -> None:
    assert glance("s3://nobody/nothing") is None
    assert glance(f"torchvision:pets@{tmp_path}") is None
