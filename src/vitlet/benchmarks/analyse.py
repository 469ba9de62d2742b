"""Speed of the analyses, relative to plain code that computes the same from the same tensors.

The contenders take turns in one process on one thread and are timed in CPU seconds, so that other work on the machine
costs little more than its share of the caches.

  * HSIC: mini-batch CKA of 13 × 13 layers from given features. The plain version follows the public packages: for each
    pair of layers two Gram matrices, and HSIC of the pair, of the first with itself and of the second with itself.
  * Attention: distance and entropy of one layer from given logits. The plain version evaluates the formulas one
    operation at a time on whole tensors.
  * Whole: two ViT-Tiny on one batch of images, forward passes included. Plain: a pass with hooks for CKA between the
    two, and a pass with hooks for attention. Ours: a single pass that also gives CKA of each with itself, standard
    errors, spectra and pooled features. Both costs are linear in batches.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vitlet.analysis import attention
from vitlet.analysis.similarity import Similarity
from vitlet.analysis.survey import Subject, Survey
from vitlet.benchmarks.plain import normalised
from vitlet.data.batch import Batch
from vitlet.evaluation.pace import conditions, one_thread, take_turns
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.recipe import EncoderConfig

_SEED = 0
_LAYERS = 13


def bench(*, repeats: int = 5, batch_size: int = 64, encoder: EncoderConfig | None = None) -> dict[str, Any]:
    """Time the three pairs in turns, after one warm-up turn.

    Args:
        repeats: Number of timed turns.
        batch_size: Images per batch.
        encoder: Size of both networks and of the features; by default ViT-Tiny with 12 heads.

    Returns:
        `pairs`: for each pair, median CPU milliseconds of plain and ours, and `difference`, the largest absolute
        difference of their results. `ratio`: for each pair, how many times faster ours is. Plus the conditions.
    """
    shape = encoder or EncoderConfig()
    with one_thread(), torch.inference_mode():
        pairs = {
            "hsic": _hsic_pair(shape, batch_size),
            "attention": _attention_pair(shape, batch_size),
            "whole": _whole_pair(shape, batch_size),
        }
        compared = {name: _compare(plain, ours, repeats) for name, (plain, ours) in pairs.items()}
    return {
        "pairs": compared,
        "ratio": {name: pair["plain_ms"] / pair["ours_ms"] for name, pair in compared.items()},
        "batch_size": batch_size,
        **conditions(repeats),
    }


def plain_cka(first: Sequence[Float[Tensor, "n *_"]], second: Sequence[Float[Tensor, "n *_"]]) -> Float[Tensor, "l m"]:
    """CKA of one batch between all pairs of layers, one pair at a time."""
    table = torch.zeros(3, len(first), len(second))
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            k, m = _plain_gram(x), _plain_gram(y)
            table[:, i, j] = torch.stack([plain_hsic(k, m), plain_hsic(k, k), plain_hsic(m, m)])
    return table[0] / (table[1] * table[2]).sqrt()


def plain_hsic(k: Float[Tensor, "n n"], m: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The unbiased estimator (Song et al. 2012) from Gram matrices with zero diagonals, term by term."""
    n = len(k)
    ones = torch.ones(n, 1, dtype=k.dtype)
    middle = (ones.T @ k @ ones) @ (ones.T @ m @ ones) / ((n - 1) * (n - 2))
    total = torch.trace(k @ m) + middle - 2 / (n - 2) * (ones.T @ k @ m @ ones)
    return total.squeeze() / (n * (n - 3))


def plain_statistics(logits: Float[Tensor, "B A T T"], pitch: Float[Tensor, "N N"]) -> Float[Tensor, "2 A"]:
    """Distance and entropy of each head."""
    weights = logits[:, :, 1:, 1:].softmax(dim=-1)
    distance = (weights * pitch).sum(dim=-1).mean(dim=(0, 2))
    entropy = -(weights * torch.log(weights + attention.PUBLISHED_EPSILON)).sum(dim=-1).mean(dim=(0, 2))
    return torch.stack([distance, entropy])


