import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.encoder import Encoder
from vitlet.nn.posembed import sincos_2d
from vitlet.normalisation import HALF, IMAGENET
from vitlet.weights.foreign import Imported, import_file

SIZE, PATCH, WIDTH, HEADS = 16, 4, 24, 3


def scramble(model: nn.Module, *, seed: int = 0) -> Any:
    """Every tensor random, norms and biases too, so that nothing can be left out unnoticed."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        std = 0.2 * min(1, (24 / tensor.shape[-1]) ** 0.5)
        tensor.data = torch.randn(tensor.shape, generator=draw) * std + ("norm" in name)
    return model.eval()


def plain(width: int = WIDTH, depth: int = 2, heads: int = HEADS, *, seed: int = 0, **arguments: Any) -> Any:
    values = {"img_size": SIZE, "patch_size": PATCH, "num_classes": 0, "global_pool": "token"} | arguments
    return scramble(VisionTransformer(embed_dim=width, depth=depth, num_heads=heads, **values), seed=seed)


def images(size: int = SIZE) -> Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def normalised(encoder: Encoder, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    return (pixels.float() / 255 - mean) / std


def require_equal(found: Imported, model: nn.Module) -> None:
    """The encoder's tokens are those of the library that the weights come from, to 1e-5."""
    assert not found.missing
    assert not found.layout.lost
    pixels = images(found.encoder.config.image_size)
    with torch.inference_mode():
        theirs = model.forward_features(normalised(found.encoder, pixels))  # type: ignore[operator]
        torch.testing.assert_close(found.encoder.eval()(pixels), theirs, rtol=1e-5, atol=1e-5)


