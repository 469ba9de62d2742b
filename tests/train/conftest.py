"""Puts the small training job of the fault tests where the tests of this folder can import it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from harness import Job, tiny_images

from vitlet.data.index import open_index


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A training of 12 steps on 20 images of noise."""
    folder = tmp_path_factory.mktemp("images")
    return Job(open_index(tiny_images(folder, count=20), cache=tmp_path_factory.mktemp("columns")), batch_size=8)
