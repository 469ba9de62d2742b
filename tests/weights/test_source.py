import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitlet.errors import CheckpointError, UsageError
from vitlet.jobs.importing import import_weights
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.nn.posembed import sincos_2d
from vitlet.normalisation import HALF, IMAGENET
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.weights.files import own_config
from vitlet.weights.folder import write_model
from vitlet.weights.names import CONFIG, WEIGHTS, Source
from vitlet.weights.source import blank_network, evaluation_view, load_encoder
from vitlet.weights.teacher import load_classifier_teacher, load_feature_teacher

SHAPE = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3)


def noise() -> Tensor:
    """Two images."""
    return torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_a_folder_a_timm_file_and_an_import_give_the_same_encoder(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4, depth=12)
    file = tmp_path / "model.pth"
    torch.save(model.state_dict(), file)
    by_name = load_encoder(f"timm:vit_tiny_patch16_224@{file}")
    assert by_name.encoder.config.heads == 3
    assert by_name.encoder.normalisation.mean == (0.5, 0.5, 0.5)  # type: ignore[comparison-overlap]
    assert by_name.classes == ("0", "1", "2", "3")
    folder = import_weights(file, out=tmp_path / "out", heads=3, pixels="half")
    imported = load_encoder(folder)
    images = noise()
    with torch.inference_mode():
        assert torch.equal(
            imported.encoder.eval().pooled(images, "mean"), by_name.encoder.eval().pooled(images, "mean")
        )
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(images / 127.5 - 1), model.eval()(images / 127.5 - 1), rtol=1e-5, atol=1e-5)
    assert imported.facts["source"]["kind"] == "ViT with timm's names"


def hollow(name: str) -> dict[str, Tensor]:
    """Zeros of the shapes of timm's network, in a file of a few kilobytes."""
    return {n: torch.zeros(()).expand(t.shape) for n, t in blank_network(name).state_dict().items()}


def test_a_known_project_overrules_what_timm_says_of_the_name(tmp_path: Path) -> None:
    """The controls: positions that are no project's, and a config beside the file, which overrules both."""
    tensors, file = hollow("vit_tiny_patch16_224"), tmp_path / "file.pth"
    as_mae = tensors | {"pos_embed": sincos_2d(192, grid=14)}
    for content, mean in ((tensors, HALF[0]), (as_mae, IMAGENET[0])):
        torch.save({"model": content}, file)
        found = load_encoder(f"timm:vit_tiny_patch16_224@{file}")
        assert isinstance(found.encoder, Encoder)
        assert (found.encoder.normalisation.mean, found.encoder.config.heads) == (mean, 3)
    assert found.facts["source"]["kind"] == "MAE"
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}}')
    assert load_encoder(f"timm:vit_tiny_patch16_224@{file}").encoder.normalisation.mean == (0.1, 0.2, 0.3)


def test_a_tag_tells_how_pixels_were_normalised(tmp_path: Path) -> None:
    file = tmp_path / "file.pth"
    torch.save(hollow("vit_small_patch16_224"), file)
    for tag, mean in (("", HALF[0]), (".augreg_in1k", HALF[0]), (".dino", IMAGENET[0])):
        assert load_encoder(f"timm:vit_small_patch16_224{tag}@{file}").encoder.normalisation.mean == mean
    with pytest.raises(UsageError, match=r"no weights 'vit_small_patch16_224\.dyno'.*Did you mean .*\.dino"):
        load_encoder(f"timm:vit_small_patch16_224.dyno@{file}")


