"""Relative positions: timm's Beit computes the same from the same tensors, and the paper's numbers come out."""

import pytest
import torch
from timm.models.beit import Beit, gen_relative_position_index
from torch import Tensor

from vitlet.errors import UsageError
from vitlet.methods.supervised import Supervised
from vitlet.nn.attention import Attention, relative_offsets
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.recipe import EncoderConfig
from vitlet.weights.beit import to_beit

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3, relative_position=True)


def _stirred(module: torch.nn.Module) -> None:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)


def _encoder(config: EncoderConfig = SMALL) -> Encoder:
    encoder = Encoder(config)
    _stirred(encoder)
    return encoder


def _images(count: int = 2) -> Tensor:
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", [1, 2, 7])
def test_offsets_are_numbered_as_in_timm(grid: int) -> None:
    assert torch.equal(relative_offsets(grid), gen_relative_position_index((grid, grid)))


def test_timms_beit_computes_the_same_from_the_same_tensors() -> None:
    encoder = _encoder()
    theirs = Beit(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0, global_pool="token",
        init_values=0.1, use_abs_pos_emb=True, use_rel_pos_bias=True,
    ).eval()  # fmt: skip
    theirs.load_state_dict(to_beit(dict(encoder.vit.state_dict())))
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    scaled = (_images() / 255 - mean) / std
    torch.testing.assert_close(encoder(_images()), theirs.forward_features(scaled), rtol=1e-4, atol=1e-5)


def test_the_papers_variant_has_its_parameters() -> None:
    shape = EncoderConfig(relative_position=True, final_norm=False)
    encoder = Encoder(shape)
    supervised = Supervised(encoder, num_classes=1000)
    assert sum(p.numel() for p in supervised.parameters()) == 5_825_128
    attention = encoder.blocks[0].attn
    assert isinstance(attention, Attention)
    assert attention.relative_position_bias_table.shape == (732, 12)


def test_it_starts_as_beit_does() -> None:
    fresh, plain = Encoder(SMALL), Encoder(SMALL.changed(relative_position=False))
    for i, (block, other) in enumerate(zip(fresh.blocks, plain.blocks, strict=True)):
        for name in ("q_bias", "v_bias", "relative_position_bias_table"):
            assert not getattr(block.attn, name).any()
        assert block.attn.qkv.bias is None
        assert block.ls1.gamma.unique().tolist() == block.ls2.gamma.unique().tolist() == [pytest.approx(0.1)]
        for layer, same in ((block.attn.proj, other.attn.proj), (block.mlp.fc2, other.mlp.fc2)):
            assert (layer.weight.std() / same.weight.std()).item() == pytest.approx((2 * (i + 1)) ** -0.5, rel=0.15)
    head = Supervised(fresh, num_classes=50).classifier.head.weight
    reference = Classifier(24, num_classes=50, pool="mean", seed=0).head.weight
    torch.testing.assert_close(head, reference * 0.001)


def test_kept_patches_have_the_bias_of_their_own_places() -> None:
    """All patches in another order, with positions to match, give the same tokens in that order."""
    encoder, images = _encoder(), _images()
    whole = encoder(images)
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    rows = torch.arange(2)[:, None]
    moved = encoder.encode(encoder.embed(images)[rows, order], order)
    torch.testing.assert_close(moved.patches, whole[:, 1:][rows, order], rtol=1e-4, atol=1e-5)
    wrong = encoder.encode(encoder.embed(images)[rows, order], order.flip(1))  # the control
    assert not torch.allclose(wrong.patches, whole[:, 1:][rows, order], atol=1e-2)


def test_all_ways_through_attention_add_the_same_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = _encoder().blocks[0].attn
    assert isinstance(attention, Attention)
    x = torch.randn(2, 17, 24, generator=torch.Generator().manual_seed(0))
    explicit, logits = attention.forward_with_logits(x)
    torch.testing.assert_close(attention.logits(x), logits)
    for kernel in ("explicit", "fused"):
        monkeypatch.setattr("vitlet.nn.attention.choose_kernel", lambda kernel=kernel, **_: kernel)
        torch.testing.assert_close(attention(x), explicit, rtol=1e-4, atol=1e-5)


def test_a_grid_without_a_table_is_refused() -> None:
    encoder = _encoder()
    with pytest.raises(UsageError, match=r"4 patches for relative positions of 16.*relative_position=false"):
        encoder(_images()[:, :, :16, :16])
