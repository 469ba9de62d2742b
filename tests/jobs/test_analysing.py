"""`analyse` end to end on small encoders: the files, the page, the sample, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from vitlet.augmentation import Centre, View
from vitlet.errors import DataError, NonFiniteError, UsageError
from vitlet.jobs import analysing
from vitlet.jobs.analysing import Look, analyse
from vitlet.jobs.material import start_content
from vitlet.jobs.options import Options
from vitlet.jobs.subjects import open_subjects, trained_from_first
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.weights.folder import write_model

CONFIG = EncoderConfig(image_size=16, patch_size=4, width=24, depth=2, heads=3)
OPTIONS = Options(quiet=True, workers=0)


def save(folder: Path, encoder: Any, *, size: int = 16, **settings: Any) -> str:
    write_model(
        folder, encoder=encoder, evaluation=View(size=size, crop=Centre(share=1.0), flip=0), facts={}, **settings
    )
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that brightness tells apart: 40 images of each to learn from, 40 to test."""
    root = tmp_path_factory.mktemp("data")
    draw = np.random.Generator(np.random.Philox(key=1))
    for split in ("train", "test"):
        for code, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(40):
                pixels = draw.integers(0, 120, (16, 16, 3)) + 130 * code
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An encoder, a classifier of the same shape fine-tuned from it, and one of another width and depth."""
    root = tmp_path_factory.mktemp("models")
    tuned = Encoder(CONFIG.changed(final_norm=False), seed=1)
    with torch.no_grad():
        tuned.blocks[1].mlp.fc1.weight.mul_(1.5)
    head = Classifier(24, num_classes=2, pool="mean", seed=0)
    return [
        save(root / "start", Encoder(CONFIG, seed=1)),
        save(root / "tuned", tuned, classifier=head, classes=("dark", "light")),
        save(root / "wide", Encoder(CONFIG.changed(width=36, depth=3), seed=2)),
    ]


@pytest.fixture(scope="module")
def done(data: Path, models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    page = analyse([*models, "random"], data=data, out=out, images=64, options=OPTIONS)
    assert page == out / "report.html"
    return out


def stored(out: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(out / "analysis" / f"{name}.npz") as arrays:
        return json.loads((out / "analysis" / f"{name}.json").read_text()), dict(arrays)


def test_all_encoders_stand_in_one_table(done: Path) -> None:
    facts, arrays = stored(done, "similarity")
    assert [(m["name"], m["start"], m["stop"]) for m in facts["models"]] == [
        ("start", 0, 3), ("tuned", 3, 6), ("wide", 6, 10), ("random", 10, 13)
    ]  # fmt: skip
    assert arrays["cka"].shape == (13, 13)
    assert np.allclose(arrays["cka"].diagonal(), 1, atol=1e-6)
    assert np.allclose(arrays["cka"][0, 3], 1, atol=1e-6), "the same embedding"
    assert (facts["images"], facts["batches"]) == (64, 1)


def test_heads_points_and_units(done: Path) -> None:
    facts, arrays = stored(done, "attention")
    assert arrays["entropy_nats.2"].shape == (3, 3)
    assert np.allclose(arrays["distance_pixels.0"], 4 * arrays["distance_patches.0"])
    assert facts["epsilon"] == 0
    assert "distance_published.0" not in arrays
    assert [stored(done, "spectrum")[1][f"delta.{k}"].shape for k in range(4)] == [(5,), (5,), (7,), (5,)]


def test_layers_are_probed_and_pictures_kept(done: Path) -> None:
    facts, arrays = stored(done, "layers")
    assert arrays["logistic.0"].shape == (3, 64)
    assert arrays["logistic.0"][0].mean() > 0.95, "brightness is in the embedding"
    assert facts["num_labels"] == 80
    _, shown = stored(done, "pictures")
    assert shown["images"].shape == (8, 16, 16, 3)
    assert shown["pca.2"].shape == (8, 4, 4, 3)
    assert np.allclose(shown["attention.0"].sum(axis=(2, 3)), 1, atol=1e-5)


def test_what_fine_tuning_moved_is_measured_from_the_first(done: Path) -> None:
    (pair,) = json.loads((done / "analysis" / "weights.json").read_text())["pairs"]
    assert (pair["before"], pair["after"]) == ("start", "tuned")
    assert pair["attention"] == [0, 0]
    assert pair["mlp"][0] == 0 < pair["mlp"][1]
    suggestions = json.loads((done / "analysis" / "diagnosis.json").read_text())["suggestions"]
    assert {"Initialisation", "Fine-tuning"} <= {s["topic"] for s in suggestions}


def test_nothing_is_said_about_fine_tuning_between_runs_that_do_not_come_from_each_other(
    models: list[str], data: Path, tmp_path: Path
) -> None:
    """The control is the first encoder as the start; what is said then stands in the test above."""
    run = shutil.copytree(models[1], tmp_path / "run")
    subjects, _ = open_subjects([models[0], str(run)], OPTIONS, seed=0)
    for start, expected in ((start_content(models[0]), {"run"}), (start_content(models[2]), set()), ("random", set())):
        (run / "environment.json").write_text(json.dumps({"launch": {"start": start}}))
        assert trained_from_first(subjects) == expected
    analyse([models[0], str(run)], data=data, out=tmp_path / "out", images=16, options=OPTIONS)
    found = json.loads((tmp_path / "out/analysis/diagnosis.json").read_text())["suggestions"]
    assert not any(s["topic"] == "Fine-tuning" for s in found)


def test_the_page_and_its_figures_are_there(done: Path) -> None:
    page = (done / "report.html").read_text()
    for words in ("What to try", "Similarity of layers", "Where heads look", "Fine structure", "start", "tuned"):
        assert words in page
    assert len(list((done / "figures").glob("*.svg"))) == page.count('<figure class="plot">')


def test_the_same_encoder_has_the_same_numbers_whatever_it_is_compared_with(
    done: Path, data: Path, models: list[str], tmp_path: Path
) -> None:
    analyse(models[:1], data=data, out=tmp_path, images=64, options=OPTIONS)
    for name in ("attention", "spectrum", "layers", "pictures"):
        first, second = stored(done, name)[1], stored(tmp_path, name)[1]
        assert second
        assert all(np.array_equal(first[key], second[key], equal_nan=True) for key in second)
    first, second = (stored(out, "similarity")[1]["cka"] for out in (done, tmp_path))
    assert np.allclose(first[:3, :3], second, rtol=0, atol=1e-12), "a product of other sizes rounds differently"


def test_the_published_quirks_are_an_option(data: Path, models: list[str], tmp_path: Path) -> None:
    analyse(models[:1], data=data, out=tmp_path, images=20, published=True, options=OPTIONS)
    facts, arrays = stored(tmp_path, "attention")
    assert facts["epsilon"] == 1e-6
    assert np.allclose(arrays["distance_published.0"], 14 * arrays["distance_patches.0"])
    about = json.loads((tmp_path / "analysis" / "about.json").read_text())
    assert about["published_quirks"] is True
    pixels = stored(tmp_path, "pictures")[1]["images"]
    assert pixels.max() < 130, "the first in folder order are dark"


def test_untrained_weights_are_not_those_that_a_run_with_the_seed_started_from(models: list[str]) -> None:
    """Else the control of a run from scratch would be its own start, and every seed would have the same control."""

    def control(seed: int) -> torch.Tensor:
        subjects, _ = open_subjects([models[0], "random"], OPTIONS, seed=seed)
        return subjects[1].encoder.blocks[0].attn.qkv.weight

    assert torch.equal(control(0), control(0))
    assert not torch.equal(control(0), control(1))
    for seed in (0, 1):
        assert not torch.equal(control(seed), Encoder(CONFIG, seed=seed).blocks[0].attn.qkv.weight)


def test_the_seed_of_a_look_draws_its_untrained_weights(data: Path, models: list[str], tmp_path: Path) -> None:
    """Both looks see all 80 images, in another order: the trained encoder gives the same means."""
    found = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        analyse([models[0], "random"], data=data, out=out, images=80, seed=seed, options=OPTIONS)
        found.append(stored(out, "attention")[1])
    assert np.allclose(found[0]["distance_pixels.0"], found[1]["distance_pixels.0"], rtol=0, atol=2e-5)
    assert not np.allclose(found[0]["distance_pixels.1"], found[1]["distance_pixels.1"], rtol=0, atol=2e-4)


def test_untrained_weights_may_be_those_of_another_network(models: list[str], tmp_path: Path) -> None:
    """With its rule of initialisation and its positions, which the first encoder does not have."""
    fixed = Encoder(CONFIG.changed(position="sincos", init="xavier"), seed=4)
    other = save(tmp_path / "fixed", fixed)
    words = [models[1], "random", f"random:{other}", f"random:{models[2]}"]
    _, plain, like, wide = open_subjects(words, OPTIONS, seed=0)[0]
    assert [s.name for s in (plain, like, wide)] == ["random", "random like fixed", "random like wide"]
    assert like.encoder.config == fixed.config
    assert torch.equal(like.encoder.vit.pos_embed, fixed.vit.pos_embed)
    assert not torch.equal(like.encoder.blocks[0].attn.qkv.weight, fixed.blocks[0].attn.qkv.weight)
    assert (plain.encoder.config, wide.encoder.width) == (CONFIG.changed(final_norm=False), 36)
    with pytest.raises(UsageError, match="no file or folder"):
        open_subjects([models[0], f"random:{tmp_path}/nowhere"], OPTIONS, seed=0)


def test_the_papers_code_sees_whole_batches_until_there_are_more(data: Path, models: list[str], tmp_path: Path) -> None:
    assert [Look(images=n, published=True).num_images for n in (1024, 1000, 1)] == [1152, 1024, 128]
    assert Look().num_images == 1024
    seen = []
    for published in (False, True):
        out = tmp_path / str(published)
        analyse(models[:1], data=data, out=out, images=128, published=published, options=OPTIONS)
        about = json.loads((out / "analysis" / "about.json").read_text())  # of 160: too few are held out for a batch
        seen.append((about["split"], about["images"], about["batch_size"]))
    assert seen == [("test", 80, 80), ("all images", 160, 160)]


@pytest.mark.parametrize("order", ["column-row", "row-column"])
def test_the_papers_code_does_not_read_the_final_norm_of_mae(
    order: Literal["column-row", "row-column"], tmp_path: Path
):
    """That of MoCo-v3, with positions in the other order, it does; and so does everything without `published`."""
    encoder = Encoder(CONFIG.changed(position="sincos", sincos_order=order))
    with torch.no_grad():
        encoder.vit.norm.weight.fill_(2.0)
        encoder.vit.norm.bias.fill_(3.0)
    word = save(tmp_path / "model", encoder)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    means = []
    for published in (False, True):
        ((subject,), _) = open_subjects([word], OPTIONS, seed=0, published=published)
        means.append(subject.last_norm(subject.encoder.encode(subject.encoder.embed(images))).mean().item())
    assert means == pytest.approx([3, 0 if order == "column-row" else 3], abs=1e-5)


def test_images_without_labels_are_looked_at_and_not_probed(data: Path, models: list[str], tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for i, path in enumerate(sorted((data / "test").rglob("*.png"))[:12]):
        (plain / f"{i}.png").write_bytes(path.read_bytes())
    analyse(models[:2], data=plain, out=tmp_path / "out", options=OPTIONS)
    _, arrays = stored(tmp_path / "out", "layers")
    assert not any(key.startswith(("knn", "logistic")) for key in arrays)
    assert "no labels to judge" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_compared_is_refused(data: Path, models: list[str], tmp_path: Path) -> None:
    small = save(tmp_path / "small", Encoder(CONFIG.changed(image_size=8)), size=8)
    for words, message in (
        ([models[0], small], "encoders of different input sizes.*start: 16 px, small: 8 px"),
        (["random", models[0]], "random weights need a shape"),
        ([], "no encoder given"),
        ([str(tmp_path / "nowhere")], "no file or folder"),
    ):
        with pytest.raises(UsageError, match=message):
            analyse(words, data=data, out=tmp_path / "out", options=OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_convnet_has_no_attention(data: Path, models: list[str], tmp_path: Path) -> None:
    net = ConvEncoder(ConvNetConfig(architecture="test_efficientnet", image_size=32))
    with pytest.raises(UsageError, match="is a ConvNet"):
        analyse([models[0], save(tmp_path / "net", net, size=32)], data=data, out=tmp_path / "out", options=OPTIONS)


def test_damaged_weights_are_named_with_layer_and_folder(data: Path, tmp_path: Path) -> None:
    broken = Encoder(CONFIG)
    with torch.no_grad():
        broken.blocks[1].norm1.weight[0] = float("nan")
    word = save(tmp_path / "broken", broken)
    with pytest.raises(NonFiniteError, match=r"layer block\.1\.norm1 on \(.*broken\)"):
        analyse([word], data=data, out=tmp_path / "out", options=OPTIONS)


def test_three_images_are_too_few(data: Path, models: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 images to analyse"):
        analyse(models[:1], data=data, out=tmp_path, images=3, options=OPTIONS)


def test_one_encoder_named_twice_keeps_two_names(data: Path, models: list[str], tmp_path: Path) -> None:
    analyse([models[0], models[0]], data=data, out=tmp_path, images=16, options=OPTIONS)
    facts, arrays = stored(tmp_path, "similarity")
    assert len({m["name"] for m in facts["models"]}) == 2
    assert np.allclose(arrays["cka"][:3, :3], arrays["cka"][:3, 3:], atol=1e-9)


def test_with_more_classes_than_are_learned_only_those_are_counted(
    data: Path, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a thousand images to learn from and two thousand classes."""
    for name in ("dark", "light"):
        (tmp_path / f"data/train/{name}").mkdir(parents=True)
        shutil.copytree(data / "test" / name, tmp_path / f"data/test/{name}")
        shutil.copy(data / f"train/{name}/00.png", tmp_path / f"data/train/{name}")
    for code in range(4):
        for split in ("train", "test"):
            (tmp_path / f"data/{split}/more-{code}").mkdir(parents=True)
            for i in range(3):
                shutil.copy(data / f"test/dark/{i:02}.png", tmp_path / f"data/{split}/more-{code}/{split}-{i}.png")
    monkeypatch.setattr(analysing, "PROBE_IMAGES", 4)
    analyse(models[:1], data=tmp_path / "data", out=tmp_path / "out", images=64, options=OPTIONS)
    facts, arrays = stored(tmp_path / "out", "layers")
    assert facts["num_labels"] == 4
    assert 0 < arrays["logistic.0"].shape[1] < 64