def _plain_gram(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return (flat @ flat.T).fill_diagonal_(0)


_Pair = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def _hsic_pair(shape: EncoderConfig, batch_size: int) -> _Pair:
    draw = torch.Generator().manual_seed(_SEED)
    # A shared direction makes neighbouring layers similar, as in a network.
    common = torch.randn(batch_size, shape.grid**2, shape.width, generator=draw)
    features = [common + torch.randn(common.shape, generator=draw) for _ in range(_LAYERS)]

    def ours() -> Tensor:
        similarity = Similarity(_LAYERS)
        similarity.update(features)
        return similarity.result().cka

    return lambda: plain_cka(features, features), ours


def _attention_pair(shape: EncoderConfig, batch_size: int) -> _Pair:
    draw = torch.Generator().manual_seed(_SEED)
    tokens = shape.grid**2 + 1
    logits = torch.randn(batch_size, shape.heads, tokens, tokens, generator=draw)
    pitch = attention.distances((shape.grid, shape.grid))
    return (
        lambda: plain_statistics(logits, pitch),
        lambda: attention.statistics(logits, pitch).mean(dim=1),
    )


def _whole_pair(shape: EncoderConfig, batch_size: int) -> _Pair:
    encoders = [Encoder(shape, seed=seed).eval() for seed in (0, 1)]
    draw = torch.Generator().manual_seed(_SEED)
    images = torch.randint(256, (batch_size, 3, shape.image_size, shape.image_size), generator=draw, dtype=torch.uint8)
    numbers = torch.arange(batch_size)
    batch = Batch((images,), labels=torch.full((batch_size,), -1), positions=numbers, slots=numbers)

    networks = [as_timm(e) for e in encoders]

    def plain() -> Tensor:
        floats = normalised(encoders[0], images)
        first, second = (_plain_features(network, floats) for network in networks)
        looked = [_plain_attention(network, floats, grid=shape.grid) for network in networks]
        return torch.cat([plain_cka(first, second).flatten(), *looked])

    def ours() -> Tensor:
        survey = Survey([Subject("a", encoders[0]), Subject("b", encoders[1])], epsilon=attention.PUBLISHED_EPSILON)
        survey.run([batch])
        depth = shape.depth + 1
        cka = survey.similarity.result().cka[:depth, depth:]
        looked = [torch.stack(a.result()).flatten() for look in survey.looked for a in look.attention]
        return torch.cat([cka.flatten(), *looked])

    return plain, ours


def as_timm(encoder: Encoder) -> VisionTransformer:
    """The same network with timm's own attention."""
    shape = encoder.config
    with seeded(_SEED):  # timm draws its initial weights from the global generator
        network = VisionTransformer(
            img_size=shape.image_size,
            patch_size=shape.patch_size,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            mlp_ratio=shape.mlp_ratio,
            num_classes=0,
        )
    network.load_state_dict(encoder.vit.state_dict())
    return network.eval()


def _plain_features(network: VisionTransformer, images: Tensor) -> list[Tensor]:
    """Patch tokens after the first norm of each block and the final norm, by hooks."""
    features: list[Tensor] = []
    norms = [*(cast(Block, block).norm1 for block in network.blocks), network.norm]
    hooks = [norm.register_forward_hook(lambda _m, _i, out: features.append(out[:, 1:])) for norm in norms]
    network.forward_features(images)
    for hook in hooks:
        hook.remove()
    return features


def _plain_attention(network: VisionTransformer, images: Tensor, *, grid: int) -> Tensor:
    """Distance and entropy of all blocks, by hooks on queries and keys."""
    pitch = attention.distances((grid, grid))
    statistics: list[Tensor] = []
    heads = cast(Any, network.blocks[0]).attn.num_heads

    def look(_module: nn.Module, _inputs: Any, qkv: Tensor) -> None:
        q, k, _ = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        statistics.append(plain_statistics(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, pitch).flatten())

    hooks = [cast(Any, block).attn.qkv.register_forward_hook(look) for block in network.blocks]
    network.forward_features(images)
    for hook in hooks:
        hook.remove()
    return torch.cat(statistics)


def _compare(plain: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int) -> dict[str, float]:
    difference = (plain() - ours()).abs().max().item()
    paces = take_turns({"plain": plain, "ours": ours}, repeats=repeats)
    return {"plain_ms": paces["plain"].cpu_ms, "ours_ms": paces["ours"].cpu_ms, "difference": difference}
