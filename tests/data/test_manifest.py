import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from vitlet.data.index import open_index
from vitlet.data.splits import SPLITS


@pytest.fixture
def table(tmp_path, tree):
    """A function that writes labels.csv beside four images and returns its path."""
    tree(tmp_path, *NAMES)

    def write(content: str | bytes):
        file = tmp_path / "labels.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def contents(index) -> list[tuple[str, str, str]]:
    names = [*index.classes, ""]  # -1 finds the last
    return [(index.path(i), names[index.labels[i]], SPLITS[index.splits[i]]) for i in range(len(index))]


NAMES = ("a.png", "b.png", "sub/c.png", "d;,.png")
EXPECTED = [("a.png", "cat", "train"), ("b.png", "dog", "train"), ("sub/c.png", "", "val")]


@pytest.mark.parametrize(
    "content",
    [
        "path,label,split\nb.png,dog,train\na.png,cat,\nsub/c.png,,validation\n",
        "\ufeffpath,label,split\r\nb.png,dog,train\r\na.png,cat,train\r\nsub/c.png,,val\r\n",
        "path;label;split\nb.png;dog;TRAIN\na.png;cat;train\n\nsub/c.png;;val",
        "split\tlabel\tpath\ntrain\tdog\tb.png\ntrain\tcat\ta.png\nval\t\tsub/c.png\n",
        '"path","label","split"\n"b.png","dog","train"\n"a.png","cat",""\n"sub/c.png","","valid"\n',
    ],
)
def test_spreadsheets_dialects_mean_the_same(table, content):
    assert contents(open_index(table(content))) == EXPECTED


def test_quoted_paths_may_hold_the_delimiter(table):
    index = open_index(table('path,label\n"d;,.png",cat\n'))
    assert contents(index) == [("d;,.png", "cat", "train")]
    assert index.read(0).startswith(b"\x89PNG")


def test_names_that_are_not_utf8(table, tmp_path, tree):
    tree(tmp_path, b"\xff.png")
    index = open_index(table(b"path\n\xff.png\n"))
    assert index.path(0) == "\udcff.png"
    assert index.read(0).startswith(b"\x89PNG")


def test_all_problems_at_once_with_their_lines(table, problem):
    message = problem(
        table(
            "path,label,split\n"
            "a.png,cat,train\n"
            "gone.png,cat,train\n"
            "b.png,cat,trian\n"
            "b.png,cat\n"
            ",cat,train\n"
            "sub,cat,train\n"
            "a.png,dog,val\n"
            "../x.png,dog,val\n"
        )
    )
    assert "7 problems" in message
    assert "line 3: gone.png: No such file or directory" in message
    assert "line 4: trian is not a split. Did you mean train?" in message
    assert "line 5: 2 cells; the header has 3" in message
    assert "line 6: the path is empty" in message
    assert "line 7: sub is not a regular file" in message
    assert "line 8: a.png is already in line 2" in message
    assert "line 9: ../x.png: No such file" in message


def test_only_the_first_twenty_are_shown(table, problem):
    message = problem(table("path\n" + "".join(f"gone{i}.png\n" for i in range(50))))
    assert message.count("No such file") == 20
    assert "and 30 more" in message


def test_columns_are_known_by_name(table, problem):
    assert "Did you mean label?" in problem(table("path,lable\na.png,cat\n"))
    assert "found: file" not in problem(table("file\na.png\n"))
    assert "unknown: 'a.png'" in problem(table("a.png\nb.png\n"))
    assert "path,label,split" in problem(table("label\ncat\n"))
    assert "not path" in problem(table(""))
    assert "no images" in problem(table("path\n"))
    assert "UTF-8" in problem(table("path\na.png\n".encode("utf-16")))


def test_minus_one_among_numbers_is_no_class(table, problem):
    assert "line 3: label -1 is out of range" in problem(table("path,label\na.png,0\nb.png,-1\n"))
    assert open_index(table("path,label\na.png,10\nb.png,9\n")).classes == ("9", "10")


def test_classes_only_in_val(table, problem):
    assert "cow" in problem(table("path,label,split\na.png,cat,train\nb.png,cow,val\n"))


