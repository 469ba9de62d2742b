"""One replication of everything at scale smoke, which the tests of this folder read."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_images import HOSTILE, command, write_images

from vitlet.cli import main


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What reads the replication is among the long tests: whichever comes first makes it for all."""
    for item in items:
        if "smoke" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes share."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "replication"
    place.mkdir(exist_ok=True)
    return place


@contextmanager
def _once(place: Path, name: str) -> Iterator[bool]:
    """Yield whether the block is to make `name`, which the first of the test processes does while the others wait."""
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = place / f"{name}.done"
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def images(_shared: Path) -> Path:
    """Only to be read."""
    with _once(_shared, "images") as is_first:
        return write_images(_shared / HOSTILE) if is_first else _shared / HOSTILE


@pytest.fixture(scope="session")
def smoke(_shared: Path, images: Path) -> Path:
    """The folder of `reproduce all --scale smoke`, made by the command; only to be read."""
    with _once(_shared, "smoke") as is_first:
        if is_first:
            assert main(command(images, _shared / "out", what=("all",))) == 0
    return _shared / "out"


@pytest.fixture
def copied(smoke: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(smoke, tmp_path / "out"))


@pytest.fixture
def everything(images: Path, annotated: Path, tmp_path: Path) -> Path:
    """A folder as scale paper asks for, each set in it a few images."""
    root = tmp_path / "everything"
    names = ("imagenet", "imagenet-21k", "imagenet-v2", "flowers", "pets", "aircraft", "cars", "cifar100", "inat18")
    for folder in (root / "lists", root / "weights/mae-base", root / "weights/vit-tiny-21k"):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(folder.name.encode())
        (folder / "config.json").write_text(json.dumps({"model_args": {"num_heads": 12}}))
    (root / "weights/regnety_160.safetensors").write_bytes(b"regnet")
    for name in ("1percent", "10percent", "imagenet-lt"):
        (root / f"lists/{name}.txt").write_text("".join(f"{i:03}.png\n" for i in range(12)))
    for name in names:
        (root / name).symlink_to(images)
    (root / "coco").symlink_to(annotated)
    return root
