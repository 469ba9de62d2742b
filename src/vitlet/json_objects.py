"""Objects in JSON files: asked for a key that it lacks, one says which file lacks it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from vitlet.errors import CheckpointError
from vitlet.text import printable

_FIX = "restore it from a copy, or move it away"


@final
class JsonObject(dict[str, Any]):
    """A dict whose missing keys are errors that name `file`; `get`, `in` and copies by `|` are those of any dict.

    Raises:
        CheckpointError: by `[key]` for a key that it lacks.
    """

    __slots__ = ("file",)

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(
            f"{printable(self.file)} lacks {printable(key)}",
            why="It was changed, or another program or version wrote it",
            fix=_FIX,
        )


def parse_json(content: bytes, file: Path) -> Any:
    """Parse JSON that was read from `file`; its objects are `JsonObject`.

    Raises:
        CheckpointError: if it is not JSON.
    """
    try:
        return json.loads(content, object_hook=lambda values: JsonObject(values, file))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{printable(file)} is not JSON", why=str(error), fix=_FIX) from None
