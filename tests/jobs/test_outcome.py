"""What a finished training leaves behind: the model with its provenance, its number, a picture."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import QUIET, SHORT, SMALLER, write_images

from vitlet.data.index import open_index
from vitlet.jobs.training import finetune, pretrain
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.recipe import EncoderConfig
from vitlet.recipes import from_json
from vitlet.run import Run
from vitlet.weights.files import CARD
from vitlet.weights.folder import write_model
from vitlet.weights.kinds import NON_COMMERCIAL
from vitlet.weights.names import CONFIG, WEIGHTS
from vitlet.weights.source import evaluation_view, load_encoder


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


class TestTaught:
    """By a network that is not for commercial use; the control is a teacher of random weights."""

    SHAPE = EncoderConfig(image_size=32, patch_size=4, width=24, depth=1, heads=2)

    def teacher(self, out: Path, classes: tuple[str, ...] = ()) -> Path:
        tuned = bool(classes)
        write_model(
            out,
            encoder=Encoder(self.SHAPE.changed(final_norm=not tuned)),
            evaluation=evaluation_view(32),
            facts={"source": {"kind": "MAE", "file": "mae.pth"}, "licence": NON_COMMERCIAL},
            classifier=Classifier(24, num_classes=2, pool="mean", seed=0) if tuned else None,
            classes=classes,
        )
        return out

    def require_named(self, run: Run, teacher: Path) -> None:
        sha256 = hashlib.sha256((teacher / WEIGHTS).read_bytes()).hexdigest()
        found = facts(run)["teacher"]
        assert (found["licence"], found["sha256"]) == (NON_COMMERCIAL, sha256)
        assert found["source"].endswith(teacher.name)
        card = (run.encoder / CARD).read_text()
        assert "license: cc-by-nc-4.0\n" in card
        assert re.search(rf"\| taught by: \S*{teacher.name} \| {NON_COMMERCIAL} \|", card)
        assert "**Not for commercial use**" in card

    def test_without_labels(self, data: Path, tmp_path: Path) -> None:
        teacher = self.teacher(tmp_path / "big")
        runs = {}
        for name, source in (("taught", str(teacher)), ("control", "untrained:vit_tiny_patch16_224")):
            words = SMALLER | {"objective.teacher": source, "objective.layers": [[1, 1]]}
            runs[name] = pretrain("debug_distill", data=data, out=tmp_path / name, options=QUIET, set=words)
        self.require_named(runs["taught"], teacher)
        card = (runs["control"].encoder / CARD).read_text()
        assert "license:" not in card
        assert "| taught by: untrained:vit_tiny_patch16_224 | none, as its weights are random |" in card

    @pytest.mark.parametrize("classes", [("dark", "light"), ("0", "1")])
    def test_with_labels(self, classes: tuple[str, ...], data: Path, tmp_path: Path) -> None:
        """Of classes that have numbers for names nobody knows whether they are in the data's order."""
        teacher = self.teacher(tmp_path / "big", classes)
        words = SMALLER | {"objective.teacher": str(teacher)}
        run = finetune("debug_supervised", init=None, data=data, out=tmp_path / "run", options=QUIET, set=words)
        self.require_named(run, teacher)
        assert ("does not name its classes, so nobody can check" in run.log_file.read_text()) == (classes[0] == "0")


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
