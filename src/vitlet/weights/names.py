"""How users name an encoder to start from: a run, a model folder, or `timm:NAME@FILE`. Free of torch."""

import os
from dataclasses import dataclass
from pathlib import Path

from vitlet.errors import UsageError
from vitlet.run import spelled_out
from vitlet.text import printable

_SCHEME = "timm:"


@dataclass(frozen=True)
class Source:
    """Something on the disk that holds weights."""

    path: Path
    architecture: str | None = None
    """timm's name for what the file at `path` holds; None: `path` is a run or a model folder, which says it itself."""

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> "Source":
        """Read a name.

        Raises:
            UsageError: if nothing is there, or timm's weights are named without their file.
        """
        word = os.fspath(text)
        architecture, path = None, word
        if word.startswith(_SCHEME):
            architecture, at, path = word.removeprefix(_SCHEME).partition("@")
            if not (architecture and at and path):
                raise UsageError(
                    f"{printable(word)} does not name a file",
                    why="Nothing is downloaded, so the weights must be on the disk",
                    fix="timm:NAME@FILE, for example timm:vit_tiny_patch16_224@model.safetensors",
                )
        found = Path(path).expanduser()
        if not os.path.exists(found):
            raise UsageError(f"no file or folder {printable(path)}", fix="check the path")
        return cls(found, architecture)

    def absolute(self) -> "Source":
        """The same, wherever the process stands."""
        return Source(spelled_out(self.path), self.architecture)

    def relative(self) -> "Source":
        """The same, without the names of folders above the working directory."""
        return Source(Path(os.path.relpath(self.path)), self.architecture)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.architecture}@{self.path}" if self.architecture else str(self.path)
