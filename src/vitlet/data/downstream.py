"""Indexes of public data sets in torchvision's folder layout.

torchvision's classes, which know the layouts and lists, provide paths and labels; they never decode an image.
Splits are those of Wang et al. 2023 [C]: Flowers train and val → test; Pets and Aircraft trainval → test (Aircraft by
variant); Cars and CIFAR-100 train → test; iNaturalist-18 train → val.
"""

import io
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vitlet.data.columns import Writer, source_folder
from vitlet.data.names import TITLES, PublicData
from vitlet.data.splits import SPLITS
from vitlet.errors import DataError
from vitlet.text import printable

_CIFAR_FILES = ("train", "test", "meta")
_INAT_LIST = "val2018.json"
_WRONG = (RuntimeError, ValueError, OSError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)
"""Exceptions of torchvision's classes for missing, truncated or mislabelled files."""


class _Image(NamedTuple):
    path: str
    """Relative to the root."""
    label: str
    split: int
    content: bytes | None = None
    """File content, for images that are not files."""


def open_public(named: PublicData, *, cache: Path, download: bool = False) -> Path:
    """Write the index of a public data set to the cache.

    Args:
        named: The data set and its root.
        cache: Folder of caches.
        download: Let torchvision download missing files; otherwise nothing is downloaded.

    Returns:
        The folder of the columns.

    Raises:
        DataError: if the data set is missing, incomplete, or cannot be downloaded.
        ResourceError: if the cache cannot be written.
    """
    root = named.root.absolute()
    key = _cifar_key(root) if named.name == "cifar100" and not download else ""
    if key and (source_folder(cache, key) / "index.json").is_file():
        return source_folder(cache, key)
    try:
        classes, images = _READERS[named.name](root, download)
        rows = sorted(images, key=lambda image: os.fsencode(image.path))
    except _WRONG as error:
        raise _unusable(named, error) from error
    key = key or (_cifar_key(root) if named.name == "cifar100" else "")
    with Writer(cache) as writer:
        writer.declare([name.encode() for name in classes])
        for image in rows:
            _add(image, root, named, writer)
        return writer.publish(key=key, name=TITLES[named.name], root=str(root), classes=writer.classes)


def _add(image: _Image, root: Path, named: PublicData, writer: Writer) -> None:
    place = {"label": image.label.encode(), "split": image.split}
    if image.content is not None:
        writer.add(os.fsencode(image.path), **place, size=len(image.content), mtime=0)
        writer.add_content(image.content)
        return
    try:
        status = os.stat(root / image.path)
    except OSError as error:
        raise _unusable(named, error) from error
    writer.add(os.fsencode(image.path), **place, size=status.st_size, mtime=status.st_mtime_ns)


def _unusable(named: PublicData, error: Exception) -> DataError:
    by_hand = named.name in ("cars", "inat18")
    hint = "see docs/guides/transfer.md for its layout" if by_hand else "vitlet transfer … --download fetches it"
    return DataError(
        f"{TITLES[named.name]} is not whole",
        where=printable(named.root),
        why=printable(" ".join(str(error).split())[:300].split(". ")[0]).rstrip("."),  # the rest is advice on Python
        fix=f"put it there as torchvision keeps it; {hint}",
    )


def _path_only(path: str | os.PathLike[str]) -> str:
    """Stand-in for torchvision's loader."""
    return os.fspath(path)


def _files(datasets: list[tuple[Any, str]], root: Path) -> Iterator[_Image]:
    """Yield the images of torchvision data sets whose loader is `_path_only`."""
    for dataset, split in datasets:
        for i in range(len(dataset)):
            path, label = dataset[i]
            yield _Image(os.path.relpath(path, root), dataset.classes[int(label)], SPLITS.index(split))


