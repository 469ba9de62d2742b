"""Relative positions in files: timm opens them, and a plain encoder becomes one as the paper's code does it."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from vitlet.augmentation import Centre, View
from vitlet.errors import UsageError
from vitlet.nn.attention import Attention
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.recipe import EncoderConfig
from vitlet.weights.folder import initialised_from, read_model, write_model

PLAIN = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3)
RELATIVE = PLAIN.changed(relative_position=True)
VIEW = View(size=32, crop=Centre(), flip=0)


def _encoder(config: EncoderConfig) -> Encoder:
    encoder, draw = Encoder(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
    return encoder


def _images() -> Tensor:
    return torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pool", ["mean", "class"])
@torch.no_grad()
def test_timm_opens_a_classifier_and_gives_the_same_scores(tmp_path: Path, pool: str) -> None:
    encoder = _encoder(RELATIVE.changed(final_norm=pool == "class"))
    classifier = Classifier(24, num_classes=3, pool=pool, seed=0)
    write_model(
        tmp_path / "m", encoder=encoder, evaluation=VIEW, facts={}, classifier=classifier, classes=("a", "b", "c")
    )
    model = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    scaled = (_images() / 255 - mean) / std
    ours = classifier(encoder.encode(encoder.embed(_images())))
    torch.testing.assert_close(model(scaled), ours, rtol=1e-4, atol=1e-5)
    again = read_model(tmp_path / "m")
    torch.testing.assert_close(again.encoder(_images()), encoder(_images()), rtol=0, atol=0)


def test_a_form_that_timm_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"without a final norm and without a classifier.*encoder\.final_norm=true"):
        write_model(tmp_path / "m", encoder=_encoder(RELATIVE.changed(final_norm=False)), evaluation=VIEW, facts={})


@pytest.mark.parametrize("inherit", [False, True])
def test_a_plain_encoder_becomes_a_relative_one_and_loses_its_biases_unless_asked(inherit: bool) -> None:
    source = _encoder(PLAIN)
    made = initialised_from(source, RELATIVE.changed(inherit_qkv_bias=inherit), seed=3)
    for block, plain in zip(made.blocks, source.blocks, strict=True):
        attention, other = block.attn, plain.attn
        assert isinstance(attention, Attention)
        assert isinstance(other, Attention)
        torch.testing.assert_close(attention.qkv.weight, other.qkv.weight, rtol=0, atol=0)
        torch.testing.assert_close(block.mlp.fc2.weight, plain.mlp.fc2.weight, rtol=0, atol=0)
        q, _, v = other.qkv.bias.chunk(3)
        for found, expected in ((attention.q_bias, q), (attention.v_bias, v)):
            torch.testing.assert_close(found, expected if inherit else torch.zeros_like(expected), rtol=0, atol=0)


@torch.no_grad()
def test_inherited_biases_are_all_that_plain_attention_needs() -> None:
    """With LayerScale at one nothing differs from the plain encoder: a key bias cancels in the softmax."""
    source = _encoder(PLAIN)
    made = initialised_from(source, RELATIVE.changed(inherit_qkv_bias=True), seed=3)
    for block in made.blocks:
        block.ls1.gamma.fill_(1)
        block.ls2.gamma.fill_(1)
    torch.testing.assert_close(made(_images()), source(_images()), rtol=1e-4, atol=1e-4)
    for block in made.blocks:  # the control
        block.attn.v_bias.zero_()
    assert not torch.allclose(made(_images()), source(_images()), atol=1e-2)
