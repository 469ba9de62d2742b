"""Windowed blocks: equal to the plain ViT where they must be, to a naive form of relative positions elsewhere."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitlet.nn.detection.blocks import RelativePositions, WindowedBlocks, in_windows
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig

SHAPE = EncoderConfig(image_size=40, patch_size=8, width=24, depth=3, heads=3, final_norm=False)


def images(count: int = 2, size: int = 40) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def blocks(*, window: int = 2, everywhere: bool = False, recompute: bool = False) -> WindowedBlocks:
    return WindowedBlocks(
        grid=5,
        depth=3,
        head_width=8,
        window=window,
        global_blocks=range(3) if everywhere else (1,),
        recompute=recompute,
    )


def without_class_token(encoder: Encoder) -> VisionTransformer:
    """timm's plain ViT that never had one, with the same tensors."""
    model = VisionTransformer(
        img_size=40, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0, class_token=False,
        global_pool="avg", final_norm=False,
    )  # fmt: skip
    tensors = dict(encoder.vit.state_dict())
    tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    del tensors["cls_token"]
    model.load_state_dict(tensors)
    return model.eval()


def test_global_blocks_with_zero_tables_are_the_plain_vit() -> None:
    encoder = Encoder(SHAPE, seed=3)
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    with torch.no_grad():
        expected = without_class_token(encoder).forward_features((images() / 255 - mean) / std)
        found = blocks(everywhere=True)(encoder, encoder.embed(images()))
        windowed = blocks()(encoder, encoder.embed(images()))
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(windowed, found, atol=1e-3), "the control: windows change the result"


def test_one_window_as_large_as_the_image_is_global() -> None:
    encoder = Encoder(SHAPE, seed=3)
    with torch.no_grad():
        patches = encoder.embed(images())
        torch.testing.assert_close(blocks(window=9)(encoder, patches), blocks(everywhere=True)(encoder, patches))


def naive(relative: RelativePositions, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Pair by pair, as ViTDet's paper has it."""
    side = math.isqrt(q.shape[2])
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    for a in range(side * side):
        for b in range(side * side):
            down, right = a // side - b // side + side - 1, a % side - b % side + side - 1
            bias = q[:, :, a] @ (relative.rows[down] + relative.columns[right])
            logits[:, :, a, b] = logits[:, :, a, b] + bias
    return logits.softmax(dim=-1) @ v


def test_relative_positions_are_those_of_every_pair() -> None:
    draw = torch.Generator().manual_seed(0)
    relative = RelativePositions(3, head_width=4)
    for table in (relative.rows, relative.columns):
        table.data.copy_(torch.randn(table.shape, generator=draw))
    q, k, v = (torch.randn(2, 2, 9, 4, generator=draw) for _ in range(3))
    torch.testing.assert_close(relative(q, k, v), naive(relative, q, k, v), rtol=1e-4, atol=1e-5)
    relative.rows.data.zero_()
    relative.columns.data.zero_()
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(relative(q, k, v), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [4, 5])
def test_windows_see_themselves_alone(grid: int) -> None:
    """The mean over each window of 2 × 2 patches, padded with zeros."""
    x = torch.arange(grid * grid, dtype=torch.float32).view(1, -1, 1)
    found = in_windows(lambda w: w.mean(dim=1, keepdim=True).expand_as(w), x, side=2).view(grid, grid)
    whole = torch.nn.functional.pad(x.view(grid, grid), (0, grid % 2, 0, grid % 2))
    for row in range(grid):
        for column in range(grid):
            window = whole[row // 2 * 2 :, column // 2 * 2 :][:2, :2]
            assert found[row, column] == window.mean()


def test_recomputing_changes_no_gradient() -> None:
    encoder = Encoder(SHAPE, seed=3)
    gradients = []
    for recompute in (False, True):
        encoder.zero_grad()
        blocks(recompute=recompute)(encoder, encoder.embed(images())).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])
