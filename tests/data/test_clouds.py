"""Data of `gs://` and `hf://` by their own clients, from stand-ins for the two interfaces on this machine."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest

from vitlet.augmentation import Shift, View
from vitlet.cli import main
from vitlet.data.bad_image import BadImage
from vitlet.data.index import Index, open_index
from vitlet.data.loader import TrainingBatches
from vitlet.data.packing import Form, pack
from vitlet.data.stores import Store

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>'")  # the hub's client to its own HTTP library


class Cloud(ThreadingHTTPServer):
    """Files below one folder, by the calls that a reading client makes."""

    def __init__(self, kind: type["Asked"], folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), kind)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.folder, self.root = folder, kind.ROOT
        self.failing: dict[str, int] = {}
        """Name of a file → status with which its content is refused."""
        self.parts: list[tuple[str, int, int]] = []
        """(name, first byte, last byte) of each part that was sent."""

    def names(self) -> list[str]:
        return sorted(f.relative_to(self.folder).as_posix() for f in self.folder.rglob("*") if f.is_file())


class Asked(BaseHTTPRequestHandler):
    """One request; the two kinds differ in the names of their calls."""

    ROOT: str
    server: Cloud
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def content(self, name: str) -> None:
        """Answer with a file, or the part of it that is asked for."""
        if name in self.server.failing:
            status = self.server.failing[name]
            self.answer({"error": {"message": "not for you", "code": status}}, status)
            return
        content = (self.server.folder / name).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(content)
            return
        first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        self.server.parts.append((name, first, last))
        self._send(content[first : last + 1], 206, {"Content-Range": f"bytes {first}-{last}/{len(content)}"})

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Google(Asked):
    """The JSON interface of Google's object store, with one bucket `images`."""

    ROOT = "gs://images"

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        bucket, _, name = unquote(asked.path.partition("/b/")[2]).partition("/o")
        name = name.removeprefix("/")
        if bucket != "images" or (name and name not in self.server.names()):
            self.answer({"error": {"message": "none", "code": 404}}, 404)
        elif query.get("alt") == "media":
            self.content(name)
        elif name:
            self.answer(self._facts(name))
        else:
            self.answer(self._list(query.get("prefix", ""), query.get("delimiter", "")))

    def _list(self, prefix: str, delimiter: str) -> dict[str, Any]:
        below = [name for name in self.server.names() if name.startswith(prefix)]
        folders = {prefix + name[len(prefix) :].split("/")[0] + "/" for name in below if "/" in name[len(prefix) :]}
        direct = [name for name in below if not delimiter or "/" not in name[len(prefix) :]]
        return {"items": list(map(self._facts, direct)), "prefixes": sorted(folders) if delimiter else []}

    def _facts(self, name: str) -> dict[str, Any]:
        content = (self.server.folder / name).read_bytes()
        version = hashlib.sha256(content).hexdigest()[:12]
        times = {"timeCreated": "2026-01-01T00:00:00.000Z", "updated": "2026-01-01T00:00:00.000Z"}
        return {"kind": "storage#object", "name": name, "bucket": "images", "size": str(len(content)),
                "generation": "1", "etag": version, **times}  # fmt: skip


class Hub(Asked):
    """The interface of the hub, with one data set `someone/images`."""

    NAME = "someone/images"
    ROOT = f"hf://datasets/{NAME}"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in (f"/api/datasets/{self.NAME}", f"/api/datasets/{self.NAME}/revision/main"):
            self.answer({"id": self.NAME, "sha": "1" * 40, "siblings": []})
        elif found := re.fullmatch(f"/api/datasets/{self.NAME}/tree/main/?(.*)", path):
            listed = self._tree(f"{found[1]}/" if found[1] else "")
            self.answer(listed) if listed else self.nothing("EntryNotFound")
        elif found := re.fullmatch(f"/datasets/{self.NAME}/resolve/main/(.*)", path):
            self.content(found[1])
        else:
            self.nothing("RepoNotFound")

    def nothing(self, code: str) -> None:
        self._send(b'{"error": "none"}', 404, {"X-Error-Code": code, "X-Error-Message": "none"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        self.answer([self._facts(name) for name in self.server.names() if name in wanted])

    def _tree(self, prefix: str) -> list[dict[str, Any]]:
        below = [name for name in self.server.names() if name.startswith(prefix)]
        folders = {name[len(prefix) :].split("/")[0] for name in below if "/" in name[len(prefix) :]}
        files = [self._facts(name) for name in below if "/" not in name[len(prefix) :]]
        return files + [{"type": "directory", "path": prefix + f, "oid": "2" * 40} for f in sorted(folders)]

    def _facts(self, name: str) -> dict[str, Any]:
        content = (self.server.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@pytest.fixture(params=["gs", "hf"])
def cloud(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A server whose files are those in a folder; its `root` is their address."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec (extra remote) is not installed")
    if request.param == "gs":
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which asks Google what kind a bucket is
        pytest.importorskip("gcsfs", reason="gcsfs (extra remote) is not installed: gs:// is not opened")
    (tmp_path / "cloud").mkdir()
    server = Cloud(Google if request.param == "gs" else Hub, tmp_path / "cloud")
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    if request.param == "gs":
        import gcsfs.retry

        monkeypatch.setattr(gcsfs.retry, "min", lambda *_: 0.0, raising=False)  # its pauses, half a minute
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    else:
        from huggingface_hub import constants, hf_file_system

        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hf_file_system, "http_backoff", _at_once(hf_file_system.http_backoff))
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.address, "token": False})
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
    fsspec.get_filesystem_class(request.param).clear_instance_cache()


