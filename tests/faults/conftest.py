"""Puts the harness where the tests of this folder can import it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Job, tiny_images

from vitlet.data.index import open_index


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A training of 12 steps on 10 images of noise, a tenth of a second long."""
    folder = tmp_path_factory.mktemp("images")
    return Job(open_index(tiny_images(folder, count=10), cache=tmp_path_factory.mktemp("columns")))
