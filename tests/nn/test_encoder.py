"""The encoder: size, equality with timm, subsets, traces, stochastic depth, seeds."""

from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitlet.errors import UsageError
from vitlet.nn.encoder import POINTS, Encoder, run_block
from vitlet.nn.heads import Classifier
from vitlet.nn.posembed import resize
from vitlet.normalisation import Normalisation
from vitlet.recipe import EncoderConfig

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=3, heads=4)


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _images(count: int = 2, size: int = 32) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=draw)


def _stirred(config: EncoderConfig) -> Encoder:
    """An encoder in which no bias is zero and no norm is one, so that a forgotten one shows."""
    encoder, draw = Encoder(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return encoder


def _timm(encoder: Encoder, **options: Any) -> VisionTransformer:
    c = encoder.config
    model = VisionTransformer(
        img_size=c.image_size,
        patch_size=c.patch_size,
        embed_dim=c.width,
        depth=c.depth,
        num_heads=c.heads,
        num_classes=0,
        global_pool="token",
        **options,
    )
    model.load_state_dict(encoder.vit.state_dict())
    return model


def _normalised(encoder: Encoder, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(x)[:, None, None] for x in encoder.normalisation)
    return (images / 255 - mean) / std


@pytest.mark.parametrize("heads", [3, 12])
def test_vit_tiny_has_the_papers_parameters_with_any_number_of_heads(heads: int) -> None:
    encoder = Encoder(EncoderConfig(heads=heads))
    assert _parameters(encoder) == 5_524_416
    with_head = Encoder(EncoderConfig(heads=heads, final_norm=False))
    classifier = Classifier(192, num_classes=1000, pool="mean", seed=0)
    assert _parameters(with_head) + _parameters(classifier) == 5_717_416


@pytest.mark.parametrize("heads", [2, 4])
def test_timm_computes_the_same_from_the_same_tensors(heads: int) -> None:
    encoder = _stirred(SMALL.changed(heads=heads))
    images = _images()
    theirs = _timm(encoder).forward_features(_normalised(encoder, images))
    torch.testing.assert_close(encoder(images), theirs, rtol=1e-5, atol=1e-5)
    other = _timm(Encoder(SMALL.changed(heads=6 - heads)))
    other.load_state_dict(encoder.vit.state_dict())
    wrong_heads = other.forward_features(_normalised(encoder, images))
    assert (encoder(images) - wrong_heads).abs().max() > 1e-2


def test_timm_without_a_final_norm() -> None:
    encoder = _stirred(SMALL.changed(final_norm=False))
    theirs = _timm(encoder, final_norm=False).forward_features(_normalised(encoder, _images()))
    torch.testing.assert_close(encoder(_images()), theirs, rtol=1e-5, atol=1e-5)


def test_pixels_are_row_major_patches_channel_last_and_to_images_is_their_inverse() -> None:
    encoder = Encoder(SMALL, normalisation=Normalisation((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)))
    images = _images()
    pixels = encoder.normalised_patches(images)
    normal = _normalised(encoder, images)
    for patch in range(16):
        row, column = divmod(patch, 4)
        tile = normal[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        torch.testing.assert_close(pixels[:, patch], tile.permute(0, 2, 3, 1).flatten(1), rtol=1e-5, atol=1e-5)
    assert torch.equal(encoder.to_images(pixels), images.permute(0, 2, 3, 1))
    torch.testing.assert_close(encoder.normalised_patches(images.float()), pixels)


def test_images_that_do_not_divide_into_patches_are_refused_with_a_key_that_helps() -> None:
    with pytest.raises(UsageError, match=r"36×36 .* 8×8 patches.*views of 32 pixels.*data\.views"):
        Encoder(SMALL).normalised_patches(_images(size=36))
    with pytest.raises(UsageError, match=r"32×24 .*must be square"):
        Encoder(SMALL).normalised_patches(_images(size=32)[:, :, :24])


@pytest.mark.parametrize("size", [16, 40])
def test_images_of_another_size_are_encoded_with_resized_positions(size: int) -> None:
    encoder = Encoder(SMALL).eval()
    images = _images(size=size)
    other = Encoder(SMALL.changed(image_size=size)).eval()
    tensors = encoder.vit.state_dict()
    other.vit.load_state_dict(tensors | {"pos_embed": resize(tensors["pos_embed"], grid=size // 8)})
    tokens = encoder(images)
    assert tokens.shape == (2, (size // 8) ** 2 + 1, 24)
    torch.testing.assert_close(tokens, other(images))
    assert torch.equal(encoder.to_images(encoder.normalised_patches(images)), images.permute(0, 2, 3, 1))


def test_positions_learn_from_images_of_another_size() -> None:
    encoder = Encoder(SMALL)
    encoder(_images(size=16)).square().sum().backward()
    assert encoder.vit.pos_embed is not None
    assert encoder.vit.pos_embed.grad is not None
    assert bool((encoder.vit.pos_embed.grad != 0).any(dim=-1).all())


def test_a_subset_of_patches_is_a_naive_pass_over_that_subset() -> None:
    encoder = _stirred(SMALL)
    patches = encoder.embed(_images())
    keep = torch.tensor([[3, 0, 9], [15, 2, 7]])
    kept = torch.stack([patches[b, keep[b]] for b in range(2)])
    tokens = encoder.encode(kept, keep).tokens
    position, start = encoder.vit.pos_embed, encoder.vit.cls_token
    assert position is not None
    assert start is not None
    for b in range(2):
        x = torch.cat([start[0] + position[0, :1], kept[b] + position[0, 1 + keep[b]]])[None]
        for block in encoder.blocks:
            x = x + block.attn(block.norm1(x))
            x = x + block.mlp(block.norm2(x))
        torch.testing.assert_close(tokens[b], encoder.vit.norm(x)[0], rtol=1e-5, atol=1e-5)


def test_keeping_all_patches_in_order_is_keeping_none_away() -> None:
    encoder = _stirred(SMALL)
    patches = encoder.embed(_images())
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(encoder.encode(patches, everything).tokens, encoder.encode(patches).tokens)


def _naive_trace(encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    position, start = encoder.vit.pos_embed, encoder.vit.cls_token
    assert position is not None
    assert start is not None
    x = torch.cat([start.expand(len(images), -1, -1), encoder.embed(images)], dim=1) + position
    seen["embedded"] = x
    for i, block in enumerate(encoder.blocks):
        values = {"norm1": block.norm1(x)}
        batch, tokens, width = x.shape
        q, k, _ = block.attn.qkv(values["norm1"]).view(batch, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        values["attention_logits"] = torch.einsum("bate,base->bats", q, k) / (width // 4) ** 0.5
        values["attention"] = block.attn(values["norm1"])
        x = x + values["attention"]
        values["norm2"] = block.norm2(x)
        values["mlp"] = block.mlp(values["norm2"])
        x = x + values["mlp"]
        values["output"] = x
        seen |= {f"block.{i}.{point}": value for point, value in values.items()}
    return seen


def test_traces_are_complete_and_equal_a_naive_recomputation() -> None:
    encoder, images = _stirred(SMALL), _images()
    names = ["embedded", *(f"block.{i}.{point}" for i in range(3) for point in POINTS)]
    encoded = encoder.encode(encoder.embed(images), trace=names)
    naive = _naive_trace(encoder, images)
    assert list(encoded.traced) == names == list(naive)
    for name in names:
        torch.testing.assert_close(encoded.traced[name], naive[name], rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(encoded.tokens, encoder(images))


def test_nothing_is_kept_that_was_not_asked_for() -> None:
    encoder = Encoder(SMALL)
    assert encoder.encode(encoder.embed(_images())).traced == {}
    assert list(encoder.encode(encoder.embed(_images()), trace=["block.1.mlp"]).traced) == ["block.1.mlp"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("block.1.nrom1", "block.1.norm1"), ("blok.2.mlp", "block.2.mlp"), ("block.0.atention", "block.0.attention")],
)
def test_an_unknown_intermediate_is_refused_with_the_nearest(wrong: str, right: str) -> None:
    encoder = Encoder(SMALL)
    with pytest.raises(UsageError, match=rf"{wrong}.*Did you mean {right}"):
        encoder.encode(encoder.embed(_images()), trace=[wrong])


def test_a_block_beyond_the_last_is_refused() -> None:
    encoder = Encoder(SMALL)
    with pytest.raises(UsageError, match=r"block\.3\.mlp"):
        encoder.encode(encoder.embed(_images()), trace=["block.3.mlp"])


def test_survival_drops_whole_branches_and_scales_those_that_stay() -> None:
    encoder = _stirred(SMALL)
    block, x = encoder.blocks[0], torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    survival = torch.tensor([[0.0, 2.0], [0.0, 0.0]])[:, :, None, None]
    out = run_block(block, x, survival=survival)
    torch.testing.assert_close(out[0], x[0])
    torch.testing.assert_close(out[1], (x + 2 * block.attn(block.norm1(x)))[1])


def test_survival_does_not_depend_on_how_the_batch_is_cut() -> None:
    encoder = Encoder(SMALL.changed(drop_path=0.5))

    def table(slots: list[int]) -> Tensor:
        made = encoder.survival(key=7, slots=torch.tensor(slots))
        assert made is not None
        return made

    whole = table(list(range(8)))
    assert torch.equal(whole, torch.cat([table([0, 1, 2, 3]), table([4, 5, 6, 7])], dim=1))
    assert torch.equal(whole[:, [6, 1]], table([6, 1]))


def test_survival_rates_grow_linearly_and_the_expectation_is_one() -> None:
    encoder = Encoder(SMALL.changed(drop_path=0.4, depth=5))
    table = encoder.survival(key=1, slots=torch.arange(20_000))
    assert table is not None
    rates = np.repeat([0.0, 0.1, 0.2, 0.3, 0.4], 2)
    # Standard deviation of a rate of 0.4 over 20,000 samples: 0.0035.
    np.testing.assert_allclose((table == 0).float().mean(dim=1), rates, atol=5 * 0.0035)
    np.testing.assert_allclose(table.mean(dim=1), 1, atol=0.03)
    np.testing.assert_allclose(table.amax(dim=1), 1 / (1 - rates), rtol=1e-6)
    assert Encoder(SMALL).survival(key=1, slots=torch.arange(2)) is None


def test_survival_is_on_the_device_of_the_encoder() -> None:
    found = Encoder(SMALL.changed(drop_path=0.5)).to("meta").survival(key=7, slots=torch.arange(6))
    assert found is not None
    assert found.device.type == "meta"


@pytest.mark.parametrize("init", ["timm", "xavier"])
def test_weights_come_from_the_seed_and_never_from_the_global_generator(init: str) -> None:
    config = SMALL.changed(init=init, position="sincos" if init == "xavier" else "learned")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        one = Encoder(config, seed=4).state_dict()
        torch.manual_seed(2)
        state = torch.get_rng_state()
        same, other = Encoder(config, seed=4).state_dict(), Encoder(config, seed=5).state_dict()
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["vit.blocks.0.attn.qkv.weight"], other["vit.blocks.0.attn.qkv.weight"])


def test_sincos_positions_are_not_trained_and_learned_ones_are() -> None:
    assert Encoder(SMALL).vit.pos_embed.requires_grad
    assert not Encoder(SMALL.changed(position="sincos")).vit.pos_embed.requires_grad


def test_statistics_of_the_pixels_are_not_among_the_saved_tensors() -> None:
    assert set(Encoder(SMALL).vit.state_dict()) == set(_timm(Encoder(SMALL)).state_dict())
    assert all(name.startswith("vit.") for name in Encoder(SMALL).state_dict())