def _at_once(backoff: Any) -> Any:
    """The hub's client asks a failing server again, half a minute in all; here it does so without the pauses."""
    return lambda *words, **named: backoff(*words, **named | {"base_wait_time": 0.0, "max_wait_time": 0.0})


@pytest.fixture
def shards(cloud: Cloud, tree, tmp_path: Path) -> Index:
    """A folder's index; its shards are in the cloud's `out/`."""
    index = open_index(tree(tmp_path / "images", *(f"{'ab'[i % 2]}/{i}.png" for i in range(20))))
    pack(index, np.arange(20), out=cloud.folder / "out", form=Form(shard_bytes=16 * 1024))
    return index


def batches(index: Index, *, workers: int, rank: int = 0, num_ranks: int = 1) -> list:
    loader = TrainingBatches(
        index=index, ids=np.arange(len(index)), views=(View(size=8, crop=Shift(padding=1)),), batch_size=4, seed=1,
        workers=workers, rank=rank, num_ranks=num_ranks,
    )  # fmt: skip
    stream = loader.from_step(0)
    found = [next(stream) for _ in range(5)]
    stream.close()
    return found


def test_shards_are_the_folders_and_read_in_parts(cloud: Cloud, shards: Index) -> None:
    remote = open_index(f"{cloud.root}/out")
    assert remote.fingerprint == shards.fingerprint
    cloud.parts.clear()
    assert [remote.read(i) for i in range(20)] == [shards.read(i) for i in range(20)]
    assert [last - first + 1 for _, first, last in cloud.parts] == remote.sizes.tolist(), "no more than the image"
    alone = open_index(f"{cloud.root}/out/train-000001.tar")
    assert {alone.read(i) for i in range(len(alone))} < {shards.read(i) for i in range(20)}


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on fewer than four cores
def test_two_ranks_of_workers_give_the_folders_batches(cloud: Cloud, shards: Index) -> None:
    """Three shards, two ranks of four workers each: as many steps on both, and every image once in an epoch."""
    assert len(Store(f"{cloud.root}/out").entries(ending=".tar")) == 3
    remote = open_index(f"{cloud.root}/out")
    ranks = [batches(remote, workers=4, rank=rank, num_ranks=2) for rank in range(2)]
    for whole, *parts in zip(batches(shards, workers=0), *ranks, strict=True):
        assert np.array_equal(np.concatenate([part.positions for part in parts]), whole.positions)
        assert np.array_equal(np.concatenate([part.images for part in parts]), whole.images)
    seen = [position for rank in ranks for batch in rank for position in batch.positions.tolist()]
    assert sorted(seen) == list(range(20))


def test_a_corrupt_sample_in_a_tar_costs_that_sample(cloud: Cloud, shards: Index, capsys) -> None:
    remote = open_index(f"{cloud.root}/out")
    name, offset = remote._shards.place(7)  # pyright: ignore
    with (cloud.folder / "out" / name).open("r+b") as tar:
        tar.seek(offset)
        tar.write(bytes(remote.size(7)))
    assert main(["check", f"{cloud.root}/out", "--workers", "1", "--max-bad", "0.05"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"unusable\W+1\b", said)
    assert f"unusable: {remote.path(7)}: " in said
    assert main(["check", f"{cloud.root}/out", "--workers", "1", "--max-bad", "0.04"]) == 3


def test_parquet_files_are_the_folders(cloud: Cloud, parquet, png) -> None:
    for number, (split, count) in enumerate((("train-0", 5), ("train-1", 7), ("test", 4))):
        contents = [png(20 * number + i) for i in range(count)]
        parquet(cloud.folder / f"data/{split}.parquet", contents, labels=[i % 2 for i in range(count)])
    local, remote = open_index(cloud.folder), open_index(cloud.root)
    assert remote.fingerprint == local.fingerprint
    assert [remote.read(i) for i in range(16)] == [local.read(i) for i in range(16)]


def test_a_file_that_changes_is_indexed_anew(cloud: Cloud, parquet, png) -> None:
    file = cloud.folder / "data/train.parquet"
    for shade in (1, 2):
        parquet(file, [png(shade)])
        index = open_index(f"{cloud.root}/data/train.parquet")
        assert index.read(0) == png(shade), "of the same size, at the same time"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_shard_that_is_refused_costs_its_images_and_says_so(cloud: Cloud, shards: Index, status: int) -> None:
    remote = open_index(f"{cloud.root}/out")
    cloud.failing["out/train-000001.tar"] = status
    found = remote.read_ahead(range(20))
    assert 5 <= 20 - len(found) <= 10
    lost = next(i for i in range(20) if i not in found)
    with pytest.raises(BadImage, match=r"cannot read the shard: .*train-000001\.tar at byte"):
        remote.read(lost)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_table_that_is_refused_is_one_sentence(cloud: Cloud, parquet, png, status: int, capsys) -> None:
    parquet(cloud.folder / "data/train.parquet", [png(1)])
    cloud.failing["data/train.parquet"] = status
    assert main(["check", f"{cloud.root}/data"]) == 3
    said = capsys.readouterr().err
    assert re.match(rf"error: cannot read {cloud.root}/data/train\.parquet as Parquet\. .*Fix: ", said), said
    assert "Traceback" not in said


def test_what_is_not_there_is_one_sentence(cloud: Cloud, shards: Index, capsys) -> None:
    for place in ("none", "out/none.tar", "none/none.parquet"):
        assert main(["check", f"{cloud.root}/{place}"]) == 3
        assert re.match(r"error: .*Fix: ", capsys.readouterr().err)
    assert Store(cloud.root).entries("none") == []
