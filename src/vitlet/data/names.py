"""Names of public data sets on disk: `torchvision:NAME@ROOT`. Free of torch."""

import os
from dataclasses import dataclass
from pathlib import Path

from vitlet.data.stores import is_remote, remote_address
from vitlet.disk import existing
from vitlet.errors import UsageError
from vitlet.run import spelled_out
from vitlet.text import did_you_mean, printable

_SCHEME = "torchvision:"

TITLES = {
    "flowers102": "Flowers-102",
    "pets": "Oxford-IIIT Pets",
    "aircraft": "FGVC-Aircraft",
    "cars": "Stanford Cars",
    "cifar100": "CIFAR-100",
    "inat18": "iNaturalist-18",
}
"""Titles by the name that follows `torchvision:`."""


@dataclass(frozen=True)
class PublicData:
    """A public data set in torchvision's folder layout."""

    name: str
    """One of `TITLES`."""
    root: Path
    """`root` of torchvision's classes: the folder above `flowers-102/`, `oxford-iiit-pet/` and so on."""

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> "PublicData | None":
        """Parse a name; return None for an ordinary path.

        Raises:
            UsageError: if the name is unknown or the root is missing.
        """
        word = os.fspath(text)
        if not word.startswith(_SCHEME):
            return None
        name, at, root = word.removeprefix(_SCHEME).partition("@")
        if name not in TITLES:
            raise UsageError(
                f"no public data set {printable(name)!r}",
                why=did_you_mean(name, TITLES),
                fix=f"{_SCHEME}NAME@ROOT, NAME one of {', '.join(TITLES)}",
            )
        if not (at and root):
            raise UsageError(
                f"{printable(word)} does not name a folder",
                why="Nothing is downloaded, so the images must be on the disk",
                fix=f"{_SCHEME}{name}@ROOT, where ROOT holds what torchvision downloaded",
            )
        return cls(name, Path(root).expanduser())

    def absolute(self) -> "PublicData":
        """Return the data set with an absolute root."""
        return PublicData(self.name, spelled_out(self.root))

    def __str__(self) -> str:
        return f"{_SCHEME}{self.name}@{self.root}"


def absolute_data(data: str | os.PathLike[str]) -> str:
    """Return a path, an address or the name of a public data set in a canonical, absolute form.

    Raises:
        UsageError: if nothing is there.
    """
    if (address := remote_address(data)) is not None:
        return address
    named = PublicData.parse(data)
    place = existing(named.root if named else Path(data).expanduser())
    return str(named.absolute() if named else spelled_out(place))


def relative_data(data: str) -> str:
    """Return `data` relative to the working directory; an address as it is."""
    if is_remote(data):
        return data
    named = PublicData.parse(data)
    return str(PublicData(named.name, Path(os.path.relpath(named.root)))) if named else os.path.relpath(data)
