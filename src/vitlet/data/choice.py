"""Names of training subsets: a share, a long tail, or a list of file names. Free of torch.

    0.01 or 1%      this share, class-balanced as far as possible (Assran et al. 2021)
    tail:100        class sizes fall exponentially, the last a hundredth of the first (Cui et al. 2019)
    FILE            the images named in a text file, one per line

A list is stored with a digest of its content, so that a run is resumed only on the images it began with.
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
    """Specification of a training subset; exactly one of `share`, `imbalance` and `file` is given."""

    share: float | None = None
    """Share of the images, 0 … 1."""
    imbalance: float | None = None
    """Ratio of the largest to the smallest class size in an exponential profile."""
    file: Path | None = None
    """List of file names."""
    digest: str = ""
    """Digest of the file's content when the subset was parsed."""

    @classmethod
    def parse(cls, text: str) -> "Subset":
        """Parse a subset from user input or from the output of `str`.

        Raises:
            UsageError: if the text has none of the forms, or a value is out of range.
            DataError: if a list has changed.
        """
        if text.startswith(_LIST):
            path, _, digest = text.removeprefix(_LIST).rpartition("@")
            return cls._listed(Path(path), digest)
        if text.startswith(_TAIL):
            return cls(imbalance=_number(text, text.removeprefix(_TAIL), low=1, high=1e6))
        if not names_a_list(text):
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
            actual = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        except OSError as error:
            raise DataError(
                f"cannot read the list {printable(file)}", why=error.strerror or str(error), fix="restore the file"
            ) from error
        if digest not in ("", actual):
            raise DataError(
                f"the list {printable(file)} has changed since the run began",
                why="It names other images now",
                fix="restore it, or give the command that began the run again, with --fresh",
            )
        return cls(file=file, digest=actual)

    def __str__(self) -> str:
        """Return text that `parse` accepts from any working directory."""
        if self.file is not None:
            return f"{_LIST}{self.file}@{self.digest}"
        return f"{_TAIL}{self.imbalance:g}" if self.imbalance is not None else repr(self.share)

    def words(self) -> str:
        """Return the subset as a user would write it, without the names of folders above the working directory."""
        return str(self) if self.file is None else os.path.relpath(self.file)

    def names(self) -> list[str]:
        """Return the non-empty lines of the list.

        Raises:
            DataError: if there are none.
        """
        assert self.file is not None
        lines = [line.strip() for line in os.fsdecode(self.file.read_bytes()).splitlines()]
        names = [line for line in lines if line]
        if not names:
            raise DataError(f"the list {printable(self.file)} names no image", fix="one image name a line")
        return names


def names_a_list(text: str) -> bool:
    """Whether `text` of a user names a file, which need not exist here: it has none of the other forms."""
    is_share = re.fullmatch(r"[-+0-9.eE]+%?|nan|inf", text) is not None and not os.path.exists(text)
    return not text.startswith(_TAIL) and not is_share


def _number(text: str, digits: str, *, low: float, high: float) -> float:
    try:
        value = float(digits)
    except ValueError:
        raise UsageError(f"{printable(text)!r} names no subset", fix=_FORMS) from None
    if not math.isfinite(value) or not low <= value <= high:
        raise UsageError(f"subset {printable(text)} is out of range", why=f"{low:g} to {high:g}", fix=_FORMS)
    return value
