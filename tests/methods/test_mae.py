"""MAE: the paper's size, a naive second version in double precision, Hugging Face's, and pictures that do not peek."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitlet.benchmarks.reference import transformers_mae
from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.mae import MAE
from vitlet.methods.objective import Step
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=4, position="sincos", init="xavier")
STEP = Step(index=3, total=10, seed=0)


def _stirred(config: EncoderConfig = SMALL, **options: object) -> MAE:
    """A small MAE in which no bias is zero and no norm is one, so that a forgotten one shows."""
    mae, draw = MAE(Encoder(config), decoder_width=12, **options), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in mae.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return mae


def _batch(count: int = 4, size: int = 32) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=draw)
    numbers = torch.arange(count)
    return Batch((images,), torch.full((count,), -1), numbers, numbers)


def _noise(count: int = 4, patches: int = 16) -> Tensor:
    return torch.rand(count, patches, generator=torch.Generator().manual_seed(2))


def test_mae_tiny_has_the_papers_parameters_tensors_and_visible_patches() -> None:
    mae = MAE(Encoder(EncoderConfig(position="sincos", init="xavier")))
    assert sum(p.numel() for p in mae.parameters()) == 5_748_480
    assert sum(p.numel() for n, p in mae.named_parameters() if not n.startswith("encoder.")) == 224_064
    assert len(mae.state_dict()) == 170
    assert mae.kept == 49


def _naive_loss(mae: MAE, pixels: Tensor, noise: Tensor) -> Tensor:
    """The paper's order of things: all patches embedded, tokens put back in place, all predicted, a masked mean."""
    vit, shuffle = mae.encoder.vit, noise.argsort(dim=1)
    restore = shuffle.argsort(dim=1)

    def blocks(modules: torch.nn.Module, x: Tensor) -> Tensor:
        for block in modules.children():
            x = x + block.attn.forward_with_logits(block.norm1(x))[0]  # type: ignore[union-attr,operator]
            x = x + block.mlp(block.norm2(x))  # type: ignore[operator]
        return x

    x = mae.encoder.project(pixels) + vit.pos_embed[:, 1:]  # type: ignore[index]
    x = torch.stack([x[b, shuffle[b, : mae.kept]] for b in range(len(x))])
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)  # type: ignore
    x = mae.decoder_embed(vit.norm(blocks(vit.blocks, x)))
    hidden = mae.mask_token.expand(len(x), noise.shape[1] - mae.kept, -1)
    patches = torch.cat([x[:, 1:], hidden], dim=1)
    patches = torch.stack([patches[b, restore[b]] for b in range(len(x))])
    x = blocks(mae.decoder_blocks, torch.cat([x[:, :1], patches], dim=1) + mae.decoder_pos_embed)
    predicted = mae.decoder_pred(mae.decoder_norm(x))[:, 1:]
    target = pixels
    if mae.norm_pixels:
        target = (pixels - pixels.mean(-1, keepdim=True)) / (pixels.var(-1, keepdim=True) + 1e-6).sqrt()
    masked = (restore >= mae.kept).double()
    return (((predicted - target) ** 2).mean(dim=-1) * masked).sum() / masked.sum()


