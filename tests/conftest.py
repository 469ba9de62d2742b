"""Fixtures shared by all tests."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: sums on two threads differ in the last bits; children inherit it

sys.path.insert(0, str(Path(__file__).parent))

import jaxtyping
import pytest
import torch

from annotated_images import write_annotated

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
_WHOLE_JOBS = {"bench", "faults", "jobs", "reproduce", "train"}
"""Folders of tests that run whole jobs out of parts whose shapes the parts' own tests check."""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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
    jaxtyping.config.update("jaxtyping_disable", request.path.parent.name in _WHOLE_JOBS)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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


_RANK = """
import os, sys
import torch
import torch.distributed as dist
torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
{script}
torch.save(result, sys.argv[3])
dist.destroy_process_group()
"""


@pytest.fixture
def two_ranks(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Runs a script as two ranks on gloo; it finds `rank` and leaves a dict of tensors in `result`, one a rank."""

    def run(script: str) -> list[dict[str, Any]]:
        source = _RANK.replace("{script}", script)
        outs = [tmp_path / f"rank{rank}.pt" for rank in range(2)]
        command = [sys.executable, "-c", source]
        ranks = [
            subprocess.Popen([*command, str(rank), str(tmp_path / "meeting"), str(out)], stderr=subprocess.PIPE)
            for rank, out in enumerate(outs)
        ]
        try:
            errors = [process.communicate(timeout=100)[1].decode() for process in ranks]
        finally:
            for process in ranks:
                process.kill()
        assert all(process.returncode == 0 for process in ranks), "\n".join(errors)
        return [torch.load(out, weights_only=True) for out in outs]

    return run
