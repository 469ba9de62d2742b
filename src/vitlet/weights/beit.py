"""Encoders with relative positions: names of timm's `Beit`, and initialisation from a plain ViT.

Source: Bao et al. 2022 (BEiT); the variant of Wang et al. 2023 keeps absolute positions in addition.
"""

from typing import Any

from torch import Tensor

from vitlet.errors import UsageError
from vitlet.recipe import EncoderConfig

ARCHITECTURE = "beit_base_patch16_224"
_HERE_AND_THERE = ((".ls1.gamma", ".gamma_1"), (".ls2.gamma", ".gamma_2"))
_OWN = ("ls1.gamma", "ls2.gamma", "attn.q_bias", "attn.v_bias", "attn.relative_position_bias_table")


def to_beit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors as in timm's `Beit`."""
    return {_renamed(name, _HERE_AND_THERE): value for name, value in tensors.items()}


def from_beit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_beit`."""
    return {_renamed(name, [(there, here) for here, there in _HERE_AND_THERE]): v for name, v in tensors.items()}


def _renamed(name: str, pairs: Any) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def beit_arguments(shape: EncoderConfig, *, has_classifier: bool) -> dict[str, Any]:
    """Return the arguments of timm's `Beit` that a plain ViT does not have.

    Raises:
        UsageError: if `Beit` cannot represent the encoder.
    """
    if not (shape.final_norm or has_classifier):
        raise UsageError(
            "timm cannot hold an encoder with relative positions, without a final norm and without a classifier",
            why="Its Beit always has one of the two norms",
            fix="encoder.final_norm=true",
        )
    arguments: dict[str, Any] = {"init_values": 0.1, "use_abs_pos_emb": True, "use_rel_pos_bias": True}
    return arguments if has_classifier else arguments | {"use_fc_norm": False}


def with_relative_positions(
    plain: dict[str, Tensor], fresh: dict[str, Tensor], *, inherit_qkv_bias: bool
) -> dict[str, Tensor]:
    """Return the tensors of a plain ViT, completed by those of `fresh` that only the relative variant has.

    `qkv.bias` is dropped. With `inherit_qkv_bias` its query and value parts become `q_bias` and `v_bias`; the key part
    has no effect, since it adds the same constant to all logits of a query.
    """
    made = {name: value for name, value in plain.items() if not name.endswith("attn.qkv.bias")}
    made |= {name: value for name, value in fresh.items() if name.endswith(_OWN)}
    if inherit_qkv_bias:
        for name, value in plain.items():
            if name.endswith("attn.qkv.bias"):
                block = name.removesuffix("qkv.bias")
                made[f"{block}q_bias"], _, made[f"{block}v_bias"] = value.chunk(3)
    return made
