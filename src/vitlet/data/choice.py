"""How users name a part of the training images: a share, a long tail, or a list of file names. Free of torch.

    0.01 or 1%      so much of them, equally many of each class as far as there are (Assran et al. 2021)
    tail:100        class sizes fall exponentially, the last a hundredth of the first (Cui et al. 2019)
    FILE            those that a text file names, one a line

A list is remembered with a digest of its content: a run is resumed on the images that it began with, or not at all.
"""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vitlet.errors import DataError, UsageError
from vitlet.text import printable

_TAIL, _LIST = "tail:", "list:"
_FORMS = "a share like 0.01 or 1%, tail:100, or a file with one image name a line"


@dataclass(frozen=True)
class Subset:
    """A part of the training images, not yet drawn; exactly one of the three is given."""

    share: float | None = None
    """0 … 1, of the images."""
    imbalance: float | None = None
    """Largest class size over smallest, of an exponential profile."""
    file: Path | None = None
    """Of names."""
    digest: str = ""
    """Of the file's content when the subset was named."""

    @classmethod
    def parse(cls, text: str) -> "Subset":
        """Read a user's words, or what `str` made of them.

        Raises:
            UsageError: if they are none of the forms, or out of range.
            DataError: if a list is not what it was.
        """
        if text.startswith(_LIST):
            path, _, digest = text.removeprefix(_LIST).rpartition("@")
            return cls._listed(Path(path), digest)
        if text.startswith(_TAIL):
            return cls(imbalance=_number(text, text.removeprefix(_TAIL), low=1, high=1e6))
        if re.fullmatch(r"[-+0-9.eE]+%?|nan|inf", text) and not os.path.exists(text):
            percent = text.endswith("%")
            share = _number(text, text.removesuffix("%"), low=0, high=100 if percent else 1)
            if share == 0:
                raise UsageError(f"an empty subset, {text}", fix=_FORMS)
            return cls(share=share / 100 if percent else share)
        if not os.path.isfile(Path(text).expanduser()):
            raise UsageError(f"{printable(text)!r} names no subset", why="No such file is there", fix=_FORMS)
        return cls._listed(Path(text).expanduser().absolute(), "")

    @classmethod
    def _listed(cls, file: Path, digest: str) -> "Subset":
        try:
            found = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        except OSError as error:
            raise DataError(
                f"cannot read the list {printable(file)}", why=error.strerror or str(error), fix="restore the file"
            ) from error
        if digest not in ("", found):
            raise DataError(
                f"the list {printable(file)} has changed since the run began",
                why="It names other images now",
                fix="restore it, or start anew with --fresh",
            )
        return cls(file=file, digest=found)

    def __str__(self) -> str:
        """As `parse` reads it again, wherever the process stands."""
        if self.file is not None:
            return f"{_LIST}{self.file}@{self.digest}"
        return f"{_TAIL}{self.imbalance:g}" if self.imbalance is not None else repr(self.share)

    def words(self) -> str:
        """As a user would write it, without the names of folders above the working directory."""
        return str(self) if self.file is None else os.path.relpath(self.file)

    def names(self) -> list[str]:
        """Every line of the list that is not empty.

        Raises:
            DataError: if there is none.
        """
        assert self.file is not None
        lines = [line.strip() for line in os.fsdecode(self.file.read_bytes()).splitlines()]
        names = [line for line in lines if line]
        if not names:
            raise DataError(f"the list {printable(self.file)} names no image", fix="one image name a line")
        return names


def _number(text: str, digits: str, *, low: float, high: float) -> float:
    try:
        value = float(digits)
    except ValueError:
        raise UsageError(f"{printable(text)!r} names no subset", fix=_FORMS) from None
    if not math.isfinite(value) or not low <= value <= high:
        raise UsageError(f"subset {printable(text)} is out of range", why=f"{low:g} to {high:g}", fix=_FORMS)
    return value
