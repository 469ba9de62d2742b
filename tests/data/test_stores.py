"""Shards and Parquet files elsewhere: a real S3 protocol over loopback, served by moto, and web servers."""

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parents[1] / "jobs"))

from small_runs import QUIET, SHORT, interrupted, rows, weights, write_images

from vitlet.augmentation import Shift, View
from vitlet.cli import main
from vitlet.data import samples, stores
from vitlet.data.bad_image import BadImage
from vitlet.data.index import Index, open_index
from vitlet.data.loader import TrainingBatches
from vitlet.data.packing import Form, pack
from vitlet.data.stores import Store, is_remote, read_regular, remote_address
from vitlet.errors import DataError, UsageError
from vitlet.jobs.training import pretrain
from vitlet.run import Run


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 server with one bucket, and the environment that leads to it."""
    moto_server = pytest.importorskip("moto.server", reason="moto (extra dev) is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs (extra remote) is not installed")
    with pytest.MonkeyPatch.context() as patch:
        server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.get_host_and_port()[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("images")
        yield "s3://images"
        server.stop()


@pytest.fixture
def data(bucket: str, tree, tmp_path: Path) -> tuple[Index, str, Store]:
    """A folder's index, the address of its shards, and the store."""
    index = open_index(tree(tmp_path / "images", *(f"{'ab'[i % 2]}/{i}.png" for i in range(20))))
    pack(index, np.arange(20), out=tmp_path / "out", form=Form(shard_bytes=12 * 1024))
    address = f"{bucket}/{tmp_path.name}"
    copy(tmp_path / "out", address)
    return index, address, Store(address)


def first_batches(index: Index, *, workers: int) -> list:
    loader = TrainingBatches(
        index=index, ids=np.arange(len(index)), views=(View(size=8, crop=Shift(padding=1)),), batch_size=4, seed=1,
        workers=workers,
    )  # fmt: skip
    stream = loader.from_step(0)
    found = [next(stream) for _ in range(5)]
    stream.close()
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_s3_are_the_folders(data: tuple[Index, str, Store], workers: int) -> None:
    index, address, _ = data
    remote = open_index(Path(address))  # as the command line gives it: a Path drops a slash
    assert remote.fingerprint == index.fingerprint
    for ours, theirs in zip(first_batches(remote, workers=workers), first_batches(index, workers=0), strict=True):
        assert ours.positions.equal(theirs.positions)
        assert ours.images.equal(theirs.images)
        assert ours.replaced == ()


