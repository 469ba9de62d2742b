"""The exported folder: timm opens it and computes the same; damaged or foreign ones are refused whole."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from vitlet.augmentation import Centre, View
from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier, ConvClassifier, head_input, new_classifier
from vitlet.normalisation import Normalisation
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.weights.files import CARD
from vitlet.weights.folder import initialised_from, load_exactly, read_model, write_model
from vitlet.weights.names import CONFIG, WEIGHTS

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=4)
VIEW = View(size=32, crop=Centre(share=0.8, interpolation="bilinear"), flip=0)
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
FACTS = {"recipe": "mae_micro", "note": "``` is no fence"}
CLASSES = ("cat", "dog", "owl")


def _stirred(module: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return module


def _encoder(config: EncoderConfig = SMALL) -> Encoder:
    encoder = Encoder(config, normalisation=Normalisation(MEAN, STD))
    _stirred(encoder)
    return encoder


def _write(path: Path, encoder: Encoder, classifier: Classifier | None = None) -> Path:
    classes = CLASSES if classifier else ()
    write_model(path, encoder=encoder, evaluation=VIEW, facts=FACTS, classifier=classifier, classes=classes)
    return path


def _images() -> Tensor:
    return torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _in_timm(path: Path) -> tuple[torch.nn.Module, Tensor]:
    """The model and the images, both by nothing but what timm reads in the folder."""
    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    told = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(told[key])[:, None, None] for key in ("mean", "std"))
    return model, (_images() / 255 - mean) / std


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("final_norm", [True, False])
@torch.no_grad()
def test_timm_computes_the_same_features(tmp_path: Path, heads: int, final_norm: bool) -> None:
    encoder = _encoder(SMALL.changed(heads=heads, final_norm=final_norm))
    model, images = _in_timm(_write(tmp_path / "encoder", encoder))
    torch.testing.assert_close(model.forward_features(images), encoder(_images()), rtol=1e-5, atol=1e-5)
    assert {block.attn.num_heads for block in model.blocks} == {heads}
    # Without a head, calling the model gives one vector an image, which is ours.
    torch.testing.assert_close(model(images), encoder.pooled(_images(), "mean"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
@torch.no_grad()
def test_timm_must_be_told_that_no_norm_follows_the_mean(tmp_path: Path, relative: bool) -> None:
    """The controls: the pooling that once stood there is another vector, and a mean alone lacks a tensor of timm's."""
    encoder = _encoder(SMALL.changed(relative_position=relative))
    path = _write(tmp_path / "encoder", encoder)
    ours = encoder.pooled(_images(), "mean")
    model, images = _in_timm(path)
    torch.testing.assert_close(model(images), ours, rtol=1e-5, atol=1e-5)
    assert torch.equal(read_model(path).encoder.pooled(_images(), "mean"), ours)
    told = json.loads((path / CONFIG).read_text())
    del told["model_args"]["use_fc_norm" if relative else "fc_norm"]
    (path / CONFIG).write_text(json.dumps(told))
    with pytest.raises(RuntimeError, match=r"fc_norm\.weight"):
        _in_timm(path)
    told["global_pool"] = told["model_args"]["global_pool"] = "token"
    (path / CONFIG).write_text(json.dumps(told))
    assert (_in_timm(path)[0](images) - ours).abs().max() > 0.01


@pytest.mark.parametrize(("pool", "final_norm"), [("mean", False), ("class", True)])
@torch.no_grad()
def test_timm_computes_the_same_logits(tmp_path: Path, pool: str, final_norm: bool) -> None:
    encoder = _encoder(SMALL.changed(final_norm=final_norm))
    classifier = _stirred(Classifier(24, num_classes=3, pool=pool, seed=0))
    model, images = _in_timm(_write(tmp_path / "model", encoder, classifier))
    ours = classifier(encoder.encode(encoder.embed(_images())))
    torch.testing.assert_close(model(images), ours, rtol=1e-5, atol=1e-5)
    assert model.num_classes == 3
    assert tuple(model.pretrained_cfg["label_names"]) == CLASSES


