"""A first look at small data, before torch is imported: without an image in it, it is refused within two seconds."""

import contextlib
import os
from pathlib import Path

from vitlet.data.folders import SUFFIXES
from vitlet.data.index import Index, open_index
from vitlet.data.names import PublicData
from vitlet.data.stores import is_remote

ENTRIES, BYTES = 10_000, 1 << 20


def glance(data: str | os.PathLike[str], *, follow_outside: bool = False) -> Index | None:
    """Return the index of small data; None of larger data, which the job lists when it begins.

    Small is a table of up to 1 MiB, or a folder with up to 10,000 files and folders below it, of which those that are
    not images by their names, such as annotations and shards, have up to 1 MiB together.

    Raises:
        DataError, ResourceError: as `open_index`.
    """
    if is_remote(data) or PublicData.parse(data) is not None or not _is_small(Path(data)):
        return None
    return open_index(data, follow_outside=follow_outside)


def _is_small(source: Path) -> bool:
    if source.is_file():
        return source.stat().st_size <= BYTES
    num_entries = num_bytes = 0
    folders = [os.fspath(source)]
    while folders:
        # A folder that cannot be listed is for the index to report.
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                num_entries += 1
                with contextlib.suppress(OSError):  # a broken link, or one to itself
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif os.fsencode(os.path.splitext(entry.name)[1].lower()) not in SUFFIXES:
                        num_bytes += entry.stat().st_size
                if num_entries > ENTRIES or num_bytes > BYTES:
                    return False
    return True
