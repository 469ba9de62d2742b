"""Converts ViT tensors from third-party files to timm's names and shapes without changing what they compute.

Supported: timm and everything with its names (MAE, MAE-Lite, MoCo-v3, DINO, DINOv2, BEiT-like blocks with relative
positions) and Hugging Face's ViT and ViTMAE, with the names of transformers 4 and 5. Three conversions are exact:
separate queries, keys and values become one matrix; biases of only queries and values get zeros for the keys;
LayerScale is folded into the preceding layer if the encoder has none of its own.

Every omitted tensor is listed with a reason: under `dropped` if it was not part of the encoder, under `lost` if the
encoder computes something else without it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitlet.errors import CheckpointError, UsageError
from vitlet.text import printable

_STEMS = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")
"""Every ViT has one of these tensors; the text before it is the prefix of the network."""

_COPIES = {
    "tch_model.": "embedded teacher",
    "momentum_encoder.": "momentum copy of the encoder",
    "student.": "student; its teacher is taken",
}
_OUTSIDE = (
    (r"attn_adapter\.", "distillation adapter"),
    (r"predictor\.", "predictor of pre-training"),
    (r"decoder\.", "decoder of pre-training"),
    (r"(classifier|linear|fc)\.", "classifier"),
    (r"(dino_|ibot_)?head\.|last_layer\.", "projection head of pre-training"),
)
_DROPPED = (
    (r"decoder_|decoder\.", "decoder of pre-training"),
    (r"(embeddings\.)?mask_token$", "mask token of pre-training"),
    (r"head\.(weight|bias)$", "classifier without the norm it was trained with"),
    (r"(head\.(\d+|mlp|last_layer)\.|last_layer\.)", "projection head of pre-training, not a classifier"),
    (r"head_dist\.|dist_norm\.", "distillation head"),
    (r"fc_norm\.", "norm of the classifier, which pools before it"),
    (r"pooler\.", "pooler of Hugging Face, trained with a task of its own"),
    (r".*relative_position_index$", "numbers that follow from the grid"),
    (r".*attn\.k_bias$", "key bias, which cancels in the softmax"),
)
_LOST = (
    (r"dist_token$", "second class token, which takes part in attention"),
    (r"(embeddings\.)?reg(ister)?_tokens?$", "register tokens, which take part in attention"),
    (r".*\.(q_norm|k_norm)\.", "norms of queries and keys"),
    (r"(norm_pre|ln_pre)\.", "norm before the first block"),
    (r"attn_pool\.", "attention pooling"),
    (r".*mlp\.(w12|w3|w1|w2|fc1_g|fc1_x)\.", "gated MLP"),
    (r".*rope", "rotary positions"),
)
_HUGGING_FACE = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(q|k|v)(?:uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
STRANGER = "tensors that no plain ViT has"
_LOGITS_ALONE = {"norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias"}
_ATTENTION_BIASES = ("attn.qkv.bias", "attn.q_bias", "attn.v_bias")
_SCALED = (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.fc2"))
"""Each LayerScale with the layer whose output it multiplies."""


@dataclass
class Layout:
    """An encoder's tensors by timm's names, and a record of all others."""

    tensors: dict[str, Tensor]
    prefix: str
    hugging_face: bool
    found: dict[str, Tensor] = field(default_factory=dict)
    """Tensors of the network as they are in the file, by timm's names."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Name in the file → reason."""
    lost: dict[str, str] = field(default_factory=dict)
    """Name in the file → what it was; without it the encoder computes something else."""
    rewritten: list[str] = field(default_factory=list)
    """Sentences about exact conversions."""
    unscaled: list[str] = field(default_factory=list)
    """LayerScales that one block lacks and another has; leaving their layers unchanged is a guess."""
    classifier: dict[str, Tensor] = field(default_factory=dict)
    """`head.*`, and `fc_norm.*` if it pools before the norm; empty without a classifier."""

    @property
    def relative(self) -> bool:
        """Whether the blocks have relative position biases."""
        return any(name.endswith("relative_position_bias_table") for name in self.tensors)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(_blocks(self.tensors))


def arrange(tensors: dict[str, Tensor], *, prefix: str | None = None, pool: str | None = None) -> Layout:
    """Find the encoder among the tensors of a file.

    Args:
        tensors: Tensors by their names in the file.
        prefix: Prefix of the network, if there are several; None detects it.
        pool: What its classifier reads, as timm's `global_pool`; None if that is not known.

    Raises:
        CheckpointError: if there is no ViT.
        UsageError: if there are several, or none with this prefix.
    """
    chosen = _choose_prefix(tensors, prefix)
    inside = {name.removeprefix(chosen): t for name, t in tensors.items() if name.startswith(chosen)}
    layout = Layout({}, chosen, hugging_face=any(name == _STEMS[1] for name in inside))
    for name in tensors:
        if not name.startswith(chosen):
            layout.dropped[name] = _reason_outside(name, chosen)
    for name, tensor in inside.items():
        layout.tensors[_rename(name) if layout.hugging_face else name] = tensor.detach().float()
    if layout.hugging_face:
        _join_queries_keys_values(layout)
    layout.found = dict(layout.tensors)
    _take_classifier(layout, pool)
    _set_aside(layout)
    _drop_logits_block(layout)
    _normalise_positions(layout)
    _rewrite_blocks(layout)
    return layout