def test_timm_is_told_the_preprocessing(tmp_path: Path) -> None:
    model, _ = _in_timm(_write(tmp_path / "encoder", _encoder()))
    told = timm.data.resolve_model_data_config(model)
    assert (tuple(told["mean"]), tuple(told["std"])) == (MEAN, STD)
    assert told["input_size"] == (3, 32, 32)
    assert (told["crop_pct"], told["interpolation"], told["crop_mode"]) == (0.8, "bilinear", "center")


@pytest.mark.parametrize("pool", ["mean", "class", None])
@torch.no_grad()
def test_what_is_read_is_what_was_written(tmp_path: Path, pool: str | None) -> None:
    encoder = _encoder(SMALL.changed(final_norm=pool != "mean"))
    classifier = _stirred(Classifier(24, num_classes=3, pool=pool, seed=0)) if pool else None
    saved = read_model(_write(tmp_path / "model", encoder, classifier))
    assert saved.encoder.config == encoder.config
    assert saved.encoder.normalisation == (MEAN, STD)
    assert (saved.evaluation, saved.facts) == (VIEW, FACTS)
    assert saved.classes == (CLASSES if classifier else ())
    assert torch.equal(saved.encoder(_images()), encoder(_images()))
    assert (saved.classifier is None) == (classifier is None)
    if classifier is not None and saved.classifier is not None:
        encoded = encoder.encode(encoder.embed(_images()))
        assert torch.equal(saved.classifier(encoded), classifier(encoded))


def test_the_folder_holds_no_pickle_and_a_card_whose_facts_stay_fenced(tmp_path: Path) -> None:
    path = _write(tmp_path / "encoder", _encoder())
    assert sorted(f.name for f in path.iterdir()) == sorted([CONFIG, WEIGHTS, CARD])
    card = (path / CARD).read_text()
    assert card.count("```") == 4
    assert '"recipe": "mae_micro"' in card


