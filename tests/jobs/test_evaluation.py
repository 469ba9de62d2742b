"""Probes, embeddings and predictions of finished models: every image once, files whole or not at all."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from small_runs import CLASSES, QUIET, SMALLER, stands, write_image, write_images

from vitlet.augmentation import Centre, Fit, View
from vitlet.errors import CheckpointError, DataError, UsageError
from vitlet.jobs.evaluation import embed, predict, probe
from vitlet.jobs.training import finetune
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import head_input, new_classifier
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.run import Run
from vitlet.weights.folder import write_model
from vitlet.weights.portable import PortableEncoder, described
from vitlet.weights.source import load_encoder

DOCUMENTED = {
    "metric", "value", "n", "seed", "split", "protocol", "data", "recipe", "wall_seconds", "cpu_seconds", "command",
    "hardware", "details",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(pretrained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of `pretrained`, for results are written into it."""
    return Run(shutil.copytree(pretrained.path, tmp_path_factory.mktemp("copy") / "run"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without labels in folders, one of them unreadable, one with a name that a spreadsheet would compute."""
    root = tmp_path_factory.mktemp("mixed")
    for number, name in enumerate(("=1+1.png", "deep/er/a.png", "z.png")):
        write_image(root / name, number, light=number == 1)
    (root / "broken.png").write_bytes(b"no image")
    return root


TOLERANT = QUIET.changed(max_bad=0.5)


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


class TestProbe:
    @pytest.mark.parametrize("protocol", ["knn", "logistic"])
    def test_the_number_stands_in_a_file_with_all_that_is_needed_to_believe_it(
        self, protocol: str, model: Run, data: Path
    ) -> None:
        before = stands(model.path)
        result = probe(model.path, data=data, protocol=protocol, options=QUIET)
        name = f"results/{protocol}-mean.json"
        written = json.loads((model.path / name).read_text())
        assert written.keys() == DOCUMENTED
        assert written["value"] == result.value == round(12 * result.value) / 12
        assert (written["n"], written["split"], written["metric"]) == (12, "test", "top1")
        assert written["protocol"] == f"{protocol} on frozen features (mean), 32 labels"
        assert (
            written["recipe"]
            == json.loads((model.encoder / "config.json").read_text())["vitlet"]["facts"]["recipe_fingerprint"]
        )
        after = stands(model.path)
        assert after.keys() - before.keys() == {name}
        assert all(after[key] == value for key, value in before.items()), "nothing else of the run is touched"

    def test_brightness_is_read_from_features(self, model: Run, data: Path) -> None:
        assert probe(model.path, data=data, protocol="logistic", options=QUIET).value == 1.0

    def test_without_a_test_split_a_fifth_of_each_class_is_held_out(self, model: Run, data: Path) -> None:
        result = probe(model.path, data=data / "train", options=QUIET)
        assert (result.n, result.split) == (6, "held-out train")
        assert "26 labels" in result.protocol

    def test_labels_of_two_classes_are_needed(self, model: Run, mixed: Path, data: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has no labels"):
            probe(model.path, data=mixed, options=TOLERANT)
        shutil.copytree(data / "train/dark", tmp_path / "images/dark")
        with pytest.raises(DataError, match="all labelled images are of a single class, 'dark'"):
            probe(model.path, data=tmp_path / "images", options=QUIET)

    def test_every_block_is_a_matter_of_the_linear_probe(self, model: Run, data: Path) -> None:
        with pytest.raises(UsageError, match="--protocol linear"):
            probe(model.path, data=data, protocol="knn", layers="all", options=QUIET)

    def test_a_bare_file_has_no_place_for_results(self, data: Path, tmp_path: Path) -> None:
        network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
        torch.save(network.state_dict(), tmp_path / "model.pth")
        word = f"timm:vit_tiny_patch16_224@{tmp_path / 'model.pth'}"
        assert probe(word, data=data, options=QUIET).n == 12
        assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


class TestEmbed:
    def test_one_row_an_image_with_its_own_features(self, model: Run, data: Path, tmp_path: Path) -> None:
        table = pq.read_table(embed(model.path, data=data, out=tmp_path / "deep/e.parquet", options=QUIET))
        assert table.column_names == ["path", "split", "label", "feature"]
        assert sorted(table["path"].to_pylist()) == sorted(str(p.relative_to(data)) for p in data.rglob("*.png"))
        encoder = load_encoder(model.path).encoder.eval()
        for row in table.to_pylist()[::7]:
            split, label, _ = row["path"].split("/")
            assert (row["split"], row["label"]) == (split, label)
            image = torch.from_numpy(np.array(Image.open(data / row["path"]))).permute(2, 0, 1)
            with torch.inference_mode():
                own = encoder.pooled(image[None], "mean")[0]
            torch.testing.assert_close(torch.tensor(row["feature"]), own, rtol=1e-5, atol=1e-5)

    def test_the_class_token_is_another_vector(self, model: Run, mixed: Path, tmp_path: Path) -> None:
        mean, token = (
            pq.read_table(embed(model.path, data=mixed, out=tmp_path / f"{pool}.parquet", pool=pool, options=TOLERANT))
            for pool in ("mean", "class")
        )
        assert mean["feature"] != token["feature"]
        assert mean["path"].to_pylist() == ["=1+1.png", "deep/er/a.png", "z.png"], "without what cannot be read"
        assert mean["label"].to_pylist() == [None] * 3


class TestPredict:
    def test_one_row_an_image_and_as_many_right_as_the_run_says(self, tuned: Run, data: Path, tmp_path: Path) -> None:
        header, *rows = read_csv(predict(tuned.path, data=data, out=tmp_path / "p.csv", options=QUIET))
        assert header == ["path", "predicted", "probability", "label"]
        assert sorted(row[0] for row in rows) == sorted(str(p.relative_to(data)) for p in data.rglob("*.png"))
        assert all(row[3] == row[0].split("/")[1] for row in rows)
        assert all(row[1] in CLASSES and 0.5 <= float(row[2]) <= 1 for row in rows)
        tested = [row[1] == row[3] for row in rows if row[0].startswith("test/")]
        counted = json.loads((tuned.results / "top1.json").read_text())
        assert (sum(tested) / len(tested), len(tested)) == (counted["value"], counted["n"])

    def test_no_cell_acts_as_a_formula(self, mixed: Path, tmp_path: Path) -> None:
        names = ("=cmd|' /C calc'!A0", "@SUM(1)")
        source = write_images(tmp_path / "images", train=6)
        for old, new in zip(CLASSES, names, strict=True):
            (source / "train" / old).rename(source / "train" / new.replace("/", "_"))
        run = finetune(
            "debug_supervised", init=None, data=source, out=tmp_path / "run", options=QUIET,
            set=SMALLER | {"budget.batch_size": 4},
        )  # fmt: skip
        rows = read_csv(predict(run.path, data=mixed, out=tmp_path / "p.csv", options=TOLERANT))
        rows += read_csv(predict(run.path, data=source / "train", out=tmp_path / "q.csv", options=QUIET))
        cells = [cell for row in rows for cell in row]
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
        assert {"'=1+1.png", "'=cmd|' _C calc'!A0", "'@SUM(1)"} <= set(cells)

    def test_images_without_labels_have_an_empty_cell(self, tuned: Run, mixed: Path, tmp_path: Path) -> None:
        _, *rows = read_csv(predict(tuned.path, data=mixed, out=tmp_path / "p.csv", options=TOLERANT))
        assert [row[0] for row in rows] == ["'=1+1.png", "deep/er/a.png", "z.png"]
        assert [row[3] for row in rows] == [""] * 3

    def test_an_encoder_cannot(self, model: Run, data: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"is an encoder without a classifier.*vitlet finetune"):
            predict(model.path, data=data, out=tmp_path / "p.csv", options=QUIET)
        assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("job", [embed, predict])
def test_images_to_train_on_are_not_asked_for(job: Any, tuned: Run, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "test", tmp_path / "images/test")
    assert job(tuned.path, data=tmp_path / "images", out=tmp_path / "out", options=QUIET).stat().st_size > 50


@pytest.mark.parametrize("job", [embed, predict])
def test_above_one_bad_image_in_a_hundred_it_stops(job: Any, tuned: Run, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 4 images cannot be used"):
        job(tuned.path, data=mixed, out=tmp_path / "out", options=QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", [embed, predict])
def test_what_stood_there_is_replaced_in_one_step(job: Any, tuned: Run, mixed: Path, tmp_path: Path) -> None:
    """A second name of the old file still leads to the old content: nothing was written into it."""
    out = tmp_path / "folder" / "out"
    out.parent.mkdir()
    out.write_text("old")
    os.link(out, tmp_path / "second")
    job(tuned.path, data=mixed, out=out, options=TOLERANT)
    assert (tmp_path / "second").read_text() == "old"
    assert out.stat().st_size > 50
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("job", [embed, predict, probe])
def test_a_model_that_is_not_there_is_never_made_up(job: Any, data: Path, tmp_path: Path) -> None:
    words = {"data": data, "options": QUIET} | ({} if job is probe else {"out": tmp_path / "out"})
    with pytest.raises(CheckpointError, match="no finished encoder"):
        job(data, **words)
    with pytest.raises(UsageError, match="no file or folder"):
        job(tmp_path / "nothing", **words)
    assert not (tmp_path / "out").exists()


class TestWholeImagesPaddedToASquare:
    """As the encoder of a detector sees them, with its own mean in the padding."""

    SIZE = 32
    OWN = Normalisation((0.9, 0.1, 0.4), (0.3, 0.3, 0.3))

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        shape = EncoderConfig(image_size=self.SIZE, patch_size=8, width=24, depth=1, heads=4)
        encoder = Encoder(shape, normalisation=self.OWN, seed=1)
        head = new_classifier(encoder, num_classes=2, pool="mean", seed=1)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        view = View(size=self.SIZE, crop=Fit(), flip=0)
        folder = tmp_path / "model"
        write_model(folder, encoder=encoder, evaluation=view, facts={}, classifier=head, classes=CLASSES)
        return folder

    @pytest.fixture
    def wide(self, tmp_path: Path) -> Path:
        ramp = np.linspace(0, 255, 90)[None, :, None] * np.array([1.0, 0.5, 0.8]) * np.ones((40, 1, 1))
        (tmp_path / "wide").mkdir()
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "wide/a.png")
        return tmp_path / "wide"

    def seen(self, model: Path, wide: Path, *, view: View | None = None, own: Normalisation = OWN) -> torch.Tensor:
        """Bytes of the square, 1 × 3 × S × S, made with Pillow alone from what `preprocessing.json` would say."""
        saved = load_encoder(model)
        saved.encoder.normalisation = own
        steps = {
            step["do"]: step for step in described(PortableEncoder(saved), evaluation=view or saved.evaluation)["steps"]
        }
        photo, resize = Image.open(wide / "a.png"), steps["resize"]
        by = resize["long_side"] / max(photo.size) if "pad" in steps else resize["short_side"] / min(photo.size)
        sides = [round(by * side) for side in photo.size]
        photo = photo.resize((sides[0], sides[1]), Image.Resampling[resize["interpolation"].upper()])
        if "pad" in steps:
            assert steps["pad"]["at"] == ["right", "bottom"]
            square = Image.new("RGB", (steps["pad"]["size"],) * 2, tuple(steps["pad"]["fill"]))
            square.paste(photo, (0, 0))
        else:
            size = steps["centre_crop"]["size"]
            left, top = ((side - size) // 2 for side in photo.size)
            square = photo.crop((left, top, left + size, top + size))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]

    def test_the_described_steps_give_the_features_of_embed(self, model: Path, wide: Path, tmp_path: Path) -> None:
        """The controls: a centre crop, and another network's mean in the padding."""
        table = pq.read_table(embed(model, data=wide, out=tmp_path / "f.parquet", options=QUIET)).to_pydict()
        written, encoder = torch.tensor(table["feature"]), load_encoder(model).encoder.eval()
        with torch.inference_mode():
            torch.testing.assert_close(encoder.pooled(self.seen(model, wide), "mean"), written, rtol=0, atol=5e-3)
            centre = View(size=self.SIZE, crop=Centre(share=1.0), flip=0)
            for other in (self.seen(model, wide, view=centre), self.seen(model, wide, own=IMAGENET)):
                assert (encoder.pooled(other, "mean") - written).abs().max() > 0.05

    def test_predict_sees_them_so(self, model: Path, wide: Path, tmp_path: Path) -> None:
        _, (_, _, written, _) = read_csv(predict(model, data=wide, out=tmp_path / "p.csv", options=QUIET))
        saved = load_encoder(model)
        assert saved.classifier is not None
        with torch.inference_mode():
            both = torch.cat([self.seen(model, wide), self.seen(model, wide, own=IMAGENET)])
            own, other = saved.classifier.eval()(head_input(saved.encoder.eval(), both)).softmax(dim=1).amax(dim=1)
        assert abs(float(written) - float(own)) < 2e-3
        assert abs(float(other) - float(own)) > 5e-3, "the control tells nothing"