def test_a_known_number_of_heads_that_is_not_the_names_is_refused(tmp_path: Path) -> None:
    """The control is the same network under names that are not the project's."""
    tensors, file = hollow("vit_tiny_patch16_224"), tmp_path / "file.pth"
    torch.save({"model": {f"model.{n}": t for n, t in tensors.items()}, "start_epoch": 400}, file)
    source = f"timm:vit_tiny_patch16_224@{file}"
    with pytest.raises(UsageError, match=r"which has 3 heads.*MAE-Lite of width 192 has 12 heads.*Fix: vitlet import"):
        load_encoder(source)
    assert load_encoder(import_weights(file, out=tmp_path / "out")).encoder.config.heads == 12  # type: ignore[union-attr]
    torch.save({"model": tensors}, file)
    assert load_encoder(source).encoder.config.heads == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("norm.", r"2 tensors of 149 differ: norm\.bias: missing there"),
        ("qkv.bias", r"12 tensors of 149 differ: blocks\.0\.attn\.qkv\.bias: missing there"),
        ("blocks.11.", r"Patch size, width and depth are 16, 192, 11 there and 16, 192, 12 in timm"),
        ("LayerScale", r"1 tensor of 150 differs: blocks\.0\.ls1\.gamma: \(192,\) there, missing here"),
    ],
)
def test_a_file_has_the_tensors_of_the_network_that_it_is_called(change: str, message: str, tmp_path: Path) -> None:
    file, whole = tmp_path / "file.pth", hollow("vit_tiny_patch16_224")
    tensors = {n: t for n, t in whole.items() if not (n.startswith(change) or n.endswith(change))}
    if change == "LayerScale":
        tensors["blocks.0.ls1.gamma"] = torch.ones(192)
    torch.save(tensors, file)
    with pytest.raises(CheckpointError, match=rf"file\.pth is not vit_tiny_patch16_224\. {message}.*vitlet import"):
        load_encoder(f"timm:vit_tiny_patch16_224@{file}")


def test_the_norm_of_a_named_network_may_stand_behind_the_pooling(tmp_path: Path) -> None:
    """As after fine-tuning, whatever the classes; and positions may be of another grid."""
    model = timm.create_model("vit_tiny_patch16_224", global_pool="avg", num_classes=3, img_size=32)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    found = load_encoder(f"timm:vit_tiny_patch16_224@{tmp_path / 'file.pth'}")
    assert isinstance(found.classifier, Classifier)
    assert (found.classifier.pool, found.encoder.config.image_size) == ("mean", 32)


@pytest.mark.parametrize("final_norm", [True, False])
def test_whether_there_is_a_final_norm_is_told_alike_by_a_folder_and_by_a_file(
    final_norm: bool, tmp_path: Path
) -> None:
    model = timm.create_model("vit_tiny_patch16_224", global_pool="token" if final_norm else "avg", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    folder = import_weights(tmp_path / "file.pth", out=tmp_path / "out", heads=3)
    for source in (f"timm:vit_tiny_patch16_224@{tmp_path / 'file.pth'}", folder):
        assert load_encoder(source).encoder.config.final_norm == final_norm


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_xp_224", "another kind, ParallelScalingBlock"), ("vit_small_patch16_18x2_224", "Things"),
        ("vit_base_patch16_rpn_224", "ResPostBlock"), ("vit_small_patch14_reg4_dinov2", "It has register tokens"),
        ("deit_tiny_distilled_patch16_224", "second class token"), ("vit_base_patch16_siglip_224", "attention pooling"),
        ("vit_base_patch16_gap_224", "no class token"), ("vit_base_patch16_clip_224", "norm before the first block"),
        ("vit_base_patch16_clip_quickgelu_224", "not the exact GELU"), ("vit_tiny_r_s16_p8_224", "HybridEmbed"),
        ("test_vit4", "norms are of another kind"),
    ],
)  # fmt: skip
def test_what_is_no_plain_vit_is_refused_by_its_name(name: str, reason: str, tmp_path: Path) -> None:
    torch.save(hollow(name), tmp_path / "file.pth")
    for load in (lambda: load_encoder(f"timm:{name}@{tmp_path / 'file.pth'}"), lambda: untrained(name)):
        with pytest.raises(UsageError, match=rf"^{name} is not a plain ViT\. .*{reason}"):
            load()


def test_an_untrained_network_has_no_layer_scale_and_one_in_a_file_may(tmp_path: Path) -> None:
    name = "deit3_small_patch16_224"
    torch.save(hollow(name), tmp_path / "file.pth")
    assert load_encoder(f"timm:{name}@{tmp_path / 'file.pth'}").encoder.config.depth == 12  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"deit3_small_patch16_224 is not a plain ViT\. It has LayerScale"):
        untrained(name)


def untrained(name: str) -> object:
    return load_feature_teacher(f"untrained:{name}", like=SHAPE)


@pytest.mark.parametrize("text", ["nowhere", "timm:vit_tiny_patch16_224@nowhere.pth"])
def test_a_path_that_leads_nowhere_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="no file or folder nowhere"):
        load_encoder(text)


