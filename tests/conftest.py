"""Fixtures shared by all tests."""

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: sums on two threads differ in the last bits; children inherit it

sys.path.insert(0, str(Path(__file__).parent))

import hypothesis
import jaxtyping
import pytest

from annotated_images import write_annotated

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
_WHOLE_JOBS = (
    "benchmarks/", "distributed/", "faults/", "jobs/", "replication/", "train/",
    "data/test_loader.py", "data/test_packing.py", "data/test_stores.py",
    "methods/test_objectives.py", "methods/test_runs.py",
)  # fmt: skip
"""Tests that run whole jobs out of parts whose shapes the parts' own tests check."""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


# The same examples everywhere, and as long as they take: neither chance nor a slow machine decides a test.
hypothesis.settings.register_profile("vitlet", deadline=None, derandomize=True)
hypothesis.settings.load_profile("vitlet")


def pytest_xdist_auto_num_workers() -> int:
    """For `--numprocesses auto`: one more than cores, since a third of the tests' time is waiting for timeouts."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data; a clone without it skips, and says why."""
    if not SHARED.is_dir():
        pytest.skip("development data (../shared/data) is not here")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or fill the user's cache."""
    os.environ["VITLET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="module")
def _unchecked_shapes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whole jobs run without checks of shapes, which would take a third of their time."""
    place = request.path.relative_to(Path(__file__).parent).as_posix()
    jaxtyping.config.update("jaxtyping_disable", place.startswith(_WHOLE_JOBS))
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def checked_shapes() -> Iterator[None]:
    """For a test of a module whose others run without the checks."""
    is_disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", False)
    yield
    jaxtyping.config.update("jaxtyping_disable", is_disabled)


@pytest.fixture
def fp32_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers compute in fp32 on every processor: where the hardware has bf16 they would take that."""
    monkeypatch.setattr("vitlet.methods.distill.has_bf16", lambda _: False)


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in COCO's format: six training and three validation images; see `write_annotated`."""
    return write_annotated(tmp_path_factory.mktemp("annotated"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium; a machine without one skips, and says so."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: pages are not opened")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pages are not opened")
    arguments = [
        "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # greenlet's and asyncio's, none of ours
        with api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, chromium_sandbox=False)
            yield browser
            browser.close()
