"""Image folders: unlabelled, one folder per class, or either below `train`, `val` and `test`.

Each real folder, identified by device and inode, is entered once, so cyclic links terminate. Links to folders inside
the root are not followed, since these are read under their own names; links that leave the root are followed on
request. Pipes, sockets and devices are never opened: file types and sizes come from stat.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import final

from vitlet.data.columns import Writer
from vitlet.data.splits import SPLITS, TRAIN, code_of
from vitlet.disk import is_inside
from vitlet.errors import DataError
from vitlet.text import plural, printable

SUFFIXES = frozenset(
    (b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".webp", b".bmp", b".dib", b".gif", b".tif", b".tiff")
)
"""Suffixes of image files, in upper or lower case; `check` looks at the content."""

_UNREAD = frozenset(
    b".apng .avif .bpg .cur .dcm .dds .dng .exr .fits .flif .hdp .heic .heif .hif .icns .ico .j2c .j2k .jp2 .jpc .jpf "
    b".jpm .jpx .jxl .jxr .pam .pbm .pcx .pfm .pgm .pnm .ppm .psb .psd .qoi .ras .sgi .svg .svgz .tga .wdp .xbm .xcf "
    b".xpm .3fr .arw .cr2 .cr3 .crw .erf .iiq .nef .nrw .orf .pef .raf .rw2 .sr2 .srf .srw".split()
)
"""Suffixes of images in formats that are not read; the last two lines are those of cameras."""
_NO_SUFFIX = "without a suffix"
_NO_IMAGES = frozenset(
    b"authors changelog checksums contributors copying license licence makefile md5sums notice readme sha256sums "
    b"version".split()
)
"""Usual names of files without a suffix that are not images."""

_LEAVES = "a link that leaves the folder; --follow-outside reads it"
_YEAR = re.compile(rb"[12]\d{3}\Z")
"""May follow the word for a split: `val2017`."""
_NO_CLASS = re.compile(rb"(?i)(eval|evaluation|dev|devel|development|hold-?_?out|un-?labell?ed|query|gallery)/")
"""Folders that are not read as splits, but are unlikely to be classes."""


def add_folder(root: bytes, *, writer: Writer, follow_outside: bool) -> None:
    """Add every image below `root`, in the byte order of the relative paths.

    Raises:
        DataError: if there is no image, or `train` is next to folders that are not splits.
    """
    walk = _Walk(root, writer=writer, follow_outside=follow_outside)
    groups = _groups(walk)
    labelled = {prefix: _has_classes(walk, prefix) for prefix in groups}
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for path, status in walk.files():
        prefix = path[: path.index(b"/") + 1] if b"" not in groups else b""
        label = path[len(prefix) : path.index(b"/", len(prefix))] if labelled[prefix] else None
        counts[prefix, label or b""] += 1
        writer.add(path, label=label, split=groups[prefix], size=status.st_size, mtime=status.st_mtime_ns)
    if not len(writer):
        raise _no_images(walk)
    if writer.classes:
        count = plural(len(writer.classes), "class", "classes")
        writer.notes.append(f"Folders are read as {count}: {_list(writer.classes, shown=5)}")
    writer.notes.extend(_unread(walk))
    for prefix, split in groups.items():
        if labelled[prefix]:
            refused = [path[len(prefix) :] for path in walk.refused if os.path.dirname(path) == prefix[:-1]]
            names = [name[:-1] for name in walk.names(prefix) if name.endswith(b"/")] + refused
            _note_vanished(walk, prefix, [n for n in names if not counts[prefix, n]], is_train=split == TRAIN)


@final
class _Walk:
    """Sorted listings of the folders below a root; folder names end in `/`."""

    def __init__(self, root: bytes, *, writer: Writer, follow_outside: bool) -> None:
        self.root, self.writer, self.follow_outside = root, writer, follow_outside
        self.real_root = os.path.realpath(root)
        self.others: Counter[str] = Counter()
        """Number of files not recognised as images, by suffix."""
        self.bare = b""
        """The first file without a suffix, in the order of their paths."""
        self.refused: list[bytes] = []
        """Links to folders outside the root that were not followed."""

    def files(self, top: bytes = b"", *, report: bool = True) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield the images below `top` (empty or ending in `/`) with their status, in the byte order of their paths."""
        seen: set[tuple[int, int]] = set()
        # With a trailing "/" on folder names, the order of siblings is that of whole paths.
        stack = [(top, iter(self._enter(top, seen, report)))]
        while stack:
            folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
            elif name.endswith(b"/"):
                stack.append((folder + name, iter(self._enter(folder + name, seen, report))))
            elif (status := self._status(folder + name, report)) is not None:
                yield folder + name, status

    def names(self, folder: bytes) -> list[bytes]:
        """Return the sorted names in `folder`, without reporting skipped files."""
        return self._enter(folder, set(), False)

    def holds_folders(self, folder: bytes) -> bool:
        """Whether `folder` contains folders."""
        return any(name.endswith(b"/") for name in self.names(folder))

    def _enter(self, folder: bytes, seen: set[tuple[int, int]], report: bool) -> list[bytes]:
        place = os.path.join(self.root, folder)
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                return self._skip(folder, "the same folder was read under another name", report)
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                names = (self._name(folder, entry, report) for entry in entries if entry.name[:1] != b".")
                return sorted(name for name in names if name is not None)
        except OSError as error:
            return self._skip(folder, f"cannot read the folder: {error.strerror}", report)

    def _name(self, folder: bytes, entry: "os.DirEntry[bytes]", report: bool) -> bytes | None:
        """Return the entry's name as `files` expects it, or None if it is not read."""
        is_link = entry.is_symlink()
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        suffix = os.path.splitext(entry.name)[1].lower()
        if not is_folder and suffix not in SUFFIXES:
            if report and is_file:
                self._count(folder + entry.name, suffix)
            return None
        if is_link:
            reason = self._refuse_link(os.path.realpath(entry.path), is_folder=is_folder)
            if reason:
                self._skip(folder + entry.name, reason, report)
                if reason is _LEAVES and is_folder and report:
                    self.refused.append(folder + entry.name)
                return None
        return entry.name + b"/" if is_folder else entry.name

    def _count(self, path: bytes, suffix: bytes) -> None:
        if suffix:
            self.others[printable(suffix)] += 1
        elif os.path.basename(path).lower() not in _NO_IMAGES:
            self.others[_NO_SUFFIX] += 1
            self.bare = min(self.bare or path, path)

    def _refuse_link(self, target: bytes, *, is_folder: bool) -> str:
        if is_inside(target, self.real_root):
            is_hidden = b"/." in target[len(self.real_root) :]
            return "a link to a folder that is read under its own name" if is_folder and not is_hidden else ""
        if self.follow_outside or not os.path.lexists(target):
            return ""  # a broken link is reported when its status is read
        return _LEAVES

    def _status(self, path: bytes, report: bool) -> os.stat_result | None:
        try:
            status = os.stat(os.path.join(self.root, path))
        except OSError as error:
            broken = os.path.islink(os.path.join(self.root, path))
            self._skip(path, "a broken link" if broken else f"cannot read: {error.strerror}", report)
            return None
        if not stat.S_ISREG(status.st_mode):
            self._skip(path, "not a regular file", report)
            return None
        return status

    def _skip(self, path: bytes, reason: str, report: bool) -> list[bytes]:
        if report:
            self.writer.skip(os.fsdecode(path.rstrip(b"/")) or ".", reason)
        return []


