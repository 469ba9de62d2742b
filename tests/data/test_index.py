import multiprocessing
import os
import pickle
import socket
from pathlib import Path

import pytest

from vitlet.data.bad_image import BadImage
from vitlet.data.index import Index, open_index
from vitlet.errors import DataError


def test_fingerprint_changes_with_path_size_label_and_split_only(tmp_path, tree, png):
    def fingerprint() -> str:
        return open_index(tmp_path / "d", cache=tmp_path / "cache").fingerprint

    tree(tmp_path / "d", "train/a/1.png", "train/b/2.png", "val/a/3.png")
    first = fingerprint()
    os.utime(tmp_path / "d/train/a/1.png", (1, 1))
    assert fingerprint() == first
    seen = {first}
    for source, target in (
        ("train/a/1.png", "train/a/0.png"),
        ("val/a/3.png", "train/a/3.png"),
        ("train/a/3.png", "train/b/3.png"),
    ):
        os.rename(tmp_path / "d" / source, tmp_path / "d" / target)
        seen.add(fingerprint())
    (tmp_path / "d/train/b/3.png").write_bytes(png() + b"\0")
    seen.add(fingerprint())
    assert len(seen) == 5


def test_files_that_vanish_or_change_are_named_when_read(tmp_path, tree):
    index = open_index(tree(tmp_path, "1.png", "2.png"))
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadImage, match="No such file") as caught:
        index.read(0)
    assert caught.value.path == "1.png"
    (tmp_path / "2.png").unlink()
    os.mkfifo(tmp_path / "2.png")
    with pytest.raises(BadImage, match="not a regular file"):
        index.read(1)


def test_the_users_folder_is_only_read(tmp_path, tree):
    root = tree(tmp_path / "d", "train/a/1.png", "val/a/2.png")
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    open_index(root, cache=tmp_path / "cache")
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before


def test_crosses_processes_as_the_name_of_a_folder(tmp_path, tree, png):
    index = open_index(tree(tmp_path, "a/1.png", "b/2.png"))
    assert len(pickle.dumps(index)) < 500
    with multiprocessing.get_context("fork").Pool(1) as pool:
        again = pickle.loads(pickle.dumps(index))
        assert pool.apply(Index.path, (again, 1)) == "b/2.png"
        assert pool.apply(Index.read, (again, 1)) == png(1)


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.tar", "x.json", "x"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_special_files_with_the_name_of_a_table_never_block(name: str, kind: str, tmp_path: Path) -> None:
    special = tmp_path / name
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "pipe":
            os.mkfifo(special)
        elif kind == "socket":
            server.bind(os.path.relpath(special))
        else:
            special.symlink_to("/dev/zero")
        with pytest.raises(DataError, match=r"is neither a file nor a folder.*Fix: "):
            open_index(special)


def test_special_files_among_annotations_and_tables_never_block(tmp_path, tree, paths):
    root = tree(tmp_path, "1.png", "train/1.png")
    (root / "annotations").mkdir()
    for name in ("annotations/instances_train.json", "train/_annotations.coco.json", "x.parquet", "x.tar"):
        os.mkfifo(root / name)
    assert paths(open_index(root)) == ["1.png", "train/1.png"]
