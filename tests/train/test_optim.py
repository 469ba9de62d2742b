import pytest
import torch
from torch import nn

from vitlet.methods.mae import MAE
from vitlet.methods.supervised import Supervised
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig, OptimizerConfig
from vitlet.recipes import by_name
from vitlet.train.optim import (
    Rates,
    build_optimizer,
    layer_of,
    named_parameters,
    parameter_groups,
    schedule_of,
    set_rates,
)
from vitlet.units import Epochs, to_steps

IMAGENET = 1_281_167


def small(**changes: object) -> EncoderConfig:
    return EncoderConfig(image_size=8, patch_size=4, width=8, heads=2, **{"depth": 12, **changes})


@pytest.fixture(scope="module")
def classifier() -> Supervised:
    return Supervised(Encoder(small(final_norm=False)), num_classes=3)


@pytest.fixture(scope="module")
def masked() -> MAE:
    return MAE(Encoder(small(depth=2, position="sincos")), decoder_width=8, decoder_heads=1)


def by_parameter(module: nn.Module, config: OptimizerConfig, *, depth: int) -> dict[str, dict]:
    groups = parameter_groups(module, config, depth=depth)
    return {name: group for group in groups for name in group["names"]}


def test_layer_decay_has_the_multipliers_of_the_paper(classifier: Supervised) -> None:
    """Spec C.2: d = 0.85 over 12 blocks."""
    found = by_parameter(classifier, OptimizerConfig(layer_decay=0.85), depth=12)
    scales = {name: group["lr_scale"] for name, group in found.items()}
    for stem in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        assert scales[f"encoder.vit.{stem}"] == pytest.approx(0.1209, abs=5e-5)
    assert scales["encoder.vit.blocks.0.attn.qkv.weight"] == pytest.approx(0.1422, abs=5e-5)
    assert scales["encoder.vit.blocks.11.mlp.fc2.bias"] == 0.85
    assert all(scale == 1.0 for name, scale in scales.items() if name.startswith("classifier."))
    for i in range(12):
        block = {scale for name, scale in scales.items() if name.startswith(f"encoder.vit.blocks.{i}.")}
        assert block == {0.85 ** (12 - i)}


def test_without_layer_decay_all_learn_alike(classifier: Supervised) -> None:
    assert {g["lr_scale"] for g in parameter_groups(classifier, OptimizerConfig(), depth=12)} == {1.0}


@pytest.mark.parametrize(
    ("tokens", "one_dimensional"), [(False, False), (True, False), (True, True)], ids=["fine-tuning", "MAE", "MoCo-v3"]
)
def test_weight_decay_pulls_where_the_paper_says(masked: MAE, tokens: bool, one_dimensional: bool) -> None:
    """Spec C.1, C.2: never biases and norms (but in MoCo-v3), tokens and positions only in MAE."""
    config = OptimizerConfig(weight_decay=0.05, decay_tokens=tokens, decay_one_dimensional=one_dimensional)
    optimizer = build_optimizer(masked, config, depth=2)
    set_rates(optimizer, Rates(0.1, config.weight_decay))
    found = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["names"]}
    for name, parameter in masked.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith(("cls_token", "mask_token")):
            expected = 0.05 if tokens else 0.0
        elif name.endswith(".bias") or "norm" in name:
            expected = 0.05 if one_dimensional else 0.0
        else:
            expected = 0.05
        assert found[name] == expected, name


@pytest.mark.parametrize("decay", [1.0, 0.75])
def test_every_trainable_parameter_is_in_exactly_one_group(masked: MAE, classifier: Supervised, decay: float) -> None:
    for module, depth in ((masked, 2), (classifier, 12)):
        groups = parameter_groups(module, OptimizerConfig(layer_decay=decay), depth=depth)
        names = [name for group in groups for name in group["names"]]
        assert sorted(names) == sorted(name for name, p in module.named_parameters() if p.requires_grad)
        parameters = dict(module.named_parameters())
        assert all(parameters[n] is p for g in groups for n, p in zip(g["names"], g["params"], strict=True))


def test_fixed_positions_are_not_trained(masked: MAE) -> None:
    names = {name for name, _ in named_parameters(build_optimizer(masked, OptimizerConfig(), depth=2))}
    assert not any("pos_embed" in name for name in names)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.vit.cls_token", 0),
        ("encoder.vit.patch_embed.proj.bias", 0),
        ("encoder.vit.blocks.10.norm1.weight", 11),
        ("encoder.vit.norm.weight", 13),
        ("decoder_blocks.0.mlp.fc1.weight", 13),
        ("decoder_pos_embed", 13),
        ("mask_token", 13),
        ("classifier.head.weight", 13),
    ],
)
def test_layers(name: str, layer: int) -> None:
    assert layer_of(name, depth=12) == layer