def _choose_prefix(names: Iterable[str], wanted: str | None) -> str:
    found = sorted({name.removesuffix(stem) for name in names for stem in _STEMS if name.endswith(stem)})
    if not found:
        shown = ", ".join(printable(name) for name in list(names)[:5])
        raise CheckpointError(
            "no vision transformer in this file",
            why=f"No tensor is called {_STEMS[0]}; it has {shown}",
            fix="give a file of timm, MAE, MAE-Lite, MoCo-v3, DINO or Hugging Face",
        )
    if wanted is not None:
        matching = [prefix for prefix in found if prefix.rstrip(".") == wanted.rstrip(".")]
        if not matching:
            raise UsageError(f"no network called {wanted!r} in this file", fix=f"--prefix {_listed(found)}")
        return matching[0]
    mains = [p for p in found if not any(p.removeprefix("module.").startswith(copy) for copy in _COPIES)]
    if not mains and len(found) == 1:
        return found[0]
    if len(mains) != 1:
        raise UsageError(f"{len(found)} vision transformers in this file", fix=f"--prefix {_listed(found)}")
    return mains[0]


def _listed(prefixes: list[str]) -> str:
    return " or ".join(printable(p.rstrip(".")) or "''" for p in prefixes)


def _reason_outside(name: str, chosen: str) -> str:
    bare = name.removeprefix("module.")
    for copy, reason in _COPIES.items():
        if bare.startswith(copy):
            return reason
    return _first(_OUTSIDE, bare) or f"not under {chosen}"


def _first(table: Iterable[tuple[str, str]], name: str) -> str:
    return next((reason for pattern, reason in table if re.match(pattern, name)), "")


def _rename(name: str) -> str:
    for pattern, replacement in _HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return name


def _join_queries_keys_values(layout: Layout) -> None:
    """Join three linear layers as in timm: rows of queries, then keys, then values."""
    tensors = layout.tensors
    for block in _blocks(tensors):
        for kind in ("weight", "bias"):
            names = [f"{block}.attn.{part}.{kind}" for part in "qkv"]
            if all(name in tensors for name in names):
                tensors[f"{block}.attn.qkv.{kind}"] = torch.cat([tensors.pop(name) for name in names])
    layout.rewritten.append("queries, keys and values were joined into one matrix")


def _blocks(tensors: Iterable[str]) -> list[str]:
    found = {match[0] for name in tensors if (match := re.match(r"blocks\.\d+(?=\.)", name))}
    return sorted(found, key=lambda block: int(block.split(".")[1]))


def _take_classifier(layout: Layout, pool: str | None) -> None:
    """Take a single linear head as the classifier; projection heads have several layers, under other names.

    A head behind the final norm reads the class token, one behind a norm of its own the mean, unless `pool` is another.
    """
    tensors = layout.tensors
    wanted, reads = ["head.weight", "head.bias"], "token"
    if "norm.weight" not in tensors:
        wanted, reads = [*wanted, "fc_norm.weight", "fc_norm.bias"], "avg"
    if not all(n in tensors for n in wanted) or tensors["head.weight"].ndim != 2 or len(tensors["head.bias"]) < 2:
        return
    taken = {name: tensors.pop(name) for name in wanted}
    if pool in (None, reads):
        layout.classifier = taken
    else:
        reason = f"classifier that pools by {printable(pool)!r} with a norm elsewhere than here"
        layout.dropped |= {layout.prefix + name: reason for name in taken}


def _set_aside(layout: Layout) -> None:
    """Set aside tensors that a plain ViT does not have, each with a reason."""
    known = re.compile(
        r"(cls_token|pos_embed|rel_pos_bias\.relative_position_bias_table|patch_embed\.proj\.\w+|norm\.\w+|blocks\.\d+\."
        r"(norm[12]\.\w+|attn\.(qkv|proj)\.\w+|attn\.(q_bias|v_bias|relative_position_bias_table)|mlp\.fc[12]\.\w+"
        r"|gamma_[12]|ls[12]\.gamma))$"
    )
    for name in list(layout.tensors):
        original = layout.prefix + name
        if reason := _first(_DROPPED, name):
            layout.dropped[original] = reason
        elif not known.match(name):
            layout.lost[original] = _first(_LOST, name) or STRANGER
        else:
            continue
        del layout.tensors[name]


