"""Teachers are what they are called, or there is none."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf

from vitlet.augmentation import Centre, View
from vitlet.errors import CheckpointError, UsageError
from vitlet.methods.distill import AttentionDistillation
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.nn.posembed import sincos_2d
from vitlet.normalisation import IMAGENET
from vitlet.recipe import EncoderConfig
from vitlet.recipes import with_overrides
from vitlet.recipes.distill import dmae_tiny_400e
from vitlet.weights.card import is_non_commercial, licence_chain
from vitlet.weights.folder import write_model
from vitlet.weights.kinds import NON_COMMERCIAL
from vitlet.weights.names import CONFIG, WEIGHTS
from vitlet.weights.source import blank_network
from vitlet.weights.teacher import (
    load_classifier_teacher,
    load_encoder_teacher,
    load_feature_teacher,
    require_same_classes,
)

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3)
VIEW = View(size=32, crop=Centre(), flip=0)
FACTS = {"licence": "CC-BY-NC 4.0", "recipe": "mae_micro"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    classifier = Classifier(24, num_classes=3, pool="class", seed=0)
    write_model(
        tmp_path / "m", encoder=Encoder(SMALL, seed=4), evaluation=VIEW, facts=FACTS,
        classifier=classifier, classes=("a", "b", "c"),
    )  # fmt: skip
    return tmp_path / "m"


def test_a_model_folder_gives_its_encoder_and_its_licence(folder: Path) -> None:
    teacher = load_encoder_teacher(str(folder), like=SMALL)
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    torch.testing.assert_close(teacher.encoder(images), Encoder(SMALL, seed=4)(images), rtol=0, atol=0)
    assert teacher.facts["licence"] == "CC-BY-NC 4.0"
    assert len(teacher.facts["sha256"]) == 64


def test_a_file_is_read_as_the_network_it_is_called(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = load_encoder_teacher(f"timm:vit_tiny_patch16_224@{tmp_path / 'w.safetensors'}", like=SMALL)
    assert (teacher.encoder.config.heads, teacher.encoder.normalisation.mean) == (3, (0.5, 0.5, 0.5))
    torch.testing.assert_close(teacher.encoder.vit.norm.weight, model.norm.weight, rtol=0, atol=0)
    assert teacher.facts["licence"]


def test_the_teacher_that_the_recipe_documents_sees_pixels_as_mae_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control is timm's default for the name, which is another mean."""
    monkeypatch.chdir(tmp_path)
    said = re.search(r"`--set (objective\.teacher)=(timm:(\S+)@(\S+))`", dmae_tiny_400e.__doc__ or "")
    assert said is not None
    key, source, name, file = said.groups()
    network = blank_network(name)
    tensors = {n: torch.zeros(()).expand(t.shape) for n, t in network.state_dict().items() if not n.startswith("head.")}
    torch.save({"model": tensors | {"pos_embed": sincos_2d(768, grid=14)}}, file)
    recipe = with_overrides(dmae_tiny_400e(), {key: source})
    objective = recipe.objective.build(Encoder(recipe.encoder), num_classes=0, seed=0)
    assert isinstance(objective, AttentionDistillation)
    teacher = objective.teacher.network
    assert (teacher.config.heads, teacher.normalisation) == (12, IMAGENET)
    assert objective.teacher_facts["licence"] == "CC-BY-NC-4.0"
    assert network.pretrained_cfg["mean"] != IMAGENET[0]


def test_a_tag_that_timm_has_not_is_refused_for_a_classifier_too(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"no weights 'resnet18\.a9_in1k'.*Did you mean resnet18\.a\d_in1k"):
        load_classifier_teacher(f"timm:resnet18.a9_in1k@{tmp_path / 'w.pth'}", num_classes=4, image_size=32)


