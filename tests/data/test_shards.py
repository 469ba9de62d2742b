"""Tars of others, damaged tars, and indexes that do not fit them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitlet.data.check import check
from vitlet.data.index import open_index
from vitlet.data.packing import Form, pack
from vitlet.data.stores import Store

Maker = Callable[..., Path]


@pytest.fixture
def tar(tmp_path: Path, png) -> Maker:
    """A function that writes a tar of (name, content) with a PNG where the content is None."""

    def write(name: str, *members: str | tuple[str, bytes], folder: str = "shards") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as file:
            for number, member in enumerate(members):
                title, content = (member, png(number)) if isinstance(member, str) else member
                info = tarfile.TarInfo(title)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
        return path

    return write


def test_tars_of_others_are_read_by_their_headers(tar: Maker, paths, png) -> None:
    tar("val-1.tar", "c/7.png", ("c/7.cls", b"1"))
    tar("train-1.tar", "b/2.png", ("b/2.cls", b"1\n"), "b/1.png", ("b/1.cls", b"0"), ("b/3.txt", b"no image"))
    folder = tar("train-0.tar", ("a/9.json", b"{}"), "a/9.png", ("a/9.cls", b"1")).parent
    index = open_index(folder)
    assert paths(index) == [
        "train-0.tar/a/9.png", "train-1.tar/b/2.png", "train-1.tar/b/1.png", "val-1.tar/c/7.png",
    ]  # fmt: skip
    assert [index.read(i) for i in range(4)] == [png(1), png(0), png(2), png(0)]
    assert index.classes == ("0", "1")
    assert index.labels.tolist() == [1, 1, 0, 1]
    assert index.splits.tolist() == [0, 0, 0, 1]
    assert index.skipped == (("train-1.tar/b/3.txt", "a sample without an image"),)
    assert check(index, workers=1).good.all()


def test_one_tar_alone_and_long_names(tar: Maker, paths) -> None:
    long = "folder/" + "x" * 150 + ".png"
    index = open_index(tar("one.tar", long, "folder/no label.png"))
    assert paths(index) == [f"one.tar/{long}", "one.tar/folder/no label.png"]
    assert index.labels.tolist() == [-1, -1]


def test_images_beside_a_tar_are_not_taken_for_shards(tar: Maker, paths, png) -> None:
    folder = tar("backup.tar", "1.png").parent
    (folder / "photo.png").write_bytes(png())
    assert paths(open_index(folder)) == ["photo.png"]


def test_compressed_tars_are_refused(tmp_path: Path, problem) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "a.tar.gz", "w:gz"):
        pass
    assert "compressed shards: a.tar.gz" in problem(folder)


def test_a_damaged_image_costs_itself_and_is_counted(tar: Maker, png) -> None:
    path = tar("a.tar", "1.png", "2.png", "3.png")
    content = bytearray(path.read_bytes())
    middle = content.index(png(1))
    content[middle + 30 : middle + 40] = b"\0" * 10
    path.write_bytes(content)
    verdicts = check(open_index(path), workers=1)
    assert verdicts.good.tolist() == [True, False, True]
    assert [place for place, _ in verdicts.bad] == ["a.tar/2.png"]


def test_a_damaged_header_costs_its_sample_and_is_counted(tar: Maker, paths) -> None:
    path = tar("a.tar", *(f"{i}.png" for i in range(5)))
    content = bytearray(path.read_bytes())
    content[2 * 1024 : 2 * 1024 + 20] = b"\xff" * 20  # each image takes a header and a block
    path.write_bytes(content)
    index = open_index(path)
    assert paths(index) == ["a.tar/0.png", "a.tar/1.png", "a.tar/3.png", "a.tar/4.png"]
    assert index.skipped == (("a.tar at byte 2048", "1,024 bytes without a header"),)
    assert "1 place was not read" in index.notes[0]


def test_a_tar_that_was_cut_short_loses_its_end_and_says_so(tar: Maker, paths) -> None:
    path = tar("a.tar", *(f"{i}.png" for i in range(3)))
    path.write_bytes(path.read_bytes()[: 2 * 1024 + 512 + 20])
    index = open_index(path)
    assert paths(index) == ["a.tar/0.png", "a.tar/1.png"]
    assert index.num_skipped == 1


def test_a_header_that_leads_back_costs_itself_and_is_counted(tar: Maker, paths) -> None:
    """The control: the library itself comes to the same header again and again."""
    path = tar("a.tar", "1.png", "2.png", "3.png")
    content = bytearray(path.read_bytes())
    header = content[1024:1536]  # each image takes a header and a block
    header[124:136] = b"\xff" + (256**11 - 1024).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[1024:1536] = header
    path.write_bytes(content)
    with tarfile.open(path, ignore_zeros=True) as control:
        assert [control.next().name for _ in range(6)] == ["1.png", *["2.png"] * 5]
    index = open_index(path)
    assert paths(index) == ["a.tar/1.png", "a.tar/3.png"]
    assert index.skipped[0] == ("a.tar/2.png", "its header gives no possible size")


def header(name: str, kind: bytes, size: int) -> bytes:
    """A tar header whose size may be any number."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


