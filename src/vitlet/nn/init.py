"""Initial weights as a function of a seed: torch's initialisers use a global generator, so it is isolated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.init import trunc_normal_

from vitlet.nn.attention import Attention


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Run the initialisers inside the block from `key`, leaving torch's global generator unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)
        yield


def init_timm(module: nn.Module) -> None:
    """Initialise linears truncated-normal (0.02) with zero bias (timm 0.4.12, DeiT); call through `Module.apply`."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_xavier(module: nn.Module) -> None:
    """Initialise linears Xavier-uniform with zero bias (MAE); call through `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_moco(module: nn.Module) -> None:
    """Xavier-uniform, with queries, keys and values as three matrices (MoCo-v3); call through `Module.apply`.

    `Module.apply` reaches the linears inside an attention first, so the attention's own bound wins.
    """
    init_xavier(module)
    if isinstance(module, Attention):
        width = module.qkv.in_features
        bound = (6 / (module.qkv.out_features / 3 + width)) ** 0.5
        nn.init.uniform_(module.qkv.weight, -bound, bound)


def xavier_patch_embedding(convolution: nn.Conv2d) -> None:
    """Xavier-uniform on the patch embedding seen as a D × (3·P·P) matrix, as in MAE; the bias keeps torch's default."""
    nn.init.xavier_uniform_(convolution.weight.view(convolution.out_channels, -1))