def test_a_batch_is_fetched_in_one_go(data: tuple[Index, str, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    _, address, _ = data
    remote, alone, rounds = open_index(address), [], []
    read_many = Store.read_many
    monkeypatch.setattr(Index, "read", lambda _, i: alone.append(i))
    monkeypatch.setattr(Store, "read_many", lambda self, ranges: rounds.append(len(ranges)) or read_many(self, ranges))
    first_batches(remote, workers=0)
    assert rounds == [4] * 5
    assert alone == []
    rounds.clear()
    monkeypatch.setattr(samples, "AT_ONCE", 3)  # of a large batch no more stands in memory
    first_batches(remote, workers=0)
    assert rounds == [3, 1] * 5
    assert alone == []


def test_tars_of_others_are_read_by_their_headers(data: tuple[Index, str, Store]) -> None:
    index, address, store = data
    import s3fs

    s3fs.S3FileSystem().rm_file(f"{address}/index.parquet")
    remote = open_index(address)
    assert sorted(remote.read(i) for i in range(20)) == sorted(index.read(i) for i in range(20))
    assert len([e for e in store.entries() if e.name.endswith(".tar")]) == 4


def test_a_shard_that_was_deleted_costs_its_images_and_says_so(data: tuple[Index, str, Store]) -> None:
    _, address, _ = data
    remote = open_index(address)
    import s3fs

    s3fs.S3FileSystem().rm_file(f"{address}/train-000001.tar")
    lost = [i for i in range(20) if isinstance(_result(remote, i), BadImage)]
    assert 5 <= len(lost) <= 10
    found = remote.read_ahead(range(20))
    assert sorted(found) == [i for i in range(20) if i not in lost]
    with pytest.raises(BadImage, match=r"cannot read the shard.*train-000001\.tar at byte"):
        remote.read(lost[0])
    with pytest.raises(DataError, match=r"shard train-000001\.tar is missing"):
        open_index(address)


@pytest.fixture
def tables(bucket: str, parquet, png, tmp_path: Path) -> tuple[Path, str]:
    """A folder of Parquet files as Hugging Face lays them out, and the address of its copy."""
    folder, address = tmp_path / "tables", f"{bucket}/{tmp_path.name}"
    for number, (split, count) in enumerate((("train-0", 5), ("train-1", 7), ("test", 4))):
        contents = [png(20 * number + i) for i in range(count)]
        parquet(folder / f"data/{split}.parquet", contents, labels=[i % 2 for i in range(count)], names=["b", "a"])
    copy(folder, address)
    return folder, address


def copy(folder: Path, address: str) -> None:
    import s3fs

    for file in folder.rglob("*.*"):
        s3fs.S3FileSystem().pipe_file(f"{address}/{file.relative_to(folder)}", file.read_bytes())


def test_parquet_files_from_s3_are_the_folders(tables: tuple[Path, str], paths) -> None:
    folder, address = tables
    local, remote = open_index(folder), open_index(Path(address))
    assert remote.fingerprint == local.fingerprint
    assert (remote.classes, remote.splits.tolist()) == (("b", "a"), [0] * 12 + [2] * 4)
    assert paths(remote)[4:6] == ["data/train-0.parquet/00000004", "data/train-1.parquet/00000000"]
    assert [remote.read(i) for i in range(16)] == [local.read(i) for i in range(16)]
    alone = open_index(f"{address}/data/test.parquet")
    assert [alone.read(i) for i in range(4)] == [local.read(i) for i in range(12, 16)]


def test_parquet_files_are_fetched_once_and_again_when_they_change(
    tables: tuple[Path, str], parquet, png, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = tables
    first = open_index(address)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    assert open_index(address).folder == first.folder
    monkeypatch.undo()
    parquet(folder / "data/test.parquet", [png(99)], labels=[0], names=["b", "a"])
    copy(folder, address)
    assert len(open_index(address)) == 13


def test_a_damaged_parquet_file_is_refused_by_its_address(tables: tuple[Path, str]) -> None:
    folder, address = tables
    import s3fs

    content = (folder / "data/test.parquet").read_bytes()
    s3fs.S3FileSystem().pipe_file(f"{address}/data/test.parquet", content[:-20])
    with pytest.raises(DataError, match=rf"cannot read {address}/data/test\.parquet as Parquet"):
        open_index(address)


def test_the_command_line_trains_from_s3_and_resumes_there(bucket: str, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", train=16)
    local = pretrain("debug", data=images, out=tmp_path / "local", options=QUIET, set=SHORT)
    address = f"{bucket}/{tmp_path.name}"
    index = open_index(images)
    pack(index, np.arange(len(index)), out=tmp_path / "shards", form=Form())
    copy(tmp_path / "shards", address)
    run = Run(tmp_path / "run")
    settings = [f"--set={key}={json.dumps(value)}" for key, value in SHORT.items()]
    words = ["--data", address, "--workers", "0"]
    assert main(["pretrain", "debug", "--out", str(run.path), *words, *settings]) == 0
    begun = interrupted(run, tmp_path / "begun")
    assert main(["resume", str(begun.path), *words]) == 0
    for other in (run, begun):
        assert weights(other) == weights(local)
        assert rows(other) == rows(local)
    assert "resuming" in begun.log_file.read_text()


def _result(index: Index, i: int) -> bytes | BadImage:
    try:
        return index.read(i)
    except BadImage as error:
        return error


def test_what_cannot_be_listed_or_is_empty_is_refused(bucket: str) -> None:
    with pytest.raises(DataError, match="cannot list s3://nowhere/x"):
        open_index("s3://nowhere/x")
    import s3fs

    s3fs.S3FileSystem().pipe_file(f"{bucket}/empty/readme.txt", b"no shards")
    with pytest.raises(DataError, match=r"no shards .*neither a \.tar nor a Parquet file with images"):
        open_index(f"{bucket}/empty")


class Whole(SimpleHTTPRequestHandler):
    """A web server as Python's own: pages of links, and whole files whatever part is asked for."""

    def log_message(self, format: str, *args: object) -> None:
        pass


class Parts(Whole):
    """As most are: a part of a file where one is asked for."""

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        file = Path(self.translate_path(self.path))
        if wanted is None or not file.is_file():
            super().do_GET()
            return
        start, content = int(wanted[1]), file.read_bytes()
        part = content[start : int(wanted[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


class Sizeless(Parts):
    """Says of no file how large it is."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Content-Length" or "Range" in self.headers:
            super().send_header(keyword, value)


class Falling(Parts):
    """Breaks off in the middle of a part that does not begin a file or end it."""

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        file = Path(self.translate_path(self.path))
        if wanted is None or int(wanted[1]) == file.stat().st_size - 1:
            super().do_GET()
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {wanted[1]}-{wanted[2]}/{file.stat().st_size}")
        self.send_header("Content-Length", str(int(wanted[2]) + 1 - int(wanted[1])))
        self.end_headers()
        self.wfile.write(b"x")
        self.close_connection = True


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[[type[Whole]], str]]:
    """A function that serves the folder of the test, and returns its address."""
    pytest.importorskip("aiohttp", reason="aiohttp (extra remote) is not installed")
    servers = []

    def serve(kind: type[Whole]) -> str:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(tmp_path))))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def shards(tree, tmp_path: Path) -> Index:
    """A folder's index, and its shards in `out`."""
    index = open_index(tree(tmp_path / "images", *(f"{'ab'[i % 2]}/{i}.png" for i in range(20))))
    pack(index, np.arange(20), out=tmp_path / "out", form=Form(shard_bytes=12 * 1024))
    return index


def test_shards_and_tables_of_a_web_server_are_the_folders(
    shards: Index, web: Callable[[type[Whole]], str], parquet, png, tmp_path: Path
) -> None:
    parquet(tmp_path / "tables/data/train.parquet", [png(i) for i in range(5)], labels=[0] * 5)
    address = web(Parts)
    remote = open_index(f"{address}/out")
    assert remote.fingerprint == shards.fingerprint
    for ours, theirs in zip(first_batches(remote, workers=2), first_batches(shards, workers=0), strict=True):
        assert ours.images.equal(theirs.images)
        assert ours.replaced == ()
    for part in ("out/train-000001.tar", "tables", "tables/data/train.parquet"):
        local, remote = open_index(tmp_path / part), open_index(f"{address}/{part}")
        assert remote.fingerprint == local.fingerprint
        assert [remote.read(i) for i in range(len(remote))] == [local.read(i) for i in range(len(local))]


def test_of_a_page_of_links_those_to_files_beside_it_count(
    shards: Index, web: Callable[[type[Whole]], str], tmp_path: Path
) -> None:
    names = sorted(os.listdir(tmp_path / "out"))
    links = ["?C=N;O=D", "../up.tar", "below/deep.tar", "https://example.test/out/far.tar", names[0], *names]
    (tmp_path / "out/index.html").write_text("".join(f'<a href="{link}">{link}</a>' for link in links))
    address = f"{web(Parts)}/out"
    assert [entry.name for entry in Store(address).entries(ending=".tar")] == [n for n in names if n.endswith(".tar")]
    assert open_index(address).fingerprint == shards.fingerprint


@pytest.mark.parametrize("part", ["out", "out/train-000000.tar", "tables", "tables/data/train.parquet"])
def test_a_server_that_only_sends_whole_files_is_refused(
    part: str, shards: Index, web: Callable[[type[Whole]], str], parquet, png, tmp_path: Path, capsys
) -> None:
    parquet(tmp_path / "tables/data/train.parquet", [png(i) for i in range(5)], labels=[0] * 5)
    assert main(["check", f"{web(Whole)}/{part}"]) == 3
    said = capsys.readouterr().err
    assert "only sends whole files" in said
    assert "Fix: download the data and give that folder" in said


@pytest.mark.parametrize("part", ["out", "out/train-000000.tar", "tables/data/train.parquet"])
def test_a_server_that_breaks_off_is_one_sentence(
    part: str, shards: Index, web: Callable[[type[Whole]], str], parquet, png, tmp_path: Path, capsys
) -> None:
    parquet(tmp_path / "tables/data/train.parquet", [png(i) for i in range(5)], labels=[0] * 5)
    assert main(["check", f"{web(Falling)}/{part}"]) == 3
    assert re.search(r"cannot (read|use) .*Fix: ", capsys.readouterr().err, re.DOTALL)


def test_a_server_that_says_no_sizes_is_refused(shards: Index, web: Callable[[type[Whole]], str]) -> None:
    with pytest.raises(DataError, match=r"cannot list .*/out\. the server does not say the size of"):
        open_index(f"{web(Sizeless)}/out")


def test_a_shard_that_changes_on_a_web_server_is_indexed_anew(
    shards: Index, web: Callable[[type[Whole]], str], tmp_path: Path
) -> None:
    """Of the same size: only the time of its change tells."""
    address, file = f"{web(Parts)}/out/train-000000.tar", tmp_path / "out/train-000000.tar"
    first = open_index(address)
    assert open_index(address).folder == first.folder
    os.utime(file, (file.stat().st_mtime + 10,) * 2)
    assert open_index(address).folder != first.folder


@pytest.mark.parametrize("at_once", [2, 1], ids=["as it is", "control: one after the other"])
def test_ranges_are_requested_together_from_a_client_that_waits_for_each(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of `hf://` does: each answer comes when the other request is there."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec (extra remote) is not installed")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/shards/a", b"0123456789")
    read, both_are_there = memory.cat_file, threading.Barrier(2)

    def answer(path: str, **place: int) -> bytes:
        both_are_there.wait(timeout=10 if at_once > 1 else 0.1)
        return read(path, **place)

    monkeypatch.setattr(memory, "cat_file", answer)
    monkeypatch.setattr(stores, "AT_ONCE", at_once)
    contents = Store("memory://shards").read_many([("a", 0, 2), ("a", 4, 3)])
    assert (contents == [b"01", b"456"]) is (at_once > 1)


def test_addresses() -> None:
    assert remote_address(Path("s3://bucket/a/")) == "s3://bucket/a"
    assert remote_address("hf://datasets/user/name@main/data") == "hf://datasets/user/name@main/data"
    assert not any(
        map(is_remote, ("images", "/images", "c:/images", "pipe:cat x", "simplecache::s3://b/x", "file:///a"))
    )
    with pytest.raises(UsageError, match="password"):
        remote_address("s3://key:secret@bucket/a")
    with pytest.raises(UsageError, match="chained"):
        remote_address("s3://bucket::file:///etc")


@pytest.mark.parametrize(
    "address",
    [
        "http://example.test/shards", "http:/example.test/shards", "http://127.0.0.1.example.test/a",
        "http://localhost@example.test/a", "http://127.0.0.1:80@example.test/a", "http://127.0.0.1?@example.test/a",
        "http://127.0.0.1#@example.test/a", "http://127.0.0.1\\@example.test/a", "http://10.0.0.1/a",
    ],
)  # fmt: skip
def test_plain_http_leads_to_this_machine_only(address: str) -> None:
    with pytest.raises(UsageError, match=r"(plain http|password).*Fix: "):
        is_remote(address)


def test_what_plain_http_may_name() -> None:
    for address in ("http://127.0.0.1", "http://127.0.0.1:80/a", "http://localhost/a", "https://example.test/a"):
        assert remote_address(address) == address


def test_local_ranges_are_read_whole_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    os.mkfifo(tmp_path / "pipe")
    store = Store(str(tmp_path))
    assert store.read("a", 2, 3) == b"234"
    for name, offset, length in (("a", 8, 3), ("pipe", 0, 1), ("none", 0, 1), ("a", 0, 1 << 31)):
        with pytest.raises(BadImage):
            store.read(name, offset, length)
    results = store.read_many([("a", 0, 2), ("a", 9, 2)])
    assert results[0] == b"01"
    assert isinstance(results[1], BadImage)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them")
def test_local_reading_gives_ranges_and_refuses_what_is_no_file(tmp_path: Path) -> None:
    file, large = tmp_path / "file", tmp_path / "large"
    file.write_bytes(bytes(range(100)))
    with large.open("wb") as stream:
        stream.truncate((1 << 30) + 1)  # sparse: no room is taken
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    assert read_regular(str(file)) == bytes(range(100))
    assert read_regular(str(file), offset=90, length=5) == bytes(range(90, 95))
    assert read_regular(str(file), offset=90, length=50) == bytes(range(90, 100)), "what there is"
    assert read_regular(str(large), offset=1 << 30, length=9) == b"\0", "a large file is read in parts"
    for path, words in ((tmp_path / "pipe", "regular"), (tmp_path, "regular"), (large, "more than any image")):
        with pytest.raises(OSError, match=words):
            read_regular(str(path))
        with pytest.raises(OSError, match=words):
            read_regular(str(path), offset=0, length=(1 << 30) + 1)
    with pytest.raises(FileNotFoundError):
        read_regular(str(tmp_path / "none"))
    assert len(os.listdir("/proc/self/fd")) == before, "nothing is left open"


def test_a_file_system_that_gives_parts_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over a network; the control is a single call."""
    (tmp_path / "file").write_bytes(bytes(range(100)))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: real(file, min(size, 7), at))
    assert read_regular(str(tmp_path / "file"), offset=10, length=50) == bytes(range(10, 60))
    with (tmp_path / "file").open("rb") as file:
        assert len(os.pread(file.fileno(), 50, 10)) == 7