PAX = b"30 GNU.sparse.map=none,at,all\n"
CRAFTED = {
    "size of a file": header("2.png", tarfile.REGTYPE, 1 << 80),
    "size of a folder": header("2", tarfile.DIRTYPE, 1 << 80),
    "size of an unknown kind": header("2", b"Z", 1 << 80),
    "size of a name": header("2", tarfile.GNUTYPE_LONGNAME, 1 << 80),
    "size of a description": header("2", tarfile.XHDTYPE, 1 << 62),
    "a chain of names": (header("2", tarfile.GNUTYPE_LONGNAME, 2) + b"2".ljust(512, b"\0")) * 2000,
    "no number": header("2", tarfile.XHDTYPE, len(PAX)) + PAX.ljust(512, b"\0"),
}


@pytest.mark.parametrize("crafted", CRAFTED)
def test_a_crafted_header_costs_what_follows_it_at_most(tar: Maker, paths, crafted: str) -> None:
    path = tar("a.tar", "1.png", "2.png")
    content = path.read_bytes()
    path.write_bytes(content[:1024] + CRAFTED[crafted] + content[1024:])
    index = open_index(path)
    assert paths(index)[0] == "a.tar/1.png"
    assert len(index) + index.num_skipped >= 2


def test_endings_count_in_any_case(tar: Maker, paths) -> None:
    folder = tar("A.TAR", "1.png").parent
    assert paths(open_index(folder)) == ["A.TAR/1.png"]
    assert paths(open_index(folder / "A.TAR")) == ["A.TAR/1.png"]


def test_labels_are_read_where_the_headers_are(tar: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an object store a request for each would take hours."""
    folder = tar(
        "a.tar", "1.png", ("1.cls", b"3\n"), ("2.cls", b"5"), "2.png", "3.png", ("4.cls", b"x" * 5000), "4.png"
    )
    monkeypatch.setattr(Store, "read", None)
    index = open_index(folder)
    assert [index.classes[label] if label >= 0 else None for label in index.labels] == ["3", "5", None, None]


def test_a_shard_that_changes_is_indexed_anew(tar: Maker) -> None:
    path = tar("a.tar", "1.png")
    assert len(open_index(path)) == 1
    assert len(open_index(tar("a.tar", "1.png", "2.png"))) == 2


@pytest.fixture
def packed(tree, tmp_path: Path) -> Path:
    index = open_index(tree(tmp_path / "images", *(f"{i}.png" for i in range(6))))
    pack(index, np.arange(6), out=tmp_path / "out", form=Form(shard_bytes=3 * 1024))
    return tmp_path / "out"


def test_an_index_that_does_not_fit_its_shards_is_refused(packed: Path, problem) -> None:
    shard = packed / "train-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    assert "shard train-000001.tar has" in problem(packed)
    shard.unlink()
    assert "shard train-000001.tar is missing" in problem(packed)
    shard.write_bytes(content)
    assert len(open_index(packed)) == 6
    index = packed / "index.parquet"
    index.write_bytes(index.read_bytes()[:100])
    assert "cannot use index.parquet" in problem(packed)
    index.unlink()
    assert len(open_index(packed)) == 6  # by the headers


@pytest.mark.parametrize(
    "facts",
    [
        {"shards": 3},
        {"shards": ["train-000000.tar"]},
        {"shards": [{"bytes": 1}]},
        {"shards": [{"name": 1, "bytes": 1}]},
        {"shards": [{"name": "train-000000.tar", "bytes": "1"}]},
        {"classes": [1]},
        {"classes": 1},
        {"classes": ["\ud800"]},
        {"version": 0},
    ],
)
def test_an_index_with_other_facts_is_refused(packed: Path, problem, facts: dict) -> None:
    table = pq.read_table(packed / "index.parquet")
    changed = json.loads(table.schema.metadata[b"vitlet"]) | facts
    pq.write_table(table.replace_schema_metadata({"vitlet": json.dumps(changed)}), packed / "index.parquet")
    assert "cannot use index.parquet" in problem(packed)


@pytest.mark.parametrize("column", ["path", "label", "split", "shard", "offset", "length"])
def test_an_index_that_lacks_a_value_is_refused(packed: Path, problem, column: str) -> None:
    table = pq.read_table(packed / "index.parquet")
    place = table.schema.get_field_index(column)
    values = pa.array([None, *table[column].to_pylist()[1:]], table.schema.field(column).type)
    pq.write_table(table.set_column(place, column, values), packed / "index.parquet")
    assert "cannot use index.parquet" in problem(packed)