def test_one_flipped_bit_and_one_lost_byte_are_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path / "encoder", _encoder())
    content = (path / WEIGHTS).read_bytes()
    flipped = bytearray(content)
    flipped[-100] ^= 1
    for damaged in (bytes(flipped), content[:-1], b""):
        (path / WEIGHTS).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged.*SHA-256"):
            read_model(path)
    (path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_model(path)


def test_foreign_and_broken_configs_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "encoder", _encoder())
    (path / CONFIG).write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    with pytest.raises(CheckpointError, match="not written by vitlet"):
        read_model(path)
    (path / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        read_model(path)
    with pytest.raises(CheckpointError, match="missing file"):
        read_model(tmp_path / "nowhere")


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet"])
@torch.no_grad()
def test_a_convnet_classifier_is_one_network_of_timm_and_comes_back(tmp_path: Path, architecture: str) -> None:
    """Whatever timm calls its last layer; the control is that the encoder alone has none."""
    stride = 8 if architecture == "test_efficientnet" else 32
    encoder = ConvEncoder(
        ConvNetConfig(architecture=architecture, image_size=32, output_stride=stride),
        normalisation=Normalisation(MEAN, STD),
    )
    classifier = _stirred(new_classifier(encoder, num_classes=3, pool="mean", seed=0))
    assert isinstance(classifier, ConvClassifier)
    path = tmp_path / "model"
    write_model(path, encoder=encoder, evaluation=VIEW, facts=FACTS, classifier=classifier, classes=CLASSES)
    encoder.eval()
    ours = classifier(head_input(encoder, _images()))
    model, images = _in_timm(path)
    torch.testing.assert_close(model(images), ours, rtol=1e-4, atol=1e-5)
    last = model.get_classifier()
    assert torch.equal(last.weight, classifier.weight)
    names = set(safetensors.torch.load_file(path / WEIGHTS))
    assert names == set(model.state_dict())
    assert {n for n in names if n.startswith(f"{encoder.head_name}.")} == {
        f"{encoder.head_name}.weight",
        f"{encoder.head_name}.bias",
    }
    saved = read_model(path)
    assert (saved.classes, saved.encoder.config) == (CLASSES, encoder.config)
    assert saved.classifier is not None
    torch.testing.assert_close(saved.classifier(head_input(saved.encoder.eval(), _images())), ours, rtol=0, atol=0)
    write_model(tmp_path / "encoder", encoder=encoder, evaluation=VIEW, facts=FACTS)
    assert _in_timm(tmp_path / "encoder")[0].num_classes == 0


@pytest.mark.parametrize(
    "lost",
    [("sha256",), ("pool",), ("facts",), ("encoder",), ("encoder", "kind"), ("evaluation",), ("evaluation", "size")],
)
def test_a_folder_from_before_a_field_existed_is_refused_by_name(tmp_path: Path, lost: tuple[str, ...]) -> None:
    path = _write(tmp_path / "encoder", _encoder())
    config = json.loads((path / CONFIG).read_text())
    at = config["vitlet"]
    for key in lost[:-1]:
        at = at[key]
    del at[lost[-1]]
    (path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"encoder/config\.json describes no model.*{lost[-1]}"):
        read_model(path)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("encoder", {"kind": "vit", "rotary": True}, "rotary"), ("encoder", {"kind": "convnet", "width": 3}, "width"),
     ("encoder", 3, "int"), ("evaluation", {"size": 32, "crop": {"kind": "ten"}}, "crop")],
)  # fmt: skip
def test_a_folder_with_a_field_that_is_unknown_here_is_refused_by_name(
    tmp_path: Path, key: str, value: object, named: str
) -> None:
    path = _write(tmp_path / "encoder", _encoder())
    config = json.loads((path / CONFIG).read_text())
    config["vitlet"][key] = value
    (path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"encoder/config\.json describes no model.*{named}"):
        read_model(path)