def test_images_outside_the_folder_need_a_word(table, tmp_path, tree, problem):
    outside = tree(tmp_path.parent / f"{tmp_path.name}-outside", "x.png")
    (tmp_path / "link.png").symlink_to(outside / "x.png")
    (tmp_path / "folder").symlink_to(outside)
    file = table(f"path\nlink.png\nfolder/x.png\n{outside}/x.png\n../{outside.name}/x.png\n")
    assert problem(file).count("--follow-outside") == 4
    index = open_index(file, follow_outside=True)
    assert len(index) == 4
    assert all(index.read(i).startswith(b"\x89PNG") for i in range(4))


def test_parquet_manifest(tmp_path, tree, problem):
    tree(tmp_path, "a.png", "b.png")
    file = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"path": ["b.png", "a.png"], "label": pa.array([7, None], pa.int32())}), file)
    index = open_index(file)
    assert contents(index) == [("a.png", "", "train"), ("b.png", "7", "train")]
    np.testing.assert_array_equal(index.labels, [-1, 0])
    pq.write_table(pa.table({"path": ["b.png", "gone.png"]}), file)
    assert "line 3: gone.png" in problem(file)
    pq.write_table(pa.table({"pathh": ["b.png"]}), file)
    assert "Did you mean path?" in problem(file)
    file.write_bytes(b"PAR1 not really")
    assert "as Parquet" in problem(file)


def test_paths_are_sorted_and_repeats_are_found_over_the_borders_of_parts(table, tmp_path, problem, monkeypatch):
    monkeypatch.setattr("vitlet.data.columns._SORTED_ROWS", 2)
    index = open_index(table('path,label\nsub/c.png,x\nb.png,y\na.png,z\n"d;,.png",x\n'))
    assert contents(index) == [(name, label, "train") for name, label in zip(sorted(NAMES), "zyxx", strict=True)]
    assert [index.size(i) for i in range(4)] == [(tmp_path / name).stat().st_size for name in sorted(NAMES)]
    message = problem(table("path\n" + "b.png\n" * 3 + "a.png\n" + '"d;,.png"\n' * 2))
    assert "3 problems" in message
    assert "line 3: b.png is already in line 2" in message
    assert "line 4: b.png is already in line 3" in message
    assert "line 7: d;,.png is already in line 6" in message


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of a process is read in /proc")
@pytest.mark.parametrize(("kind", "limit_mb"), [("csv", 35), ("parquet", 60)])
def test_a_table_of_200_000_rows_costs_a_fifth_of_what_a_million_may(tmp_path, kind, limit_mb):
    """150 MB for a million; of Parquet a part is Arrow's, whatever the size. As Python objects it was 78 and 125 MB.

    The names are those of 400 files, seen through 500 links to their own folder.
    """
    for j in range(400):
        (tmp_path / f"photograph_{j:08d}.jpeg").touch()
    for j in range(500):
        (tmp_path / f"class_{j:03d}").symlink_to(".")
    paths = [f"class_{i % 500:03d}/photograph_{i // 500:08d}.jpeg" for i in range(200_000)]
    labels = [path[6:9] for path in paths]
    for name, rows in (("small", 1), ("large", 200_000)):
        table = pa.table({"path": paths[:rows], "label": labels[:rows]})
        if kind == "parquet":
            pq.write_table(table, tmp_path / f"{name}.parquet")
        else:
            pa.csv.write_csv(table, tmp_path / f"{name}.csv")
    program = f"""
import sys
from pathlib import Path
from vitlet.data.index import open_index
def status(name): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1e3
folder = Path(sys.argv[1])
open_index(folder / "small.{kind}", cache=folder / "cache")
Path("/proc/self/clear_refs").write_text("5")
idle = status("VmRSS")
index = open_index(folder / "large.{kind}", cache=folder / "cache")
peak = status("VmHWM") - idle
assert len(index) == 200_000 and index.path(1) == "class_000/photograph_00000001.jpeg" and len(index.classes) == 500
assert peak <= {limit_mb}, peak
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
