"""Storage of shards and tables: a folder, or a store that fsspec opens (`s3://`, `gs://`, `hf://`, `https://`).

A store lists its files, reads a byte range of one, and reads many ranges at once. Nothing is kept open: opening a local
file takes 10 µs, and forked workers then share no state. Only listed address schemes are accepted; fsspec's schemes
that start programs or chain addresses are not among them. Plain `http:` is accepted only for this machine, since others
could tamper with the content in transit. A web server's folder is the page of links that it answers with; a server that
only sends whole files is refused, since every image would cost a whole shard.
"""

import hashlib
import io
import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, final

from vitlet.data.bad_image import BadImage
from vitlet.errors import DataError, UsageError
from vitlet.text import printable

SCHEMES = ("s3", "gs", "gcs", "hf", "http", "https", "memory")
"""`memory` is fsspec's own, for tests."""

_ADDRESS = re.compile(r"([a-z0-9]+):/+([^/].*)", re.DOTALL)
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1)(:\d+)?(/|$)")
_WEB = re.compile(r"https?://")
_FILES = (".tar", ".parquet")
_MAX_BYTES = 1 << 30
AT_ONCE = 64
"""Requests at a time: enough to hide the latency, few enough that a large batch is not in memory twice."""


class Entry(NamedTuple):
    """A file of a store."""

    name: str
    """Name relative to the store."""
    size: int
    """Size in bytes."""
    stamp: int
    """Changes with the file: its modification time in nanoseconds, or a hash of the store's version identifier."""


Range = tuple[str, int, int]
"""(name, offset, length in bytes)."""


def is_remote(data: str | os.PathLike[str]) -> bool:
    """Whether `data` is an address in an object store rather than a path."""
    return remote_address(data) is not None


def remote_address(data: str | os.PathLike[str]) -> str | None:
    """Return `data` as an address with two slashes (a `Path` drops one), or None for a path.

    Raises:
        UsageError: if it contains a password, chains addresses, or is plain `http:` to another machine.
    """
    parts = _ADDRESS.fullmatch(os.fspath(data))
    if parts is None or parts[1] not in SCHEMES:
        return None
    if ":" in parts[2].split("@")[0].split("/")[0] and "@" in parts[2].split("/")[0]:
        raise UsageError(
            "a password in an address",
            why="Addresses are written to run directories and logs",
            fix="give it in the environment, as the store's own tools read it (AWS_SECRET_ACCESS_KEY, HF_TOKEN …)",
        )
    if "::" in parts[2]:
        raise UsageError(f"a chained address: {printable(os.fspath(data))}", fix="give the address of a folder")
    if parts[1] == "http" and not _LOOPBACK.match(parts[2]):
        raise UsageError(
            f"plain http: {printable(os.fspath(data))}",
            why="Others on the way could read and change the images",
            fix="https:// if the server has it; http:// is accepted only for this machine",
        )
    return f"{parts[1]}://{parts[2].rstrip('/')}"