def test_a_folder_without_preprocessing_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "encoder", _encoder())
    config = json.loads((path / CONFIG).read_text())
    del config["pretrained_cfg"]["std"]
    (path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json describes no model.*std"):
        read_model(path)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_tensors_that_do_not_fit_are_named_and_nothing_is_loaded(change: str) -> None:
    encoder, other = _encoder(), _encoder(SMALL)
    _stirred(other, seed=2)
    tensors = dict(other.vit.state_dict())
    if change == "missing":
        del tensors["blocks.1.attn.qkv.weight"]
    elif change == "surplus":
        tensors["blocks.2.attn.qkv.weight"] = torch.zeros(3)
    else:
        tensors["blocks.1.attn.qkv.weight"] = torch.zeros(3, 24)
    before = {k: v.clone() for k, v in encoder.vit.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"a\.file does not fit.*1 tensor of 3\d differs: .*attn\.qkv\.weight"):
        load_exactly(encoder, tensors, where="a.file")
    assert all(torch.equal(v, before[k]) for k, v in encoder.vit.state_dict().items())


@pytest.mark.parametrize("drop", ["head.bias", "fc_norm.weight", "blocks.0.norm1.bias"])
def test_a_classifier_is_read_whole_or_not_at_all(tmp_path: Path, drop: str) -> None:
    """Also where the checksum was made to fit: by hand, or by somebody else's program."""
    classifier = Classifier(24, num_classes=3, pool="mean", seed=0)
    path = _write(tmp_path / "model", _encoder(SMALL.changed(final_norm=False)), classifier)
    tensors = safetensors.torch.load_file(path / WEIGHTS)
    del tensors[drop]
    content = safetensors.torch.save(tensors)
    config = json.loads((path / CONFIG).read_text())
    config["vitlet"]["sha256"] = hashlib.sha256(content).hexdigest()
    (path / WEIGHTS).write_bytes(content)
    (path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"does not fit.*{drop}"):
        read_model(path)


def test_fine_tuning_starts_from_all_tensors_but_the_final_norm() -> None:
    source = _encoder(SMALL.changed(position="sincos"))
    target = initialised_from(source, SMALL.changed(final_norm=False, drop_path=0.1), seed=3)
    assert target.normalisation == (MEAN, STD)
    assert target.config.drop_path == 0.1
    theirs, ours = source.vit.state_dict(), target.vit.state_dict()
    assert set(theirs) - set(ours) == {"norm.weight", "norm.bias"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert target.vit.pos_embed.requires_grad  # learned from here on, starting at the checkpoint's


def test_a_final_norm_that_the_source_lacks_starts_afresh() -> None:
    source = _encoder(SMALL.changed(final_norm=False))
    target = initialised_from(source, SMALL, seed=3)
    assert torch.equal(target.vit.norm.weight, torch.ones(24))
    assert torch.equal(target.vit.blocks[0].attn.qkv.weight, source.vit.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("change", [{"depth": 3}, {"width": 48}, {"patch_size": 4}])
def test_a_source_of_another_shape_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match="initial encoder does not fit"):
        initialised_from(_encoder(), SMALL.changed(**change), seed=0)


def test_only_the_lowest_blocks_come_from_the_source() -> None:
    source, fresh = _encoder(), Encoder(SMALL, normalisation=Normalisation(MEAN, STD), seed=3)
    kept = initialised_from(source, SMALL, seed=3, keep_blocks=1).vit.state_dict()
    for name, tensor in kept.items():
        above = name.startswith(("norm.", "blocks.1."))
        assert torch.equal(tensor, (fresh if above else source).vit.state_dict()[name]), name
    assert not torch.equal(kept["blocks.1.attn.qkv.weight"], source.vit.state_dict()["blocks.1.attn.qkv.weight"])


@pytest.mark.parametrize(("blocks", "like"), [(0, "fresh"), (2, "source"), (None, "source")])
def test_no_block_is_from_scratch_and_all_blocks_is_the_source(blocks: int | None, like: str) -> None:
    source, fresh = _encoder(), Encoder(SMALL, normalisation=Normalisation(MEAN, STD), seed=3)
    expected = {"fresh": fresh, "source": source}[like].vit.state_dict()
    target = SMALL.changed(final_norm=False)
    kept = initialised_from(source, target, seed=3, keep_blocks=blocks).vit.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in kept.items())


def test_what_is_not_kept_is_as_the_source_was_and_not_as_the_recipe_starts() -> None:
    """A source that began by another scheme, as MAE's does; keeping nothing is the source before its training."""
    source = _encoder(SMALL.changed(init="xavier", position="sincos"))
    target = SMALL.changed(final_norm=False)
    began = Encoder(source.config, normalisation=Normalisation(MEAN, STD), seed=3).vit.state_dict()
    none = initialised_from(source, target, seed=3, keep_blocks=0)
    assert all(torch.equal(tensor, began[name]) for name, tensor in none.vit.state_dict().items())
    assert none.vit.pos_embed.requires_grad, "the recipe learns positions, wherever they begin"
    one = initialised_from(source, target, seed=3, keep_blocks=1).vit.state_dict()
    assert torch.equal(one["blocks.1.mlp.fc1.weight"], began["blocks.1.mlp.fc1.weight"])
    control = Encoder(target, normalisation=Normalisation(MEAN, STD), seed=3).vit.state_dict()
    for name in ("blocks.1.mlp.fc1.weight", "pos_embed"):
        assert not torch.equal(none.vit.state_dict()[name], control[name])


@pytest.mark.parametrize("blocks", [-1, 3])
def test_blocks_that_are_not_there_cannot_be_kept(blocks: int) -> None:
    with pytest.raises(UsageError, match=r"an encoder that has 2.*--keep-blocks 0 … 2"):
        initialised_from(_encoder(), SMALL, seed=0, keep_blocks=blocks)
