"""What processes of a pool are asked for in tests. They import this module by its name. Not a test itself."""

import os
import sys
import time
from pathlib import Path

from vitlet.errors import UsageError


def refuse() -> None:
    raise UsageError("planted", fix="none")


def fail() -> None:
    raise KeyError("planted")


def surroundings() -> tuple[str | None, str | None, int, bool]:
    """Two variables, the parent, and whether the imports of probing were there from the beginning."""
    loaded = "vitlet.evaluation.logistic" in sys.modules
    return os.environ.get("VITLET_PLANTED"), os.environ.get("RANK"), os.getppid(), loaded


def write_and_stay(file: Path, seconds: float) -> None:
    file.touch()
    time.sleep(seconds)


def write_late(file: Path) -> None:
    time.sleep(3)
    file.touch()
