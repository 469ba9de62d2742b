"""Per layer: probes, ranks, weights that moved, colours; each against values known beforehand."""

import math

import numpy as np
import pytest
import torch

from vitlet.analysis import layers
from vitlet.errors import UsageError
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig

CONFIG = EncoderConfig(image_size=16, patch_size=4, width=24, depth=3, heads=3)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("protocol", ["knn", "logistic"])
def test_a_probe_finds_the_layer_that_holds_the_labels(protocol) -> None:
    labels = torch.arange(60) % 3
    features = draw(60, 2, 8)
    features[:, 1, :3] += 8 * torch.nn.functional.one_hot(labels, 3)
    curve = layers.probe_curve(protocol, (features[:30], labels[:30]), (features[30:], labels[30:]), seed=0)
    assert curve.correct.shape == (2, 30)
    assert curve.top1[1] > 0.95 > 0.7 > curve.top1[0]


def test_health_is_measured_layer_by_layer() -> None:
    features = torch.stack([draw(200, 16), torch.outer(draw(200), torch.ones(16)) + 0.001 * draw(200, 16)], dim=1)
    wide, line = layers.healths(features)
    assert wide.effective_rank > 14
    assert line.effective_rank < 2


def test_weights_that_did_not_move_are_at_zero_and_doubled_ones_at_one() -> None:
    before, after = Encoder(CONFIG, seed=1), Encoder(CONFIG, seed=1)
    with torch.no_grad():
        for p in after.blocks[2].mlp.parameters():
            p.mul_(2)
        after.blocks[2].norm2.weight.mul_(2)
        after.blocks[1].attn.proj.bias.fill_(1.0)
    moved = layers.weight_distances(before, after)
    assert moved["attention"][0] == moved["mlp"][0] == moved["mlp"][1] == moved["attention"][2] == 0
    assert moved["mlp"][2] == pytest.approx(1)
    squares = sum(
        float(p.square().sum()) for n, p in before.blocks[1].state_dict().items() if n.startswith(("attn", "norm1"))
    )
    assert moved["attention"][1] == pytest.approx(math.sqrt(24 / squares))


def test_weights_of_other_shapes_are_not_subtracted() -> None:
    other = Encoder(CONFIG.changed(width=48), seed=1)
    with pytest.raises(UsageError, match="different shapes"):
        layers.weight_distances(Encoder(CONFIG), other)


def test_weight_norms_are_root_mean_squares() -> None:
    encoder = Encoder(CONFIG)
    with torch.no_grad():
        for p in encoder.vit.blocks.parameters():
            p.fill_(0.5)
    assert layers.weight_norms(encoder) == {"attention": [0.5] * 3, "mlp": [0.5] * 3}


def test_like_patches_have_like_colours() -> None:
    groups = torch.arange(2 * 16).view(2, 16) % 4
    tokens = 5 * torch.eye(4, 12)[groups] + 0.01 * draw(2, 16, 12)
    colours = layers.principal_colours(tokens, grid=(4, 4)).reshape(32, 3).astype(int)
    groups = groups.flatten().numpy()
    inside = max(np.ptp(colours[groups == g], axis=0).max() for g in range(4))
    centres = np.stack([colours[groups == g].mean(axis=0) for g in range(4)])
    apart = min(np.abs(a - b).max() for i, a in enumerate(centres) for b in centres[:i])
    assert inside < 20 < 60 < apart


def test_colours_do_not_depend_on_the_sign_of_an_eigenvector() -> None:
    tokens = draw(2, 16, 12)
    assert (layers.principal_colours(tokens, grid=(4, 4)) == layers.principal_colours(tokens, grid=(4, 4))).all()
    assert not (layers.principal_colours(-tokens, grid=(4, 4)) == layers.principal_colours(tokens, grid=(4, 4))).all()


def test_class_attention_sums_to_one_over_the_patches() -> None:
    maps = layers.class_attention(draw(2, 3, 17, 17))
    assert maps.shape == (2, 3, 16)
    assert torch.allclose(maps.sum(-1), torch.ones(2, 3))