@final
@dataclass(frozen=True)
class Store:
    """A folder, given by its path or by its address in an object store."""

    root: str

    @property
    def is_remote(self) -> bool:
        """Whether reading requires network requests."""
        return is_remote(self.root)

    def place(self, name: str) -> str:
        """Return the path or address of the file `name`."""
        return os.path.join(self.root, name)

    def entries(self, within: str = "", *, ending: str | tuple[str, ...] = "") -> list[Entry]:
        """List the files directly in the store, sorted by the bytes of their names.

        Args:
            within: List this subfolder instead; empty if it does not exist.
            ending: List only names with this ending, or one of these. Files with other names are not even inspected.

        Raises:
            DataError: if the folder cannot be listed, or is on a server that only sends whole files.
        """
        try:
            listed = self._remote_entries(within, ending) if self.is_remote else self._local_entries(within, ending)
        except Exception as error:  # clients' own exceptions have no common base
            if within and isinstance(error, FileNotFoundError):
                return []
            raise self._unreadable("list", within, error) from error
        if listed:
            self._require_ranges(max(listed, key=lambda entry: entry.size))
        return sorted(listed, key=lambda entry: os.fsencode(entry.name))

    def entry(self, name: str) -> Entry:
        """Return the entry of one file.

        Raises:
            DataError: if there is no such file, or it is on a server that only sends whole files.
        """
        try:
            if self.is_remote:
                system, root = _filesystem(self.root)
                system.invalidate_cache(root)
                entry = _remote_entry(system.info(f"{root}/{name}"), name)
            else:
                status = os.stat(self.place(name))
                entry = Entry(name, status.st_size, status.st_mtime_ns)
        except Exception as error:  # clients' own exceptions have no common base
            raise self._unreadable("find", name, error) from error
        self._require_ranges(entry)
        return entry

    def open(self, name: str) -> io.BufferedReader:
        """Open a file for reading and seeking in binary.

        Raises:
            OSError: if it cannot be opened, as later where it cannot be read.
        """
        return io.BufferedReader(_Remote(self._open(name))) if self.is_remote else open(self.place(name), "rb")

    def _open(self, name: str) -> Any:
        system, root = _filesystem(self.root)
        try:
            return system.open(f"{root}/{name}", "rb")
        except Exception as error:  # clients' own exceptions have no common base
            raise OSError(_reason(error)) from error

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read bytes `offset … offset + length - 1` of a file.

        Raises:
            BadImage: if not all of them can be read.
        """
        return self._read((name, offset, length), self._client())

    def read_many(self, ranges: Sequence[Range]) -> list[bytes | BadImage]:
        """Read several ranges; from an object store 64 at a time, at the latency of one."""
        client = self._client()  # one for all: fsspec makes another for each thread that asks

        def attempt(wanted: Range) -> bytes | BadImage:
            try:
                return self._read(wanted, client)
            except BadImage as error:
                return error

        if client is None:
            return list(map(attempt, ranges))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(attempt, ranges))

    def _client(self) -> tuple[Any, str] | None:
        """The file system and the path in it; None for a folder."""
        return _filesystem(self.root) if self.is_remote else None

    def _read(self, wanted: Range, client: tuple[Any, str] | None) -> bytes:
        name, offset, length = wanted
        try:
            if client is None:
                content = read_regular(self.place(name), offset=offset, length=length)
            else:
                system, root = client
                exactly = {} if system.async_impl else {"cache_type": "none"}  # `hf://` would read 5 MiB ahead
                content = cast(bytes, system.cat_file(f"{root}/{name}", start=offset, end=offset + length, **exactly))
        except Exception as error:  # clients' own exceptions have no common base
            raise BadImage(_place(name, offset), f"cannot read the shard: {_reason(error)}") from error
        if len(content) != length:
            raise BadImage(_place(name, offset), f"the shard ends after {len(content):,} of {length:,} bytes")
        return content

    def _local_entries(self, within: str, ending: str | tuple[str, ...]) -> list[Entry]:
        with os.scandir(self.place(within)) as entries:
            names = [e.name for e in entries if e.name[:1] != "." and e.name.lower().endswith(ending) and e.is_file()]
        return [self.entry(os.path.join(within, name)) for name in names]

    def _remote_entries(self, within: str, ending: str | tuple[str, ...]) -> list[Entry]:
        system, root = _filesystem(self.place(within).rstrip("/"))
        system.invalidate_cache(root)
        files = [facts for facts in system.ls(root, detail=True) if facts["type"] == "file"]
        files = [facts for facts in files if facts["name"].lower().endswith(ending)]
        if _WEB.match(self.root):  # links carry no sizes, and may lead to other folders
            own = sorted({facts["name"] for facts in files if facts["name"].rpartition("/")[0] == root})
            with ThreadPoolExecutor(AT_ONCE) as pool:
                files = list(pool.map(system.info, own))
        return [_remote_entry(facts, os.path.join(within, facts["name"].rsplit("/", 1)[-1])) for facts in files]

    def _require_ranges(self, entry: Entry) -> None:
        if not _WEB.match(self.root):
            return
        try:
            with self._open(entry.name) as stream:
                stream.seek(max(0, entry.size - 1))
                stream.read(1)
        except ValueError as error:
            raise DataError(
                f"{printable(self.root)} only sends whole files",
                why="Single images are read from a shard, and the server does not answer requests for a part of a file",
                fix="download the data and give that folder, or give an address of s3://, gs:// or hf://",
            ) from error
        except Exception as error:  # clients' own exceptions have no common base
            raise self._unreadable("read", entry.name, error) from error

    def _unreadable(self, what: str, name: str, error: Exception) -> DataError:
        fix = "check the address and the credentials" if self.is_remote else "check the path and who may read it"
        return DataError(f"cannot {what} {printable(self.place(name).rstrip('/'))}", why=_reason(error), fix=fix)


def store_of(source: str | os.PathLike[str]) -> tuple[Store, str]:
    """Return the store of a folder and an empty name, or the store that contains a file and the file's name."""
    address = remote_address(source)
    if address is None:
        path = os.fspath(source)
        folder, name = (path, "") if os.path.isdir(path) else os.path.split(path)
    else:
        # Decide by the ending: a request would not tell, since HTTP has no folders.
        is_file = address.lower().endswith(_FILES) and address.count("/") > 2
        folder, name = address.rsplit("/", 1) if is_file else (address, "")
    return Store(folder), name


