"""What a finished training leaves behind: the model with its provenance, its number, a picture."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import QUIET, SHORT, SMALLER, write_images

from vitlet.data.index import open_index
from vitlet.jobs.training import finetune, pretrain
from vitlet.recipes import from_json
from vitlet.run import Run
from vitlet.weights.files import CARD
from vitlet.weights.names import CONFIG
from vitlet.weights.source import load_encoder


def facts(run: Run) -> dict:
    return json.loads((run.encoder / CONFIG).read_text())["vitlet"]["facts"]


@pytest.mark.parametrize(("kind", "images"), [("pretrained", 32), ("tuned", 16)])
def test_the_model_knows_where_it_comes_from(
    kind: str, images: int, data: Path, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(kind)
    found, recipe = facts(run), from_json(run.recipe_json())
    assert (found["recipe"], found["recipe_fingerprint"]) == (recipe.name, recipe.fingerprint())
    assert (found["data"], found["data_fingerprint"]) == (data.name, open_index(data).fingerprint)
    assert (found["training_images"], found["seed"]) == (images, 0)
    assert found["command"].startswith("vitlet ")
    card = (run.encoder / CARD).read_text()
    assert recipe.fingerprint() in card
    assert 'timm.create_model("local-dir:' in card


def test_a_fine_tuned_model_carries_its_number_and_its_classes(tuned: Run) -> None:
    result = json.loads((tuned.results / "top1.json").read_text())
    assert facts(tuned)["results"] == {"top1": result["value"]}
    assert (result["n"], result["split"], result["protocol"]) == (12, "test", "fine-tuning, 16 labels")
    assert "nothing was chosen on this split" in result["details"]["selection"]
    assert load_encoder(tuned.path).classes == ("dark", "light")


def test_a_pretrained_model_has_no_number_and_no_classes(pretrained: Run) -> None:
    assert facts(pretrained)["results"] == {}
    assert load_encoder(pretrained.path).classifier is None


def test_without_held_out_images_no_number_is_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "images", train=1)
    run = finetune(
        "debug_supervised", init=None, data=data, out=tmp_path / "run", options=QUIET.changed(quiet=False),
        set=SMALLER | {"budget.batch_size": 2},
    )  # fmt: skip
    assert "no image was held out, so no accuracy was measured" in capsys.readouterr().out
    assert not run.results.exists()
    assert facts(run)["results"] == {}


class TestPictures:
    def read(self, run: Run) -> tuple[dict, dict[str, np.ndarray]]:
        with np.load(run.analysis / "reconstructions.npz") as arrays:
            return json.loads((run.analysis / "reconstructions.json").read_text()), dict(arrays)

    def test_are_of_test_images_and_hide_three_quarters(self, pretrained: Run) -> None:
        about, arrays = self.read(pretrained)
        assert about["statistics"] == "visible"
        assert about["caption"].startswith("8 test images, which were not trained on")
        assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == dict.fromkeys(
            ("input", "masked", "reconstruction"), ((8, 32, 32, 3), "uint8")
        )
        seen = (arrays["input"] == arrays["masked"]).all(axis=3).mean()
        assert seen == pytest.approx(0.25, abs=0.02)
        shown = (arrays["input"] == arrays["reconstruction"]).all(axis=3).mean()
        assert seen - 0.02 < shown < 0.5, "visible patches stand as they are"

    def test_are_of_training_images_where_there_are_no_others_and_say_so(self, data: Path, tmp_path: Path) -> None:
        images = shutil.copytree(data / "train", tmp_path / "images")
        about, arrays = self.read(pretrain("debug", data=images, out=tmp_path / "run", options=QUIET, set=SHORT))
        assert about["caption"].startswith("8 training images.")
        assert len(arrays["input"]) == 8

    def test_are_made_by_methods_that_reconstruct(self, tuned: Run) -> None:
        assert not tuned.analysis.exists()