def saved(content: Any, folder: Path, name: str = "file.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def decoder(width: int) -> dict[str, Tensor]:
    return {"mask_token": torch.zeros(1, 1, width // 2), "decoder_embed.weight": torch.zeros(width // 2, width)}


def test_timm(tmp_path: Path) -> None:
    model = plain()
    found = import_file(saved(model.state_dict(), tmp_path), heads=HEADS)
    require_equal(found, model)
    config = found.encoder.config
    assert (config.width, config.depth, config.heads, config.patch_size, config.image_size) == (24, 2, 3, 4, 16)
    assert (config.position, config.final_norm, config.mlp_ratio) == ("learned", True, 4.0)
    assert found.facts["source"]["file"] == "file.pth"
    assert any("normalised" in note for note in found.notes)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_timm_classifier(pool: str, tmp_path: Path) -> None:
    model = plain(num_classes=5, global_pool=pool)
    found = import_file(saved({"state_dict": prefixed(model.state_dict(), "module.")}, tmp_path), heads=HEADS)
    require_equal(found, model)
    assert found.classifier is not None
    assert found.encoder.config.final_norm == (pool == "token")
    pixels = images()
    with torch.inference_mode():
        ours = found.classifier.eval()(found.encoder.encode(found.encoder.embed(pixels)))
        torch.testing.assert_close(ours, model(normalised(found.encoder, pixels)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["avg", "token", None])
def test_a_head_on_the_mean_of_normed_patches_is_not_one_on_the_class_token(pool: str | None, tmp_path: Path) -> None:
    """The tensors are the same; the config of timm's hub beside them tells, and without it the assumption is said."""
    model = plain(num_classes=5, global_pool=pool or "token", fc_norm=False)
    if pool is not None:
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "global_pool": pool}))
    found = import_file(saved(model.state_dict(), tmp_path), heads=HEADS)
    require_equal(found, model)
    assert (found.classifier is None) == (pool == "avg")
    dropped = {"classifier that pools by 'avg' with a norm elsewhere than here"}
    assert set(found.layout.dropped.values()) == (dropped if pool == "avg" else set())
    assert any("the class token is assumed" in note for note in found.notes) == (pool is None)


def test_mae(tmp_path: Path) -> None:
    model = plain(768, 1, 12)
    model.pos_embed.data = sincos_2d(768, grid=4)
    found = import_file(saved({"model": model.state_dict() | decoder(768)}, tmp_path))
    require_equal(found, model)
    assert found.kind.name == "MAE"
    assert found.encoder.config.heads == 12
    assert (found.encoder.config.position, found.encoder.config.sincos_order) == ("sincos", "column-row")
    assert found.kind.licence == "CC-BY-NC-4.0"
    assert "not for commercial use" in found.notes[0]
    assert found.facts["dropped"] == {"decoder of pre-training": 1, "mask token of pre-training": 1}


def mae_lite(model: nn.Module, wrapper: str) -> dict[str, Any]:
    student = prefixed(model.state_dict() | decoder(192), f"{wrapper}model.")
    teacher = prefixed(plain(48, 3, 4, seed=5).state_dict(), f"{wrapper}tch_model.")
    adapter = {f"{wrapper}attn_adapter.adapter11.weight": torch.zeros(12, 12, 1, 1)}
    return {"start_epoch": 400, "model": student | teacher | adapter, "optimizer": {}, "best_top1": 0.0}


@pytest.mark.parametrize("wrapper", ["module.", ""])
def test_mae_lite_with_an_embedded_teacher(wrapper: str, tmp_path: Path) -> None:
    model = plain(192, 2, 12)
    found = import_file(saved(mae_lite(model, wrapper), tmp_path))
    require_equal(found, model)
    assert (found.kind.name, found.encoder.config.heads) == ("MAE-Lite", 12)
    reasons = set(found.layout.dropped.values())
    assert {"embedded teacher", "distillation adapter", "decoder of pre-training"} <= reasons


def test_the_block_that_decoupled_distillation_leaves_is_dropped(tmp_path: Path) -> None:
    model = plain(192, 3, 12)
    content = mae_lite(model, "")
    half = ("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias")
    for name in list(content["model"]):
        if name.startswith("model.blocks.2.") and not name.endswith(half):
            del content["model"][name]
    found = import_file(saved(content, tmp_path))
    model.blocks = model.blocks[:2]
    require_equal(found, model)


def test_moco_v3_and_its_projector_which_is_no_classifier(tmp_path: Path) -> None:
    model = plain(192, 2, 12)
    model.pos_embed.data = sincos_2d(192, grid=4, column_first=False)
    projector = {"head.0.weight": torch.zeros(8, 192), "head.1.running_mean": torch.zeros(8)}
    both = model.state_dict() | projector
    tensors = prefixed(both, "module.base_encoder.") | prefixed(both, "module.momentum_encoder.")
    tensors |= {"module.predictor.0.weight": torch.zeros(8, 8)}
    found = import_file(saved({"state_dict": tensors}, tmp_path), heads=12)
    require_equal(found, model)
    assert found.kind.name == "MoCo-v3"
    assert found.classifier is None
    assert found.encoder.config.sincos_order == "row-column"
    assert "projection head of pre-training, not a classifier" in found.layout.dropped.values()
    with pytest.raises(UsageError, match="does not show its number of heads"):
        import_file(tmp_path / "file.pth")
    by_authors = import_file(saved({"state_dict": tensors, "start_epoch": 1}, tmp_path))
    assert (by_authors.kind.name, by_authors.encoder.config.heads) == ("MAE-Lite", 12)


def test_dino_takes_the_teacher(tmp_path: Path) -> None:
    student, teacher = (plain(384, 1, 6, seed=seed) for seed in (1, 2))
    head = {"module.head.mlp.0.weight": torch.zeros(8, 384), "module.head.last_layer.weight_g": torch.ones(3, 1)}
    both = {
        n: prefixed(m.state_dict(), "module.backbone.") | head for n, m in (("student", student), ("teacher", teacher))
    }
    found = import_file(saved(both, tmp_path))
    require_equal(found, teacher)
    assert (found.kind.name, found.encoder.config.heads, found.kind.licence) == ("DINO", 6, "not known")


def test_dino_v2_folds_layer_scale_and_refuses_registers(tmp_path: Path) -> None:
    model = plain(384, 2, 6, init_values=0.5)
    tensors = model.state_dict() | {"mask_token": torch.zeros(1, 384)}
    found = import_file(saved(tensors, tmp_path))
    require_equal(found, model)
    assert found.kind.name == "DINOv2"
    assert "LayerScale was multiplied into the layer before it" in found.layout.rewritten
    with_registers = saved(tensors | {"register_tokens": torch.zeros(1, 4, 384)}, tmp_path)
    with pytest.raises(CheckpointError, match="register tokens, which take part in attention"):
        import_file(with_registers)
    assert list(import_file(with_registers, allow_partial=True).layout.lost) == ["register_tokens"]


def test_relative_positions(tmp_path: Path) -> None:
    model = scramble(
        Beit(img_size=SIZE, patch_size=PATCH, embed_dim=192, depth=2, num_heads=12, num_classes=7, init_values=0.1,
             use_abs_pos_emb=True, use_rel_pos_bias=True, global_pool="avg")
    )  # fmt: skip
    tensors = prefixed(model.state_dict(), "module.model.")
    for name, block in model.blocks.named_children():
        tensors[f"module.model.blocks.{name}.attn.relative_position_index"] = block.attn.relative_position_index
    found = import_file(saved({"model": tensors, "start_epoch": 1000}, tmp_path))
    assert found.encoder.config.relative_position
    assert found.kind.name == "MAE-Lite"
    require_equal(found, model)
    for name in tensors:
        if name.endswith("relative_position_index"):
            tensors[name] = tensors[name].flip(0)
    with pytest.raises(CheckpointError, match="numbers relative positions in another way"):
        import_file(saved({"model": tensors, "start_epoch": 1000}, tmp_path))


def hugging_face(kind: str, depth: int = 2) -> Any:
    from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

    values: dict[str, Any] = {
        "hidden_size": WIDTH, "num_hidden_layers": depth, "num_attention_heads": HEADS, "intermediate_size": 2 * WIDTH,
        "image_size": SIZE, "patch_size": PATCH, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    if kind == "vit":
        return scramble(ViTModel(ViTConfig(**values)))
    values |= {"decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1}
    return scramble(ViTMAEForPreTraining(ViTMAEConfig(**values, mask_ratio=0.0)))


@pytest.mark.parametrize("kind", ["vit", "mae"])
@pytest.mark.parametrize("saved_by", ["them", "torch"])
def test_hugging_face(kind: str, saved_by: str, tmp_path: Path) -> None:
    model = hugging_face(kind)
    if saved_by == "them":
        model.save_pretrained(tmp_path)
        found = import_file(tmp_path / "model.safetensors")  # config.json beside it tells the heads
    else:
        found = import_file(saved(model.state_dict(), tmp_path, "pytorch_model.bin"), heads=HEADS)
    assert not found.missing
    assert not found.layout.lost
    assert found.encoder.config.mlp_ratio == 2
    assert found.kind.name == {"vit": "Hugging Face ViT", "mae": "Hugging Face ViTMAE"}[kind]
    pixels = images()
    encoder = model if kind == "vit" else model.vit
    # With nothing masked, patches are shuffled by this noise: in order.
    extra = {"noise": torch.arange(16.0).expand(2, 16)} if kind == "mae" else {}
    with torch.inference_mode():
        theirs = encoder(normalised(found.encoder, pixels), **extra).last_hidden_state
        torch.testing.assert_close(found.encoder.eval()(pixels), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("blocks.1.mlp.fc2.weight", "1 tensor missing: blocks.1.mlp.fc2.weight"),
        ("blocks.1.", "blocks.2"),
        ("patch_embed.proj.bias", "1 tensor missing: patch_embed.proj.bias"),
    ],
)
def test_less_than_the_whole_is_refused_unless_asked_for(lost: str, message: str, tmp_path: Path) -> None:
    tensors = {k: v for k, v in plain(depth=3).state_dict().items() if not k.startswith(lost)}
    if lost == "blocks.1.":
        tensors = {k.replace("blocks.2.", "blocks.5."): v for k, v in tensors.items()}
        message = "missing"
    file = saved(tensors, tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_file(file, heads=HEADS)
    assert "--allow-partial" in str(caught.value)
    found = import_file(file, heads=HEADS, allow_partial=True)
    assert found.missing
    assert found.facts["missing"] == list(found.missing)


def relative(**arguments: Any) -> Any:
    values = {"num_heads": 3, "init_values": 0.1, "use_abs_pos_emb": True, "use_rel_pos_bias": True} | arguments
    return scramble(Beit(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=3, num_classes=0, **values))


def with_separate_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The biases of queries and values alone, as in BEiT's files, in plain blocks."""
    made = {}
    for name, tensor in tensors.items():
        if name.endswith("qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            made[f"{stem}q_bias"], _, made[f"{stem}v_bias"] = tensor.chunk(3)
        else:
            made[name] = tensor
    return made


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        *(("plain", part) for part in ("attn.qkv.bias", "norm1.weight", "norm2.bias", "attn.proj.bias", "mlp.fc1.w")),
        ("scaled", "ls1.gamma"), ("scaled", "ls2.gamma"), ("separate", "attn.q_bias"), ("separate", "attn.v_bias"),
        ("hugging face", r"attention.*(query|key|value|[qkv]_proj)\.bias"),
        *(("relative", part) for part in ("gamma_1", "attn.q_bias", "attn.relative_position_bias_table")),
    ],
)  # fmt: skip
def test_what_one_block_lacks_and_others_have_is_missing(kind: str, lost: str, block: int, tmp_path: Path) -> None:
    """A bias, a norm or a scale that no block has is another network, which `test_a_missing_bias…` reads."""
    tensors = {
        "plain": lambda: plain(depth=3).state_dict(),
        "scaled": lambda: plain(depth=3, init_values=0.5).state_dict(),
        "separate": lambda: with_separate_biases(plain(depth=3).state_dict()),
        "hugging face": lambda: hugging_face("vit", depth=3).state_dict(),
        "relative": lambda: relative().state_dict(),
    }[kind]()
    whole = saved(tensors, tmp_path)
    assert not import_file(whole, heads=HEADS).missing
    fewer = {k: v for k, v in tensors.items() if not re.search(rf"(blocks|layers?)\.{block}\..*{lost}", k)}
    assert len(fewer) < len(tensors)
    file = saved(fewer, tmp_path)
    with pytest.raises(CheckpointError, match=rf"missing: blocks\.{block}\..*--allow-partial"):
        import_file(file, heads=HEADS)
    found = import_file(file, heads=HEADS, allow_partial=True)
    assert all(name.startswith(f"blocks.{block}.") for name in found.missing)
    assert found.facts["missing"] == list(found.missing)


@pytest.mark.parametrize(("lost", "message"), [("norm.", "2 tensors missing: norm.weight"), ("qkv.bias", "2 tensors")])
@pytest.mark.parametrize("project", ["MAE", "MAE-Lite", "MoCo-v3", "DINO", "ViT with timm's names"])
def test_norm_and_biases_that_all_files_of_a_project_have_are_missing(
    project: str, lost: str, message: str, tmp_path: Path
) -> None:
    """The control is the last: nobody knows whether a network with timm's names had them."""
    model = plain(192, 2, 12)
    fewer = {n: t for n, t in model.state_dict().items() if not (n.startswith(lost) or n.endswith(lost))}
    content = {
        "MAE": {"model": fewer | decoder(96)},
        "MAE-Lite": {"model": prefixed(fewer | decoder(192), "model."), "start_epoch": 1},
        "MoCo-v3": {"state_dict": prefixed(fewer, "module.base_encoder.")},
        "DINO": {"teacher": fewer},
    }.get(project, fewer)
    file = saved(content, tmp_path)
    if project.endswith("names"):
        whole = import_file(file, heads=12)
        assert not whole.missing
        assert whole.encoder.config.final_norm == (lost != "norm.")
        return
    with pytest.raises(CheckpointError, match=rf"is not the whole encoder.*{message}.*--allow-partial"):
        import_file(file, heads=12)
    found = import_file(file, heads=12, allow_partial=True)
    assert found.kind.name == project
    assert len(found.missing) == 2
    assert found.encoder.config.final_norm


@pytest.mark.parametrize("project", ["MAE", "MAE-Lite"])
def test_a_norm_behind_the_pooling_is_a_norm(project: str, tmp_path: Path) -> None:
    model = plain(192, 2, 12, num_classes=3, global_pool="avg")
    content = {"model": prefixed(model.state_dict() | decoder(192), "model."), "start_epoch": 1}
    if project == "MAE":
        model.pos_embed.data = sincos_2d(192, grid=4)
        content = {"model": model.state_dict()}
    found = import_file(saved(content, tmp_path), heads=12)
    assert found.kind.name == project
    require_equal(found, model)


@pytest.mark.parametrize("by", ["hugging face", "timm"])
def test_blocks_and_width_are_those_of_the_config_beside_it(by: str, tmp_path: Path) -> None:
    model = hugging_face("vit") if by == "hugging face" else plain()
    config: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    if by == "timm":
        config = {"model_args": {"embed_dim": WIDTH, "depth": 2, "num_heads": HEADS}}
    beside = tmp_path / "config.json"
    beside.write_text(json.dumps(config))
    assert not import_file(saved(model.state_dict(), tmp_path)).missing
    half = {k: v for k, v in model.state_dict().items() if not re.search(r"(blocks|layers?)\.1\.", k)}
    file = saved(half, tmp_path)
    with pytest.raises(CheckpointError, match=r"not the whole encoder. 12 tensors missing: blocks\.1\.norm1"):
        import_file(file)
    partial = import_file(file, allow_partial=True)
    assert (partial.encoder.config.depth, len(partial.missing)) == (2, 12)
    for old, new in ((f": {WIDTH}", ": 48"), ('": 2', '": 1')):
        beside.write_text(json.dumps(config).replace(old, new))
        with pytest.raises(CheckpointError, match=r"not what config\.json beside it describes.*move config\.json away"):
            import_file(saved(model.state_dict(), tmp_path))
    beside.unlink()
    assert import_file(saved(half, tmp_path), heads=HEADS).encoder.config.depth == 1, "the control: nothing tells"


@pytest.mark.parametrize("lost", ["pos_embed", "cls_token", "blocks.", "patch_embed.proj.weight"])
def test_what_nobody_can_make_up_is_always_refused(lost: str, tmp_path: Path) -> None:
    file = saved({k: v for k, v in plain().state_dict().items() if not k.startswith(lost)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"not a plain ViT|no vision transformer"):
        import_file(file, heads=HEADS, allow_partial=True)


def test_heads_decide_what_is_computed_and_are_asked_for(tmp_path: Path) -> None:
    model = plain(192, 1, 3)
    file = saved(model.state_dict(), tmp_path)
    with pytest.raises(UsageError, match="--heads 3 or --heads 12"):
        import_file(file)
    right, wrong = (import_file(file, heads=heads).encoder.eval() for heads in (3, 12))
    require_equal(import_file(file, heads=3), model)
    assert (right(images()) - wrong(images())).abs().max() > 0.01
    with pytest.raises(UsageError, match="cannot be split into 5 heads"):
        import_file(file, heads=5)


def test_heads_that_are_known_are_not_overruled(tmp_path: Path) -> None:
    """But by a config beside the file, whose author may know better than the kind of file."""
    file = saved(mae_lite(plain(192, 1, 12), ""), tmp_path)
    with pytest.raises(
        UsageError, match=r"--heads 3 for .*MAE-Lite of width 192 has 12 heads.*Fix: --heads 12, or none"
    ):
        import_file(file, heads=3)
    assert import_file(file, heads=12).encoder.config.heads == 12
    (tmp_path / "config.json").write_text('{"num_attention_heads": 3}')
    assert import_file(file).encoder.config.heads == import_file(file, heads=3).encoder.config.heads == 3
    with pytest.raises(
        UsageError, match=r"--heads 12 for .*config\.json beside it says 3 heads.*Fix: --heads 3, or none"
    ):
        import_file(file, heads=12)


def odd_files() -> Iterator[tuple[str, dict[str, Tensor], str]]:
    tensors = plain().state_dict()
    yield "norms of queries", tensors | {"blocks.0.attn.q_norm.weight": torch.ones(8)}, "norms of queries and keys"
    yield "distilled", plain_distilled(), "second class token"
    yield "stranger", tensors | {"blocks.0.gate.weight": torch.ones(3)}, "tensors that no plain ViT has"
    yield "nan", tensors | {"cls_token": tensors["cls_token"] * float("nan")}, "NaN or infinite"
    yield "shape", tensors | {"blocks.0.attn.qkv.weight": torch.zeros(5, 24)}, r"its shape is \(5, 24\)"
    scales = {f"blocks.{i}.ls1.gamma": torch.ones(5) for i in range(2)}
    yield "scales", tensors | scales, r"blocks\.0\.ls1\.gamma"
    yield "head", tensors | {"head.weight": torch.zeros(5, 7), "head.bias": torch.zeros(5)}, "does not fit its encoder"
    yield "grey", tensors | {"patch_embed.proj.weight": torch.zeros(24, 1, 4, 4)}, "three colours"
    yield "oblong", tensors | {"pos_embed": torch.zeros(1, 13, 24)}, "no class token and a square"


@pytest.mark.parametrize("which", ["registers", "clip", "dinov2 of hugging face", "part of a plain one"])
def test_a_whole_file_of_another_network_is_not_asked_for_whole(which: str, tmp_path: Path) -> None:
    """The control is a file that lacks a tensor."""
    from transformers import Dinov2Config, Dinov2Model

    if which == "clip":
        tensors = plain(pre_norm=True).state_dict()
    elif which == "dinov2 of hugging face":
        shape: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS}
        tensors = Dinov2Model(Dinov2Config(**shape, image_size=SIZE, patch_size=PATCH)).state_dict()
    else:
        tensors = plain().state_dict() | ({"reg_token": torch.zeros(1, 4, WIDTH)} if which == "registers" else {})
    if which == "part of a plain one":
        del tensors["blocks.0.norm1.bias"]
    with pytest.raises(CheckpointError, match=r"Fix: .*--allow-partial") as caught:
        import_file(saved(tensors, tmp_path), heads=HEADS)
    said = str(caught.value)
    assert ("is not a plain ViT, and other networks are not supported" in said) == (which != "part of a plain one")
    assert ("the whole file" in said) == (which == "part of a plain one")


def plain_distilled() -> dict[str, Tensor]:
    tensors = plain().state_dict()
    position = tensors["pos_embed"]
    return tensors | {"dist_token": tensors["cls_token"], "pos_embed": torch.cat([position[:, :1], position], dim=1)}


@pytest.mark.parametrize(
    ("tensors", "message"), [(t, m) for _, t, m in odd_files()], ids=[n for n, _, _ in odd_files()]
)
def test_other_networks_are_refused_with_the_reason(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        import_file(saved(tensors, tmp_path), heads=HEADS)


def test_positions_are_kept_and_resized_on_request_only(tmp_path: Path) -> None:
    model = plain()
    file = saved(model.state_dict(), tmp_path)
    kept = import_file(file, heads=HEADS).encoder
    assert torch.equal(kept.vit.pos_embed, model.pos_embed)  # type: ignore[arg-type]
    larger = import_file(file, heads=HEADS, image_size=32).encoder
    assert larger.config.image_size == 32
    torch.testing.assert_close(larger(images(32)), kept(images(32)))
    with pytest.raises(UsageError, match=r"not a multiple of encoder\.patch_size"):
        import_file(file, heads=HEADS, image_size=30)


def test_a_missing_bias_or_position_is_a_zero(tmp_path: Path) -> None:
    for arguments in ({"qkv_bias": False}, {"no_embed_class": True}):
        model = plain(**arguments)
        require_equal(import_file(saved(model.state_dict(), tmp_path), heads=HEADS), model)


def test_pixels_come_from_beside_the_file_or_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(plain().state_dict(), file)
    assert import_file(file, heads=HEADS).encoder.normalisation.mean == IMAGENET[0]
    assert import_file(file, heads=HEADS, normalisation=HALF).encoder.normalisation.std == HALF[1]
    config = {"model_args": {"num_heads": 3}, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = import_file(file)
    assert found.encoder.normalisation.mean == (0.1, 0.2, 0.3)
    assert found.encoder.config.heads == 3
    (tmp_path / "config.json").write_text('{"num_attention_heads": 3, "hidden_act": "quick_gelu"}')
    with pytest.raises(CheckpointError, match="quick_gelu"):
        import_file(file)


ODD = "preprocessor_config.json beside the file is ignored"


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ({"image_mean": [0.5, 0.5], "image_std": [0.5, 0.5]}, ODD),
        ({"image_mean": ["0.5", "0.5", "0.5"], "image_std": [0.5, 0.5, 0.5]}, ODD),
        ({"image_mean": "imagenet", "image_std": "imagenet"}, ODD),
        ({"image_mean": 0.5, "image_std": 0.5}, ODD),
        ({"image_std": [0.5, 0.5, 0.5]}, ODD),
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0, 0.5]}, ODD),
        ({"image_mean": [0.5, 0.5, float("nan")], "image_std": [0.5, 0.5, float("inf")]}, ODD),
        ({"image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]}, ODD),
        ({"image_mean": [10**400, 0, 0], "image_std": [1, 1, 1]}, ODD),
        ([0.5, 0.5, 0.5], "preprocessor_config.json beside the file is not a JSON object"),
        (None, "preprocessor_config.json beside the file is not a JSON object"),
        ({"size": 224}, ""),
        ({"image_mean": [0, 0.5, 0.5], "image_std": [1, 0.5, 0.5]}, "followed as it is"),
    ],
)
def test_a_description_that_makes_no_sense_is_a_remark(content: object, remark: str, tmp_path: Path) -> None:
    """The last two are the controls: nothing about pixels, and whole numbers that are sound."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    file = saved(plain().state_dict(), tmp_path)
    found = import_file(file, heads=HEADS)
    if remark == "followed as it is":
        assert found.encoder.normalisation == ((0.0, 0.5, 0.5), (1.0, 0.5, 0.5))
        return
    assert found.encoder.normalisation == IMAGENET
    assert any("ImageNet's mean and deviation are assumed" in note for note in found.notes)
    remarks = [note for note in found.notes if "beside the file" in note]
    assert len(remarks) == bool(remark)
    assert all(note.startswith(remark) for note in remarks)
    assert import_file(file, heads=HEADS, normalisation=HALF).encoder.normalisation.mean == HALF[0]


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{", "[" * 100_000, "\xff",
        '{"pretrained_cfg": "resnet", "model_args": [3]}', '{"num_attention_heads": true, "hidden_act": null}',
    ],
    ids=["list", "cut short", "deep", "no text", "no tables", "no numbers"],
)  # fmt: skip
def test_a_config_that_is_none_says_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    file = saved(plain().state_dict(), tmp_path)
    assert import_file(file, heads=HEADS).encoder.normalisation.mean == IMAGENET[0]
    with pytest.raises(UsageError, match="does not show its number of heads"):
        import_file(file)


def test_a_table_of_relative_positions_tells_the_heads(tmp_path: Path) -> None:
    """Whatever a config beside it says; in plain blocks nothing tells, which is the control."""
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}')
    file = saved(relative(num_heads=6).state_dict(), tmp_path)
    assert import_file(file).encoder.config.heads == import_file(file, heads=6).encoder.config.heads == 6
    with pytest.raises(UsageError, match=r"--heads 3 for .*a column for each of 6 heads.*Fix: --heads 6"):
        import_file(file, heads=3)
    assert import_file(saved(plain().state_dict(), tmp_path)).encoder.config.heads == 2


@pytest.mark.parametrize(("first", "second"), [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_of_weights_and_their_average_one_is_taken_and_the_other_named(first: str, second: str, tmp_path: Path) -> None:
    """Alone, either is taken without a word."""
    raw, averaged = plain(seed=1), plain(seed=2)
    content = {first: raw.state_dict(), second: prefixed(averaged.state_dict(), "module."), "optimizer": {"state": {}}}
    file = saved(content, tmp_path)
    found = import_file(file, heads=HEADS)
    require_equal(found, raw)
    (note,) = [note for note in found.notes if "--entry" in note]
    assert note.startswith(f"the weights under {first} were taken")
    assert note.endswith(f"also under {second}, an average over training by its name: --entry {second} takes that")
    other = import_file(file, heads=HEADS, entry=second)
    require_equal(other, averaged)
    assert other.facts["source"]["entry"] == second
    assert any(f"--entry {first} takes that" in note for note in other.notes)
    with pytest.raises(UsageError, match=f"no weights under ema .*--entry {first} or {second}"):
        import_file(file, heads=HEADS, entry="ema")
    for name, model in ((first, raw), (second, averaged)):
        alone = import_file(saved({name: content[name]}, tmp_path), heads=HEADS)
        require_equal(alone, model)
        assert not any("--entry" in note for note in alone.notes)


def test_an_entry_is_asked_for_where_none_is_known(tmp_path: Path) -> None:
    model = plain()
    file = saved({"backbone": model.state_dict()}, tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights in .*Fix: --entry backbone"):
        import_file(file, heads=HEADS)
    require_equal(import_file(file, heads=HEADS, entry="backbone"), model)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="has no entries"):
        import_file(tmp_path / "model.safetensors", heads=HEADS, entry="model")


def test_of_several_networks_one_is_named(tmp_path: Path) -> None:
    first, second = plain(seed=1), plain(seed=2)
    file = saved(prefixed(first.state_dict(), "a.") | prefixed(second.state_dict(), "b."), tmp_path)
    with pytest.raises(UsageError, match="--prefix a or b"):
        import_file(file, heads=HEADS)
    require_equal(import_file(file, heads=HEADS, prefix="b"), second)
    with pytest.raises(UsageError, match="no network called 'c'"):
        import_file(file, heads=HEADS, prefix="c")