def test_an_untrained_teacher_has_the_shape_of_its_name_and_the_patches_of_the_student() -> None:
    teacher = load_encoder_teacher("untrained:vit_tiny_patch16_224", like=SMALL)
    config = teacher.encoder.config
    assert (config.width, config.depth, config.heads) == (192, 12, 3)
    assert (config.image_size, config.patch_size) == (32, 8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "needs a teacher"),
        ("no/such/run", "no file or folder no/such/run"),
        ("untrained", "no file or folder untrained"),
        ("untrained:resnet18", "untrained:resnet18 is a ConvNet.*match its attention"),
        ("untrained:vit_tinny", "no model 'vit_tinny'"),
        ("timm:vit_tiny_patch16_224", "does not name a file"),
    ],
)
def test_a_wrong_name_is_never_random_weights(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_encoder_teacher(source, like=SMALL)


def test_features_may_be_a_convnets_from_a_file_of_timm_or_untrained(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=4)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    source = f"timm:resnet10t.c3_in1k@{tmp_path / 'w.safetensors'}"
    encoder = load_feature_teacher(source, like=SMALL).encoder.eval()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    with torch.no_grad():
        theirs = model.eval().forward_head(model.forward_features((images / 255 - mean) / std), pre_logits=True)
        torch.testing.assert_close(encoder.pooled(images, "mean"), theirs, rtol=1e-4, atol=1e-5)
    random = load_feature_teacher("untrained:resnet10t", like=SMALL).encoder
    assert (random.config.kind, random.config.image_size, random.width) == ("convnet", 32, encoder.width)
    assert load_feature_teacher("untrained:vit_tiny_patch16_224", like=SMALL).encoder.width == 192
    with pytest.raises(UsageError, match="is a ConvNet"):
        load_encoder_teacher(source, like=SMALL)
    with pytest.raises(CheckpointError, match="differ"):
        load_feature_teacher(source.replace("resnet10t", "resnet14t"), like=SMALL)
    with pytest.raises(UsageError, match="swin_tiny_patch4_window7_224 is neither a plain ViT nor a ConvNet"):
        load_feature_teacher("untrained:swin_tiny_patch4_window7_224", like=SMALL.changed(image_size=224))


def test_a_classifier_comes_from_a_folder_of_timms_format(folder: Path) -> None:
    teacher = load_classifier_teacher(str(folder), num_classes=3, image_size=32)
    assert teacher.network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert teacher.normalisation == IMAGENET


def test_a_classifier_of_other_classes_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="knows 3 classes and the data has 5"):
        load_classifier_teacher(str(folder), num_classes=5, image_size=32)


def test_a_classifiers_file_must_be_the_network_it_is_called(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=4)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    source = f"timm:resnet10t@{tmp_path / 'w.safetensors'}"
    teacher = load_classifier_teacher(source, num_classes=4, image_size=32)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(teacher.network.eval()(image), model.eval()(image))
    assert teacher.classes == ()
    with pytest.raises(CheckpointError, match="something else than it is called"):
        load_classifier_teacher(source.replace("resnet10t", "resnet14t"), num_classes=4, image_size=32)
    with pytest.raises(CheckpointError, match=r"2 tensors of \d+ differ: fc\.bias"):
        load_classifier_teacher(source, num_classes=5, image_size=32)