def test_layers_are_those_of_the_encoder_wherever_it_stands() -> None:
    name = "outer.inner.vit.blocks.3.norm1.weight"
    assert layer_of(name, depth=12, encoder="outer.inner") == 4
    assert layer_of(name, depth=12) == 13
    assert layer_of("outerxinner.vit.cls_token", depth=12, encoder="outer.inner") == 13


def test_kinds() -> None:
    module = MAE(Encoder(small(depth=1)), decoder_width=8, decoder_heads=1)
    adamw = build_optimizer(module, OptimizerConfig(betas=(0.8, 0.9), epsilon=1e-6), depth=1)
    assert isinstance(adamw, torch.optim.AdamW)
    assert all((g["betas"], g["eps"]) == ((0.8, 0.9), 1e-6) for g in adamw.param_groups)
    sgd = build_optimizer(module, OptimizerConfig(kind="sgd", betas=(0.9, 0.0)), depth=1)
    assert isinstance(sgd, torch.optim.SGD)
    assert all(g["momentum"] == 0.9 and g["nesterov"] for g in sgd.param_groups)
    assert isinstance(build_optimizer(module, OptimizerConfig(kind="sgd", betas=(0.0, 0.0)), depth=1), torch.optim.SGD)


def test_the_learning_rate_of_every_group_is_its_share(classifier: Supervised) -> None:
    optimizer = build_optimizer(classifier, OptimizerConfig(layer_decay=0.5), depth=12)
    set_rates(optimizer, Rates(lr=0.08, weight_decay=0.0))
    assert all(g["lr"] == 0.08 * g["lr_scale"] for g in optimizer.param_groups)
    assert min(g["lr"] for g in optimizer.param_groups) == 0.08 * 0.5**13


def test_weight_decay_of_dino_rises_along_a_cosine_and_that_of_others_stays() -> None:
    """Spec C.1: from 0.04 to 0.4; half of the way is the middle of the run."""
    rates = schedule_of(by_name("dino_tiny_100e").optimizer, batch_size=512, warmup=10, total=100)
    assert [rates(step).weight_decay for step in (0, 50, 100)] == pytest.approx([0.04, 0.22, 0.4])
    assert rates(25).weight_decay == pytest.approx(0.04 + 0.36 * (1 - 0.5**0.5) / 2)
    others = schedule_of(by_name("mae_tiny_400e").optimizer, batch_size=4096, warmup=10, total=100)
    assert {others(step).weight_decay for step in (0, 50, 100)} == {0.05}


def test_simmim_falls_to_a_tenth_at_epoch_700_of_800() -> None:
    rates = schedule_of(by_name("simmim_tiny").optimizer, batch_size=2048, warmup=10, total=800)
    assert [rates(epoch).lr for epoch in (10, 699, 700, 799)] == pytest.approx([4e-4, 4e-4, 4e-5, 4e-5])


def test_the_improved_recipe_has_the_rates_of_the_paper() -> None:
    """Spec C.3: peak 0.004 after 5 of 300 epochs, about 0.00205 in the middle, 1e-6 at the end."""
    recipe = by_name("finetune_tiny_impr_300e")
    steps = {n: to_steps(Epochs(n=n), num_images=IMAGENET, batch_size=1024) for n in (1, 5, 150, 300)}
    assert steps[1] == 1251
    rates = schedule_of(recipe.optimizer, batch_size=1024, warmup=steps[5], total=steps[300])
    assert rates(0).lr == 0.0
    assert rates(steps[5]).lr == pytest.approx(4e-3)
    assert rates(steps[150]).lr == pytest.approx(0.00205, abs=1e-5)
    assert rates(steps[300]).lr == 1e-6
    assert rates(steps[300] + 5).lr == 1e-6


def test_mae_has_the_rates_of_the_paper() -> None:
    """Spec C.1: 1.5e-4 · 4096 / 256, 40 epochs of warm-up from 0, then to 0."""
    recipe = by_name("mae_tiny_400e")
    per_epoch = to_steps(Epochs(n=1), num_images=IMAGENET, batch_size=4096)
    assert per_epoch == 312
    rates = schedule_of(recipe.optimizer, batch_size=4096, warmup=40 * per_epoch, total=400 * per_epoch)
    assert rates(0).lr == 0.0
    assert rates(20 * per_epoch).lr == pytest.approx(1.2e-3)
    assert rates(40 * per_epoch).lr == pytest.approx(2.4e-3)
    assert rates(220 * per_epoch).lr == pytest.approx(1.2e-3)
    assert rates(400 * per_epoch).lr == 0.0
