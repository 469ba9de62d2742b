"""Puts the small training job of the fault tests, and ranks, where the tests of this folder can import them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))

from ranked import job  # noqa: F401  pyright: ignore[reportUnusedImport]  # the fixture
