"""One smoke replication that the tests of this folder read."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_images import command, write_images

from vitlet.cli import main


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("four") / "images")


@pytest.fixture(scope="session")
def smoke(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a replication at scale smoke, made by the command; only to be read."""
    out = tmp_path_factory.mktemp("smoke") / "out"
    assert main(command(images, out)) == 0
    return out


@pytest.fixture
def copied(smoke: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(smoke, tmp_path / "out"))