@pytest.mark.parametrize("text", ["timm:vit_tiny_patch16_224", "timm:@x", "timm:name@"])
def test_nothing_is_downloaded(text: str) -> None:
    with pytest.raises(UsageError, match="does not name a file"):
        Source.parse(text)


def test_what_a_file_is_must_be_said_and_be_true(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save(Encoder(SHAPE).vit.state_dict(), file)
    with pytest.raises(UsageError, match="vitlet import"):
        load_encoder(file)
    named = file.rename(tmp_path / "My model.pth")
    with pytest.raises(UsageError, match=r"vitlet import '.*My model\.pth' --out DIR.*'timm:NAME@.*My model\.pth'$"):
        load_encoder(named)
    named.rename(file)
    with pytest.raises(CheckpointError, match="is not vit_tiny_patch16_224"):
        load_encoder(f"timm:vit_tiny_patch16_224@{file}")
    with pytest.raises(UsageError, match="Did you mean vit_tiny_patch16_224"):
        load_encoder(f"timm:vit_tiny_patch16_244@{file}")
    with pytest.raises(CheckpointError, match=r"model\.pth as resnet18 does not fit this network"):
        load_encoder(f"timm:resnet18@{file}")
    with pytest.raises(CheckpointError, match="no finished encoder"):
        load_encoder(tmp_path)


def test_whose_a_config_is_has_one_answer_for_every_reader(tmp_path: Path) -> None:
    """Nobody can tell whose a damaged one is: a model of ours must not pass for one of others, without its licence."""
    save_file({"x": torch.ones(1)}, tmp_path / WEIGHTS)
    readers = (
        lambda: Source.parse(tmp_path / WEIGHTS),
        lambda: load_classifier_teacher(str(tmp_path), num_classes=3, image_size=32),
        lambda: own_config(tmp_path),
    )
    (tmp_path / CONFIG).write_text('{"vitlet": ')
    for read in readers:
        with pytest.raises(CheckpointError, match=r"config\.json is not JSON.*or move it away"):
            read()
    for theirs in ("[]", "{}", '["vitlet"]', '{"vitlet": 1}'):
        (tmp_path / CONFIG).write_text(theirs)
        assert Source.parse(tmp_path / WEIGHTS).path == tmp_path / WEIGHTS, "a file of others, not a folder of ours"
        for read, said in zip(readers[1:], ("is no model that timm opens", "was not written by vitlet"), strict=True):
            with pytest.raises(CheckpointError, match=said):
                read()


def test_names_are_kept_whole_when_they_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a@b.pth").touch()
    monkeypatch.chdir(tmp_path)
    named = Source.parse("timm:vit@a@b.pth").absolute()
    assert str(named) == f"timm:vit@{tmp_path}/a@b.pth"
    assert str(named.relative()) == "timm:vit@a@b.pth"
    assert Source.parse(str(named)) == named
    assert str(Source.parse(os.curdir)) == "."


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    file, folder = tmp_path / "model.pth", tmp_path / "photos"
    torch.save(Encoder(SHAPE).vit.state_dict(), file)
    folder.mkdir()
    (folder / "me.jpg").touch()
    with pytest.raises(UsageError, match="not a model folder"):
        import_weights(file, out=folder, heads=3)
    assert (folder / "me.jpg").exists()
    import_weights(file, out=tmp_path / "new", heads=3)
    import_weights(file, out=tmp_path / "new", heads=2)
    encoder = load_encoder(tmp_path / "new").encoder
    assert isinstance(encoder, Encoder)
    assert encoder.config.heads == 2


def test_a_convnet_goes_through_a_folder_that_timm_opens(tmp_path: Path) -> None:
    encoder = ConvEncoder(
        ConvNetConfig(architecture="test_efficientnet", image_size=32, output_stride=8), seed=3
    ).eval()
    write_model(tmp_path / "model", encoder=encoder, evaluation=evaluation_view(32), facts={})
    images = noise()
    read = load_encoder(tmp_path / "model").encoder.eval()
    other = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    with torch.inference_mode():
        ours = encoder.pooled(images, "mean")
        assert torch.equal(read.pooled(images, "mean"), ours)
        torch.testing.assert_close(other((images / 255 - mean) / std), ours, rtol=1e-5, atol=1e-5)
