import pytest
import timm
import torch

from vitlet.errors import UsageError
from vitlet.nn.convnet import ConvEncoder, require_patches
from vitlet.nn.encoder import Encoder
from vitlet.recipe import ConvNetConfig, EncoderConfig

SMALL = ConvNetConfig(architecture="test_efficientnet", image_size=32, output_stride=8)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "mobilenetv3_small_050"])
def test_features_are_those_of_timm(name: str, training: bool) -> None:
    encoder = ConvEncoder(ConvNetConfig(architecture=name, image_size=64)).train(training)
    other = timm.create_model(name, num_classes=0)
    other.load_state_dict(encoder.net.state_dict())
    images = torch.randint(0, 256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    theirs = other.train(training)((images / 255 - mean) / std)
    torch.testing.assert_close(encoder.pooled(images, "mean"), theirs, rtol=1e-3, atol=1e-3)
    assert theirs.shape[1] == encoder.width
    for ours, his in zip(encoder.net.buffers(), other.buffers(), strict=True):  # running statistics moved alike
        torch.testing.assert_close(ours, his, rtol=1e-4, atol=1e-4)


def test_the_seed_decides_the_weights() -> None:
    first, same, different = (ConvEncoder(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert not all(torch.equal(first[k], different[k]) for k in first)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_b00", "Did you mean efficientnet_b0"),
        ("test_vit", "is not a ConvNet|cannot be built"),
        ("zzz", "Known: efficientnet_b0"),
    ],
)
def test_what_is_no_convnet_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ConvEncoder(ConvNetConfig(architecture=name, image_size=32))


def test_patches_and_class_tokens_are_refused_with_the_reason() -> None:
    encoder = ConvEncoder(SMALL)
    with pytest.raises(UsageError, match="has no class token"):
        encoder.pooled(torch.zeros(1, 3, 32, 32), "class")
    with pytest.raises(UsageError, match="analysis needs a vision transformer, and test_efficientnet is a ConvNet"):
        require_patches(encoder, purpose="analysis")
    vit = Encoder(EncoderConfig(image_size=16, patch_size=8, width=24, depth=1, heads=3))
    assert require_patches(vit, purpose="analysis") is vit
