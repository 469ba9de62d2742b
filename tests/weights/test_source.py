import os
from pathlib import Path

import pytest
import timm
import torch

from vitlet.errors import CheckpointError, UsageError
from vitlet.jobs.importing import import_weights
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.weights.folder import write_model
from vitlet.weights.names import Source
from vitlet.weights.source import evaluation_view, load_encoder

SHAPE = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3)


def test_a_folder_a_timm_file_and_an_import_give_the_same_encoder(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4, depth=12)
    file = tmp_path / "model.pth"
    torch.save(model.state_dict(), file)
    by_name = load_encoder(f"timm:vit_tiny_patch16_224@{file}")
    assert by_name.encoder.config.heads == 3
    assert by_name.encoder.mean == (0.5, 0.5, 0.5)  # type: ignore[comparison-overlap]
    assert by_name.classes == ("0", "1", "2", "3")
    folder = import_weights(file, out=tmp_path / "out", heads=3, pixels="half")
    imported = load_encoder(folder)
    images = torch.randint(0, 256, (2, 3, 32, 32)).to(torch.uint8)
    with torch.inference_mode():
        assert torch.equal(
            imported.encoder.eval().pooled(images, "mean"), by_name.encoder.eval().pooled(images, "mean")
        )
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(images / 127.5 - 1), model.eval()(images / 127.5 - 1), rtol=1e-5, atol=1e-5)
    assert imported.facts["source"]["kind"] == "ViT with timm's names"


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
    with pytest.raises(CheckpointError, match="is not vit_tiny_patch16_224"):
        load_encoder(f"timm:vit_tiny_patch16_224@{file}")
    with pytest.raises(UsageError, match="Did you mean vit_tiny_patch16_224"):
        load_encoder(f"timm:vit_tiny_patch16_244@{file}")
    with pytest.raises(CheckpointError, match=r"model\.pth as resnet18 does not fit this network"):
        load_encoder(f"timm:resnet18@{file}")
    with pytest.raises(CheckpointError, match="no finished encoder"):
        load_encoder(tmp_path)


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
    images = torch.randint(0, 256, (2, 3, 32, 32)).to(torch.uint8)
    read = load_encoder(tmp_path / "model").encoder.eval()
    other = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    with torch.inference_mode():
        ours = encoder.pooled(images, "mean")
        assert torch.equal(read.pooled(images, "mean"), ours)
        torch.testing.assert_close(other((images / 255 - mean) / std), ours, rtol=1e-5, atol=1e-5)