def test_a_classifier_folder_of_ours_is_verified_and_keeps_its_licences(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    teacher = load_classifier_teacher(str(folder), num_classes=3, image_size=32)
    assert teacher.facts["licence"] == FACTS["licence"]
    assert teacher.facts["sha256"] == hashlib.sha256(whole).hexdigest()
    assert teacher.classes == ("a", "b", "c")
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for content in (bytes(flipped), whole[:-50]):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(CheckpointError, match="missing or damaged"):
            load_classifier_teacher(str(folder), num_classes=3, image_size=32)


def test_what_a_classifiers_start_forbids_reaches_its_student(tmp_path: Path) -> None:
    init = {"source": {"kind": "MAE", "file": "mae.pth"}, "licence": NON_COMMERCIAL}
    write_model(
        tmp_path / "m", encoder=Encoder(SMALL, seed=4), evaluation=VIEW, facts={"init": init},
        classifier=Classifier(24, num_classes=3, pool="class", seed=0), classes=("a", "b", "c"),
    )  # fmt: skip
    teacher = load_classifier_teacher(str(tmp_path / "m"), num_classes=3, image_size=32)
    assert is_non_commercial(licence_chain({"teacher": teacher.facts}))


def in_timms_format(folder: Path, *, licence: str | None = None) -> Path:
    """A classifier of four classes as timm itself writes it, which knows nothing of vitlet."""
    model, names = timm.create_model("resnet10t", num_classes=4), ["a", "b", "c", "d"]
    save_for_hf(model, folder, model_config={"label_names": names}, safe_serialization=True)
    config = json.loads((folder / CONFIG).read_text())
    config["pretrained_cfg"]["license"] = licence
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", None])
def test_a_classifier_folder_of_others_is_hashed_and_says_its_own_licence(licence: str | None, tmp_path: Path) -> None:
    folder = in_timms_format(tmp_path / "theirs", licence=licence)
    whole = (folder / WEIGHTS).read_bytes()
    teacher = load_classifier_teacher(str(folder), num_classes=4, image_size=32)
    assert teacher.facts["licence"] == (licence or "not known")
    assert is_non_commercial(licence_chain({"teacher": teacher.facts})) == bool(licence)
    assert teacher.facts["sha256"] == hashlib.sha256(whole).hexdigest()
    assert teacher.classes == ("a", "b", "c", "d")
    (folder / WEIGHTS).write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_classifier_teacher(str(folder), num_classes=4, image_size=32)
    (folder / WEIGHTS).write_bytes(whole)
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace("resnet10t", "resnet14t"))
    with pytest.raises(CheckpointError, match="is no model that timm opens"):
        load_classifier_teacher(str(folder), num_classes=4, image_size=32)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no weights in"):
        load_classifier_teacher(str(folder), num_classes=4, image_size=32)


def test_the_licence_of_timms_weights_needs_their_name(tmp_path: Path) -> None:
    """An architecture alone may be anybody's weights, and random ones are nobody's."""
    model = timm.create_model("resnet10t", num_classes=4)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    sources = {
        f"timm:resnet10t.c3_in1k@{tmp_path / 'w.safetensors'}": model.pretrained_cfg["license"],
        f"timm:resnet10t@{tmp_path / 'w.safetensors'}": "not known",
        "untrained:resnet10t": "none, as its weights are random",
    }
    for source, licence in sources.items():
        assert load_classifier_teacher(source, num_classes=4, image_size=32).facts["licence"] == licence
    random = load_encoder_teacher("untrained:vit_tiny_patch16_224", like=SMALL)
    assert random.facts["licence"] == "none, as its weights are random"
    assert model.pretrained_cfg["license"]


def test_a_classifier_for_other_images_is_refused(folder: Path) -> None:
    """The controls are its own size, and a ConvNet, which takes many."""
    assert load_classifier_teacher(str(folder), num_classes=3, image_size=32)
    assert load_classifier_teacher("untrained:resnet10t", num_classes=3, image_size=48)
    with pytest.raises(UsageError, match=r"takes no images of 48 px.*Fix: a teacher for images of 48 px"):
        load_classifier_teacher(str(folder), num_classes=3, image_size=48)


def test_an_encoder_is_no_classifier(tmp_path: Path) -> None:
    write_model(tmp_path / "m", encoder=Encoder(SMALL, seed=4), evaluation=VIEW, facts=FACTS)
    with pytest.raises(UsageError, match=r"has no classifier.*Fix: a fine-tuning run"):
        load_classifier_teacher(str(tmp_path / "m"), num_classes=3, image_size=32)


@pytest.mark.parametrize(
    ("taught", "message"),
    [
        (("b", "a", "c"), "has the classes in another order. .*class 0 is b there and a in the data"),
        (("a", "b", "d"), "has other classes than the data. .*class 2 is d there and c in the data"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(taught: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_same_classes(taught, ("a", "b", "c"), source="big")


def test_an_order_that_nobody_can_check_is_said() -> None:
    """The controls are the same names, and random weights."""
    for taught in ((), ("0", "1", "2")):
        note = require_same_classes(taught, ("a", "b", "c"), source="big")
        assert note.startswith("teacher big does not name its classes")
    assert require_same_classes(("a", "b", "c"), ("a", "b", "c"), source="big") == ""
    assert require_same_classes((), ("a", "b", "c"), source="untrained:resnet10t") == ""
