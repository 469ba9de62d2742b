import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitlet.cli import main
from vitlet.data import columns
from vitlet.data.decode import decode
from vitlet.data.index import open_index
from vitlet.data.splits import SPLITS


def test_rows_keep_their_order_and_bytes(tmp_path, png, parquet):
    contents = [png(i) for i in range(5)]
    file = tmp_path / "d" / "some.parquet"
    parquet(
        file,
        contents,
        labels=[2, 0, -1, 1, 0],
        names=["wolf", "ant", "bee"],
        paths=["x/a.png", None, "c", "d", "e"],
    )
    index = open_index(file, cache=tmp_path / "cache")
    assert index.classes == ("wolf", "ant", "bee")  # as the file names them, not sorted
    assert index.labels.tolist() == [2, 0, -1, 1, 0]
    assert index.splits.tolist() == [0] * 5
    assert [index.read(i) for i in range(5)] == contents
    assert index.path(0) == "some.parquet/00000000/a.png"
    assert index.path(1) == "some.parquet/00000001"
    assert index.size(0) == len(contents[0])


def test_bytes_are_copied_once(tmp_path, png, monkeypatch, parquet):
    file = tmp_path / "d" / "train.parquet"
    parquet(file, [png()])
    folder = open_index(tmp_path / "d", cache=tmp_path / "cache").folder
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    assert open_index(tmp_path / "d", cache=tmp_path / "cache").folder == folder
    monkeypatch.undo()
    parquet(file, [png(), png(1)])
    assert len(open_index(tmp_path / "d", cache=tmp_path / "cache")) == 2


def test_progress_of_the_copy_is_told_and_none_without_one(tmp_path, parquet, monkeypatch):
    parquet(tmp_path / "some.parquet", [bytes([i]) * 5000 for i in range(9)])
    monkeypatch.setattr(columns, "_MEGABYTE", 10)
    told = []
    for _ in range(2):  # the second time it is there
        open_index(tmp_path / "some.parquet", cache=tmp_path / "cache", progress=lambda *words: told.append(words))
    copied, totals = zip(*told, strict=True)
    assert len(told) == 9
    assert list(copied) == sorted(copied)
    (total,) = set(totals)
    assert copied[-1] <= total == pytest.approx(copied[-1], rel=0.02)


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_a_cache_without_room_is_refused_before_anything_is_copied(tmp_path, parquet, monkeypatch, capsys, compression):
    """The control: with room for the images and the few bytes that Parquet adds, the same command passes."""
    images = [tmp_path / f"{i}.bmp" for i in range(4)]
    for i, image in enumerate(images):
        Image.new("RGB", (40, 40), (i, i, i)).save(image)  # equal pixels: compressed, it is far smaller
    contents = [image.read_bytes() for image in images]
    for name in ("train", "test"):
        parquet(tmp_path / "d" / f"{name}.parquet", contents, compression=compression)
    needed = 2 * sum(map(len, contents))
    monkeypatch.setenv("VITLET_CACHE", str(tmp_path / "cache"))
    free = needed - 1
    monkeypatch.setattr(columns.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", None)
        assert main(["check", str(tmp_path / "d"), "--workers", "1"]) == 5
    said = capsys.readouterr().err
    assert int(re.search(r"([\d,]+) bytes needed, ", said)[1].replace(",", "")) == pytest.approx(needed, rel=0.02)
    assert f"{free:,} free" in said
    assert "Fix: free some space, or: export VITLET_CACHE=" in said
    assert list((tmp_path / "cache").iterdir()) == []
    free = needed + 1000
    assert main(["check", str(tmp_path / "d"), "--workers", "1"]) == 0


@pytest.mark.parametrize("place", ["", "data"])
def test_splits_come_from_the_names(tmp_path, png, place, parquet):
    for number, name in enumerate(("test", "train-00001-of-00002", "train-00000-of-00002", "validation")):
        parquet(tmp_path / place / f"{name}.parquet", [png(number)], labels=[0], names=["x"])
    index = open_index(tmp_path)
    assert [SPLITS[code] for code in index.splits] == ["train", "train", "val", "test"]
    assert [index.read(i) for i in range(4)] == [png(2), png(1), png(3), png(0)]


def test_labels_without_names(tmp_path, png, parquet):
    parquet(tmp_path / "train.parquet", [png(), png()], labels=[10, 9])
    parquet(tmp_path / "test.parquet", [png()], labels=[10])
    index = open_index(tmp_path)
    assert index.classes == ("9", "10")
    assert index.labels.tolist() == [1, 0, 1]
    parquet(tmp_path / "words" / "a.parquet", [png(), png()], labels=["b", None])
    assert open_index(tmp_path / "words").classes == ("b",)
    parquet(tmp_path / "none" / "a.parquet", [png()])
    assert open_index(tmp_path / "none").classes == ()


def test_equal_class_names_stay_apart(tmp_path, png, parquet):
    """ImageNet has two cranes."""
    parquet(tmp_path / "a.parquet", [png(), png()], labels=[0, 2], names=["crane", "dog", "crane"])
    index = open_index(tmp_path)
    assert index.classes == ("crane (0)", "dog", "crane (2)")
    assert index.labels.tolist() == [0, 2]


def test_a_row_without_bytes_is_a_bad_image(tmp_path, png, parquet):
    parquet(tmp_path / "a.parquet", [png(), None, png(1)])
    index = open_index(tmp_path)
    assert index.read(1) == b""
    assert index.read(2) == png(1)


def test_what_is_not_clear_is_refused(tmp_path, png, problem, parquet):
    parquet(tmp_path / "r" / "a.parquet", [png()], labels=[5], names=["x"])
    assert "label 5 is out of range" in problem(tmp_path / "r")
    parquet(tmp_path / "s" / "train.parquet", [png()])
    parquet(tmp_path / "s" / "more.parquet", [png()])
    assert "the split of more.parquet is not clear" in problem(tmp_path / "s")
    parquet(tmp_path / "n" / "train.parquet", [png()], labels=[0], names=["x", "y"])
    parquet(tmp_path / "n" / "test.parquet", [png()], labels=[0], names=["y", "x"])
    assert "name different classes" in problem(tmp_path / "n")
    parquet(tmp_path / "z" / "a.parquet", [])
    assert "no rows" in problem(tmp_path / "z")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.parquet").write_bytes(b"PAR1xxxx")
    assert "a.parquet as Parquet" in problem(tmp_path / "b")


def test_other_parquet_files_beside_images_do_no_harm(tmp_path, tree):
    tree(tmp_path, "1.png")
    pq.write_table(pa.table({"embedding": [1.0]}), tmp_path / "features.parquet")
    assert len(open_index(tmp_path)) == 1


@pytest.mark.shared
def test_cifar10(shared):
    index = open_index(shared / "cifar10" / "test.parquet")
    assert len(index) == 10_000
    assert index.classes[:2] == ("airplane", "automobile")
    np.testing.assert_array_equal(np.bincount(index.labels), [1000] * 10)
    assert decode(index.read(9_999), path="").shape == (3, 32, 32)