@pytest.mark.parametrize("norm_pixels", [True, False])
@pytest.mark.parametrize("decoder_depth", [1, 2])
def test_loss_and_gradients_equal_the_naive_version_in_double_precision(norm_pixels: bool, decoder_depth: int) -> None:
    mae = _stirred(norm_pixels=norm_pixels, decoder_depth=decoder_depth).double()
    patches = 255 * torch.rand(4, 16, 192, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    trained = [p for p in mae.parameters() if p.requires_grad]
    made = mae.reconstruct(patches, _noise())
    loss = F.mse_loss(made.predicted, made.target)
    naive = _naive_loss(mae, mae.encoder.normalise(patches), _noise())
    assert float(loss.detach()) == pytest.approx(float(naive.detach()), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, trained), torch.autograd.grad(naive, trained), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_forward_is_that_loss_with_the_steps_mask() -> None:
    mae, batch = _stirred(), _batch()
    noise = mae.noise(batch, STEP)
    naive = _naive_loss(mae, mae.encoder.normalised_patches(batch.images), noise)
    torch.testing.assert_close(mae(batch, STEP).total, naive.float(), rtol=1e-5, atol=0)
    assert not torch.equal(noise, mae.noise(batch, replace(STEP, index=4)))
    assert not torch.equal(noise, mae.noise(batch, replace(STEP, seed=1)))


def test_the_target_is_standardised_with_the_unbiased_variance() -> None:
    mae = _stirred()
    flat, varied = torch.full((1, 1, 192), 0.7), torch.randn(1, 1, 192, generator=torch.Generator().manual_seed(0))
    target = mae._standardise(torch.cat([flat, varied], dim=1))
    assert float(target[0, 0].abs().max()) < 1e-2  # no division by zero
    assert float(target[0, 1].var(unbiased=True)) == pytest.approx(1, rel=1e-5)
    assert float(target[0, 1].var(unbiased=False)) != pytest.approx(1, rel=1e-3)
    expected = (varied - varied.mean()) / (varied.var(unbiased=True) + 1e-6).sqrt()
    torch.testing.assert_close(target[:, 1:], expected)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_transformers_gives_the_same_loss_and_gradients(norm_pixels: bool) -> None:
    pytest.importorskip("transformers")
    mae, batch = _stirred(norm_pixels=norm_pixels), _batch()
    peer = transformers_mae(mae)
    mean, std = (torch.tensor(x)[:, None, None] for x in mae.encoder.normalisation)
    theirs = peer((batch.images / 255 - mean) / std, noise=mae.noise(batch, STEP)).loss
    ours = mae(batch, STEP).total
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    ours.backward()
    theirs.backward()
    attention = mae.encoder.blocks[1].attn.qkv.weight.grad
    pairs = [
        (mae.encoder.vit.patch_embed.proj.weight.grad, peer.vit.embeddings.patch_embeddings.projection.weight.grad),
        (mae.mask_token.grad, peer.decoder.mask_token.grad),
        (mae.encoder.vit.cls_token.grad, peer.vit.embeddings.cls_token.grad),
        (attention[24:48], peer.vit.layers[1].attention.k_proj.weight.grad),
        (mae.decoder_pred.bias.grad, peer.decoder.decoder_pred.bias.grad),
    ]
    for mine, other in pairs:
        assert float((mine - other).norm() / other.norm()) < 1e-5


@pytest.mark.parametrize("ratio", [0.99, 1e-12])
def test_a_ratio_that_hides_all_or_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"objective\.mask_ratio .* of 16 patches.*Fix: objective\.mask_ratio=0\.75"):
        _stirred(mask_ratio=ratio)


def _other_hidden_pixels(mae: MAE, images: Tensor, noise: Tensor) -> Tensor:
    """The images with the pixels of all hidden patches replaced."""
    _, height, width = images.shape[1:]
    restore, changed = noise.argsort(dim=1).argsort(dim=1), images.clone()
    size = mae.encoder.config.patch_size
    for y in range(height):
        for x in range(width):
            hidden = restore[:, y // size * (width // size) + x // size] >= mae.kept
            changed[hidden, :, y, x] = 255 - images[hidden, :, y, x]
    return changed


@pytest.mark.parametrize("norm_pixels", [True, False])
@torch.no_grad()
def test_a_reconstruction_uses_no_hidden_pixel(norm_pixels: bool) -> None:
    mae, images, noise = _stirred(norm_pixels=norm_pixels), _batch().images, _noise()
    changed = _other_hidden_pixels(mae, images, noise)
    assert float((changed != images).float().mean()) > 0.7
    before, after = mae.picture(images, noise), mae.picture(changed, noise)
    assert torch.equal(before["reconstruction"], after["reconstruction"])
    assert torch.equal(before["masked"], after["masked"])
    assert torch.equal(after["input"], changed.permute(0, 2, 3, 1))


@torch.no_grad()
def test_a_picture_shows_visible_patches_as_they_are_and_hidden_ones_in_the_mean_colour() -> None:
    mae, images, noise = _stirred(), _batch().images, _noise()
    seen = mae.picture(images, noise)
    hidden = (noise.argsort(dim=1).argsort(dim=1) >= mae.kept).view(4, 4, 4)
    hidden = hidden.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    assert torch.equal(seen["reconstruction"][~hidden], seen["input"][~hidden])
    assert torch.equal(seen["masked"][~hidden], seen["input"][~hidden])
    colour = (torch.tensor(mae.encoder.normalisation.mean) * 255).round().to(torch.uint8)
    assert bool((seen["masked"][hidden] == colour).all())
    assert float((seen["reconstruction"][hidden] != seen["input"][hidden]).float().mean()) > 0.9


@torch.no_grad()
def test_an_image_whose_visible_pixels_are_grey_is_guessed_in_grey() -> None:
    mae, images, noise = _stirred(), _batch().images, _noise()
    grey = images[:, :1].expand_as(images)
    seen = mae.picture(grey, noise)["reconstruction"]
    assert torch.equal(seen.amax(dim=-1), seen.amin(dim=-1))
    one = grey.clone()
    one[:, 0] = images[:, 1]  # a control: one other channel is a colour
    assert not torch.equal((coloured := mae.picture(one, noise)["reconstruction"]).amax(dim=-1), coloured.amin(dim=-1))


def test_the_decoders_weights_come_from_the_seed() -> None:
    def decoder(seed: int) -> Tensor:
        return MAE(Encoder(SMALL), decoder_width=12, seed=seed).decoder_pred.weight

    assert torch.equal(decoder(1), decoder(1))
    assert not torch.equal(decoder(1), decoder(2))
