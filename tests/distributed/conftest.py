"""Puts the small training job of the fault tests, and ranks, where the tests of this folder can import them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from ranked import job  # noqa: F401  pyright: ignore[reportUnusedImport]  # the fixture
