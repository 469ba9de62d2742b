"""The one file that a command writes: refused before the work where it cannot be, or would replace something else."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitlet.errors import UsageError
from vitlet.verbs.files import Kind, require_free

OURS: dict[Kind, tuple[str, bytes]] = {
    "predictions": ("classes.csv", b"path,predicted,probability,label\r\n1.png,cat,0.9,\r\n"),
    "objects": ("found.json", b'[\n  {\n    "image_id": 1,\n    "score": 0.5,\n    "file_name": "1.png"\n  }\n]\n'),
    "page": ("page.html", "<title>mae \u2013 vitlet report</title>".encode()),
    "figures": ("figures.json", b'{"figures": {}, "machine": {}}'),
    "script": ("job", b"#!/bin/bash\nvitlet pretrain"),
}
OTHERS: dict[Kind, tuple[str, bytes]] = {
    "features": ("images.parquet", b"PAR1"),
    "predictions": ("labels.csv", b"path,label\n1.png,cat\n"),
    "objects": ("instances_train.json", b'{"images": [], "annotations": []}'),
    "page": ("page.html", b"<title>mine</title> vitlet"),
    "figures": ("settings.json", b'{"a": 1}'),
    "script": ("job", b"#!/bin/bash\nrm"),
}


@pytest.mark.parametrize("kind", OURS)
def test_what_the_same_command_wrote_is_replaced(kind: Kind, tmp_path: Path) -> None:
    name, content = OURS[kind]
    for text in (content, b""):
        (tmp_path / name).write_bytes(text)
        require_free(kind, tmp_path / name)
    require_free(kind, tmp_path / "new/folder" / name)
    assert not (tmp_path / "new").exists(), "nothing is made"


def test_features_are_known_by_their_columns(tmp_path: Path) -> None:
    for columns, known in (("path split label feature", True), ("image label", False)):
        pq.write_table(pa.table({name: [1] for name in columns.split()}), tmp_path / "x.parquet")
        if known:
            require_free("features", tmp_path / "x.parquet")
            continue
        with pytest.raises(UsageError, match="of something else"):
            require_free("features", tmp_path / "x.parquet")


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_of_something_else_is_kept(kind: Kind, tmp_path: Path) -> None:
    name, content = OTHERS[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"is there, and of something else.*Fix: "):
        require_free(kind, tmp_path / name)
    assert (tmp_path / name).read_bytes() == content


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.html").mkdir()
    os.mkfifo(tmp_path / "pipe.html")
    for name, message in (
        ("image.png", r"does not end in \.html.*Fix: --out .*image\.html"),
        ("folder.html", "is a folder"),
        ("file/page.html", "is no folder"),
        ("pipe.html", "of something else"),
    ):
        with pytest.raises(UsageError, match=message):
            require_free("page", tmp_path / name)
    with pytest.raises(UsageError, match=r"--json .*figures\.txt does not end in \.json"):
        require_free("figures", tmp_path / "figures.txt", option="--json")