def key_of(kind: str, store: Store, entries: Sequence[Entry]) -> str:
    """Return the cache key for an index of these files; changes when one of them does."""
    return repr((kind, store.root, [tuple(entry) for entry in entries]))


def read_regular(path: str, *, offset: int = 0, length: int | None = None) -> bytes:
    """Read the file at `path`, or up to `length` bytes of it from `offset`.

    Raises:
        OSError: if it cannot be read, is a pipe, folder or device, or the size exceeds that of any permitted image.
    """
    # Without blocking: a file may have been replaced by a pipe since it was indexed.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        size = status.st_size if length is None else length
        if size > _MAX_BYTES:
            raise OSError(f"{size:,} bytes; more than any image within the pixel limit")
        content = os.pread(descriptor, size, offset)
        while 0 < len(content) < size:  # a network file system may give a part
            more = os.pread(descriptor, size - len(content), offset + len(content))
            if not more:
                break
            content += more
        return content
    finally:
        os.close(descriptor)


@final
class _Remote(io.RawIOBase):
    """A file of a client whose errors are those of a file."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._stream.read(len(buffer))
        except Exception as error:  # clients' own exceptions have no common base
            raise OSError(_reason(error)) from error
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _filesystem(address: str) -> tuple[Any, str]:
    """Return the file system of an address, one per process, and the path in it."""
    try:
        import fsspec

        return fsspec.url_to_fs(address)
    except ImportError as error:
        raise UsageError(
            f"cannot open {printable(address.split(':')[0])}:// addresses",
            why=str(error),
            fix="pip install 'vitlet[remote]'",
        ) from error


def _remote_entry(info: dict[str, Any], name: str) -> Entry:
    if info["size"] is None:
        raise OSError(f"the server does not say the size of {name}")
    return Entry(name, int(info["size"]), _stamp(info))


def _stamp(info: dict[str, Any]) -> int:
    version = info.get("ETag") or info.get("etag") or info.get("blob_id") or info.get("LastModified")
    version = version or info.get("Last-Modified") or info.get("created") or info.get("mtime") or ""
    return int.from_bytes(hashlib.sha256(str(version).encode()).digest()[:7], "big")


def _place(name: str, offset: int) -> str:
    return f"{name} at byte {offset}"


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(text.split()))[:200].rstrip(".") or type(error).__name__