def _groups(walk: _Walk) -> dict[bytes, int]:
    """Map prefixes to split codes: the split folders, or the whole root as training images."""
    splits: dict[bytes, int] = {}
    others = []
    for name in walk.names(b""):
        code = code_of(os.fsdecode(_YEAR.sub(b"", name[:-1]))) if name.endswith(b"/") else None
        if code is not None:
            splits[name] = code
        elif not name.endswith(b"/") or next(walk.files(name, report=False), None):
            others.append(name)
    if splits and not others:
        for code in set(splits.values()):
            same = [name for name, other in splits.items() if other == code]
            if len(same) > 1:
                raise DataError(
                    f"{len(same)} folders for the split {SPLITS[code]}: {_list(same)}",
                    where=_show(walk.root),
                    why="It is not clear which one is meant",
                    fix="keep one of them, or write a CSV manifest with path, label and split",
                )
        return splits
    # `train` alone may be a class (of vehicles), but not if it contains folders or is next to one like `eval`.
    parts = len(set(splits.values())) > 1 or any(_NO_CLASS.fullmatch(name) for name in others)
    if TRAIN in splits.values() and (parts or any(walk.holds_folders(name) for name in splits)):
        raise DataError(
            f"{_list(others)} beside {_list(splits)}",
            where=_show(walk.root),
            why="Beside train, val and test there may be no other images: their split is not clear",
            fix="move them away or into a split (val and valid, test and testing are taken), or write a CSV manifest "
            "with path, label and split",
        )
    if splits and all(name.endswith(b"/") for name in others):
        walk.writer.notes.append(f"{_list(splits)} is read as a class like {_list(others)}, not as a split")
    return {b"": TRAIN}