def _drop_logits_block(layout: Layout) -> None:
    """Drop the last block of a decoupled distillation (Gao et al. 2025), which computes attention logits alone."""
    blocks = _blocks(layout.tensors)
    if len(blocks) < 2:
        return
    last = [name for name in layout.tensors if name.startswith(f"{blocks[-1]}.")]
    if {name.removeprefix(f"{blocks[-1]}.") for name in last} == _LOGITS_ALONE:
        for name in last:
            layout.dropped[layout.prefix + name] = "block of distillation, which computes attention logits alone"
            del layout.tensors[name]


def _normalise_positions(layout: Layout) -> None:
    """Bring the position embedding to one row for the class token and one per patch."""
    tensors = layout.tensors
    position = tensors.get("pos_embed")
    if position is None or position.ndim != 3:
        return
    rows = position.shape[1]
    if any(name.endswith("dist_token") for name in layout.lost) and is_square(rows - 2):
        tensors["pos_embed"] = torch.cat([position[:, :1], position[:, 2:]], dim=1)
    elif is_square(rows) and "cls_token" in tensors:
        tensors["pos_embed"] = torch.cat([torch.zeros_like(position[:, :1]), position], dim=1)
        layout.rewritten.append("the class token has no position of its own; a row of zeros computes the same")


def is_square(number: int) -> bool:
    """Whether this number of patches fills a square grid."""
    return number > 0 and round(number**0.5) ** 2 == number


def _rewrite_blocks(layout: Layout) -> None:
    """Convert every block to one form.

    A tensor absent from all blocks is taken as absent by design; one absent from only some is missing and not replaced.
    """
    tensors, relative = layout.tensors, layout.relative
    shared = tensors.pop("rel_pos_bias.relative_position_bias_table", None)
    done: set[str] = set()
    blocks = _blocks(tensors)
    for block in blocks:
        for i in "12":
            if f"{block}.gamma_{i}" in tensors:
                tensors[f"{block}.ls{i}.gamma"] = tensors.pop(f"{block}.gamma_{i}")
    somewhere = {name.split(".", 2)[2] for block in blocks for name in tensors if name.startswith(f"{block}.")}
    for block in blocks:
        if shared is not None:
            tensors[f"{block}.attn.relative_position_bias_table"] = shared.clone()
            done.add("the table of relative positions that all blocks share was copied into each")
        done |= _as_relative(tensors, block, somewhere) if relative else _as_plain(layout, block, somewhere)
    layout.rewritten += sorted(done)


def _as_plain(layout: Layout, block: str, somewhere: set[str]) -> set[str]:
    """Fold tensors that a plain block does not have; return notes. `somewhere`: names that any block has."""
    tensors, done = layout.tensors, set[str]()
    q, v = (tensors.pop(f"{block}.attn.{part}_bias", None) for part in "qv")
    if q is not None and v is not None:
        tensors[f"{block}.attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
        done.add("biases of queries and values were joined, with zeros for the keys")
    for gamma, layer in _SCALED:
        scale = tensors.get(f"{block}.{gamma}")
        names = [f"{block}.{layer}.weight", f"{block}.{layer}.bias"]
        if scale is None and gamma in somewhere:
            layout.unscaled.append(f"{block}.{gamma}")
        elif scale is not None and all(name in tensors and tensors[name].shape[:1] == scale.shape for name in names):
            tensors[names[0]] = tensors[names[0]] * scale[:, None]
            tensors[names[1]] = tensors[names[1]] * scale
            del tensors[f"{block}.{gamma}"]
            done.add("LayerScale was multiplied into the layer before it")
    return done


def fill_biases(layout: Layout) -> None:
    """Give queries, keys and values zeros as biases if no plain block has any, as networks without them compute."""
    if layout.relative or any(name.endswith(_ATTENTION_BIASES) for name in layout.found):
        return
    for name, weight in list(layout.tensors.items()):
        if name.endswith("attn.qkv.weight"):
            layout.tensors[f"{name.removesuffix('weight')}bias"] = weight.new_zeros(weight.shape[0])
    layout.rewritten.append("queries, keys and values have no bias; zeros compute the same")


def _as_relative(tensors: dict[str, Tensor], block: str, somewhere: set[str]) -> set[str]:
    """Bring a block with relative positions to BEiT's form: no key bias, LayerScale on both branches."""
    done: set[str] = set()
    bias = tensors.pop(f"{block}.attn.qkv.bias", None)
    if bias is not None:
        third = len(bias) // 3
        tensors[f"{block}.attn.q_bias"], tensors[f"{block}.attn.v_bias"] = bias[:third], bias[2 * third :]
        done.add("the key bias was left out, which cancels in the softmax")
    for gamma, layer in _SCALED:
        weight = tensors.get(f"{block}.{layer}.weight")
        if weight is not None and gamma not in somewhere:
            tensors[f"{block}.{gamma}"] = weight.new_ones(weight.shape[0])
            done.add("LayerScale of one was added, which changes nothing")
    return done
