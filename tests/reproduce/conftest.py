"""One replication of everything at scale smoke, which the tests of this folder read."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_images import HOSTILE, command, write_images

from vitlet.cli import main


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first pays for the replication: twenty seconds by itself, longer beside busy neighbours."""
    for item in items:
        if "smoke" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(400))


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Without the checks of shapes, which the tests of each part make: they cost much beside runs this small."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("four") / HOSTILE)


@pytest.fixture(scope="session")
def smoke(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `reproduce all --scale smoke`, made by the command; only to be read."""
    out = tmp_path_factory.mktemp("smoke") / "out"
    with unchecked_shapes():
        assert main(command(images, out, what=("all",))) == 0
    return out


@pytest.fixture
def copied(smoke: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(smoke, tmp_path / "out"))