def _has_classes(walk: _Walk, prefix: bytes) -> bool:
    """Whether the folders in `prefix` are classes: there are folders, and no images next to them."""
    names = walk.names(prefix)
    folders = [name for name in names if name.endswith(b"/")]
    images = [name for name in names if not name.endswith(b"/")]
    if folders and images:
        walk.writer.notes.append(
            f"No labels: {plural(len(images), 'image')} in {_show(prefix or b'.')} (such as {_show(images[0])}) "
            f"beside {plural(len(folders), 'folder')}, so the folders are not read as classes"
        )
    return bool(folders) and not images


def _note_vanished(walk: _Walk, prefix: bytes, names: list[bytes], *, is_train: bool) -> None:
    """Note the folders beside those of the classes. For whoever learns the classes, `vanished` is a refusal."""
    if not names:
        return
    inside = f"In {_show(prefix)} " if prefix else ""
    if not is_train:
        walk.writer.notes.append(f"{inside}{plural(len(names), 'class', 'classes')} without an image: {_list(names)}")
        return
    for name in names:
        place = os.fsdecode(prefix + name)
        reasons = [f"{printable(p)}: {reason}" for p, reason in walk.writer.skipped if f"{p}/".startswith(f"{place}/")]
        walk.writer.vanished.append((os.fsdecode(name), "; ".join(reasons[:5])))
    folders = f"{plural(len(names), 'folder')} without an image: {_list(names)}"
    walk.writer.notes.append(f"{inside}{folders}. What learns labels refuses {'it' if len(names) == 1 else 'them'}")


def _unread(walk: _Walk) -> Iterator[str]:
    """Yield a sentence about images in other formats, and one about files that may be images."""
    # Copies from the web end in `.jpg_large` or `.jpeg!d`.
    begins = tuple(suffix.decode() for suffix in SUFFIXES)
    images = Counter({s: n for s, n in walk.others.items() if s.encode() in _UNREAD or s.startswith(begins)})
    if images:
        count = plural(images.total(), "file looks like an image", "files look like images")
        format_ = "a format" if images.total() == 1 else "formats"
        yield f"{count} in {format_} vitlet does not read: {_counted(images)}"
    if num_bare := walk.others[_NO_SUFFIX]:
        count = plural(num_bare, "file without a suffix was", "files without a suffix were")
        yield f"{count} not read, such as {_show(walk.bare)}. Images are files named {image_suffixes()}"


def _counted(others: Counter[str]) -> str:
    """Return the numbers of files by suffix, the largest five first."""
    ordered = sorted(others.items(), key=lambda other: (-other[1], other[0]))
    rest = sum(count for _, count in ordered[5:])
    return ", ".join(f"{count:,} {suffix}" for suffix, count in ordered[:5]) + (f" and {rest:,} more" if rest else "")


def _no_images(walk: _Walk) -> DataError:
    others = [f"Found {_counted(walk.others)}"] if walk.others else []
    skipped = [f"{printable(place)}: {reason}" for place, reason in walk.writer.skipped[:5]]
    contents = "; ".join(others + skipped) or "The folder is empty"
    return DataError(
        "no images",
        where=_show(walk.root),
        why=f"{contents}. Images are files named {image_suffixes()}",
        fix="give the folder that holds the images, or a .csv or .parquet file",
    )


def image_suffixes() -> str:
    """Return the suffixes of image files, for a message."""
    return " ".join(sorted(suffix.decode() for suffix in SUFFIXES))


def _show(name: bytes) -> str:
    return printable(name.rstrip(b"/"))


def _list(names: Iterable[bytes], *, shown: int = 20) -> str:
    words = [_show(name) for name in names]
    return ", ".join(words[:shown]) + (f" and {len(words) - shown:,} more" if len(words) > shown else "")
