"""One labelled set of small images and one chain of runs on it, for all tests of this folder."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import forked

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
sys.path.insert(0, str(Path(__file__).parents[1] / "replication"))

from small_runs import QUIET, SHORT, write_images

from vitlet.evaluation.pace import take_turns
from vitlet.jobs import exporting, witnesses
from vitlet.jobs.training import finetune, pretrain
from vitlet.run import Run
from vitlet.weights import formats
from vitlet.weights.portable import Portable


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that brightness tells apart: 16 training and 6 test images of each."""
    return write_images(tmp_path_factory.mktemp("images"), train=16, test=6)


@pytest.fixture(scope="session")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`debug`, as it stands in the recipes; only to be read."""
    return pretrain("debug", data=data, out=tmp_path_factory.mktemp("runs") / "pretrained", options=QUIET)


@pytest.fixture(scope="session")
def tuned(data: Path, pretrained: Run) -> Run:
    """`debug_supervised` on 16 labels from the encoder of `pretrained`; only to be read."""
    out = pretrained.path.parent / "tuned"
    return finetune("debug_supervised", init=pretrained.path, data=data, out=out, num_labels=16, options=QUIET)


@pytest.fixture(scope="session")
def short(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the variants of `SHORT` are compared with; only to be read."""
    return pretrain("debug", data=data, out=tmp_path_factory.mktemp("runs") / "short", options=QUIET, set=SHORT)


@pytest.fixture(scope="module")
def few_witnesses() -> Iterator[None]:
    """Exports are judged on 48 images, calibrated on 16 others and timed once; in `test_whole.py` as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(witnesses, "PROOF_IMAGES", 48)
        patch.setattr(witnesses, "_FEWEST_CALIBRATION", 16)
        patch.setattr(exporting, "take_turns", partial(take_turns, repeats=1))
        yield


@pytest.fixture(scope="module")
def converted_once() -> Iterator[None]:
    """One conversion of each model serves all tests of a module: it takes seconds, and gives the same bytes again."""
    convert, known = formats._onnx_of, dict[tuple[object, ...], bytes]()

    def remembered(model: Portable) -> bytes:
        key = (str(model.outputs), model.embed_preprocessing)
        if key not in known:
            known[key] = convert(model)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "_onnx_of", remembered)
        yield


@pytest.fixture
def on_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a body on several ranks with an empty cache; all of them have to end well."""

    def run(body: Callable[[], object], *, size: int) -> None:
        monkeypatch.setenv("VITLET_CACHE", str(tmp_path / f"cache-{size}"))
        forked.on_ranks(body, tmp_path, size=size)

    return run