def _flowers(root: Path, download: bool) -> tuple[list[str], Iterator[_Image]]:
    from torchvision.datasets import Flowers102

    parts = (("train", "train"), ("val", "train"), ("test", "test"))
    loaded: list[tuple[Any, str]] = [
        (Flowers102(root, split=part, download=download, loader=_path_only), split) for part, split in parts
    ]
    return list(Flowers102.classes), _files(loaded, root)


def _pets(root: Path, download: bool) -> tuple[list[str], Iterator[_Image]]:
    from torchvision.datasets import OxfordIIITPet

    loaded = [
        (OxfordIIITPet(root, split=part, download=download), split)
        for part, split in (("trainval", "train"), ("test", "test"))
    ]
    classes = list(loaded[0][0].classes)

    def images() -> Iterator[_Image]:
        for dataset, split in loaded:  # the one class without a loader
            for path, label in zip(dataset._images, dataset._labels, strict=True):
                yield _Image(os.path.relpath(path, root), classes[label], SPLITS.index(split))

    return classes, images()


def _aircraft(root: Path, download: bool) -> tuple[list[str], Iterator[_Image]]:
    from torchvision.datasets import FGVCAircraft

    loaded: list[tuple[Any, str]] = [
        (FGVCAircraft(str(root), split=part, download=download, loader=_path_only), split)
        for part, split in (("trainval", "train"), ("test", "test"))
    ]
    return list(loaded[0][0].classes), _files(loaded, root)


def _cars(root: Path, download: bool) -> tuple[list[str], Iterator[_Image]]:
    from torchvision.datasets import StanfordCars

    loaded: list[tuple[Any, str]] = [
        (StanfordCars(root, split=part, download=download, loader=_path_only), part) for part in ("train", "test")
    ]
    return list(loaded[0][0].classes), _files(loaded, root)


def _cifar100(root: Path, download: bool) -> tuple[list[str], Iterator[_Image]]:
    from PIL import Image
    from torchvision.datasets import CIFAR100

    loaded = [(CIFAR100(root, train=part == "train", download=download), part) for part in ("train", "test")]
    classes = list(loaded[0][0].classes)

    def images() -> Iterator[_Image]:
        for dataset, split in loaded:
            for i, (pixels, label) in enumerate(zip(dataset.data, dataset.targets, strict=True)):
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)  # lossless, and quick to read
                yield _Image(f"{split}/{i:05d}.png", classes[label], SPLITS.index(split), stream.getvalue())

    return classes, images()


def _cifar_key(root: Path) -> str:
    """Return a key that changes with any file; "" if one is missing."""
    files = [root / "cifar-100-python" / name for name in _CIFAR_FILES]
    if not all(file.is_file() for file in files):
        return ""
    return repr(("cifar100", str(root), [(f.stat().st_size, f.stat().st_mtime_ns) for f in files]))


def _inat18(root: Path, download: bool) -> tuple[list[str], Iterator[_Image]]:
    """Read folders as torchvision does; only the competition's list says which images are val."""
    if not download and not (root / "2018").is_dir():  # torchvision would make the folder above it
        raise RuntimeError(f"there is no folder 2018 in {root}")
    from torchvision.datasets import INaturalist

    dataset = INaturalist(root, version="2018", download=download, loader=_path_only)
    held_out = {
        os.path.join(*Path(image["file_name"]).parts[-3:])
        for image in json.loads((root / _INAT_LIST).read_bytes())["images"]
    }
    classes = list(dataset.all_categories)

    def images() -> Iterator[_Image]:
        for path, label in (dataset[i] for i in range(len(dataset))):
            inside = os.path.relpath(path, root)
            split = "val" if os.path.join(*Path(inside).parts[-3:]) in held_out else "train"
            yield _Image(inside, classes[label], SPLITS.index(split))

    return classes, images()


_READERS: dict[str, Callable[[Path, bool], tuple[list[str], Iterator[_Image]]]] = {
    "flowers102": _flowers,
    "pets": _pets,
    "aircraft": _aircraft,
    "cars": _cars,
    "cifar100": _cifar100,
    "inat18": _inat18,
}
