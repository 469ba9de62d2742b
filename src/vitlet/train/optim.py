"""Optimizers with the paper's parameter groups: layer-wise learning-rate decay, selective weight decay.

Papers: Loshchilov and Hutter 2019 (AdamW); Clark et al. 2020 and Bao et al. 2022 (layer decay).
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitlet.recipe import OptimizerConfig, RisingDecayOptimizerConfig, SteppedOptimizerConfig
from vitlet.units import cosine, warmup_cosine, warmup_step_decay

_TOKENS = ("cls_token", "pos_embed", "mask_token")


class Rates(NamedTuple):
    """Scheduled rates of a step."""

    lr: float
    """Learning rate of the top layer."""
    weight_decay: float
    """Weight decay of the tensors that it applies to."""


def layer_of(name: str, *, depth: int, encoder: str = "encoder") -> int:
    """0 for tokens, positions and patch embedding of the encoder; i + 1 for its block i; depth + 1 for the rest.

    Args:
        name: Name of a parameter within the objective.
        depth: Number of encoder blocks.
        encoder: The encoder's name within the objective.
    """
    within = re.escape(f"{encoder}.vit.")
    block = re.match(rf"{within}blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return 0 if re.match(rf"{within}(cls_token|pos_embed|patch_embed)", name) else depth + 1


def _name_of_encoder(objective: nn.Module) -> str:
    """The name of the encoder within the objective: a submodule of its own, or of a method it builds on."""
    return next(name for name, part in objective.named_modules() if part is objective.encoder)


def decays(name: str, parameter: nn.Parameter, config: OptimizerConfig) -> bool:
    """Whether weight decay applies to this tensor: matrices yes, biases and norms no, tokens as the recipe says."""
    if name.rsplit(".", 1)[-1] in _TOKENS:
        return config.decay_tokens
    return parameter.ndim > 1 or config.decay_one_dimensional


def parameter_groups(module: nn.Module, config: OptimizerConfig, *, depth: int) -> list[dict]:
    """Return groups with `params`, `names`, and the factors `lr_scale` and `decay_scale` of the scheduled rates.

    Every trainable tensor is in exactly one group.
    """
    groups: dict[tuple[int, bool], dict] = {}
    encoder = _name_of_encoder(module)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decay = layer_of(name, depth=depth, encoder=encoder), decays(name, parameter, config)
        group = groups.setdefault(
            (layer, decay),
            {
                "params": [],
                "names": [],
                "decay_scale": float(decay),
                "lr_scale": config.layer_decay ** (depth + 1 - layer),
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def build_optimizer(module: nn.Module, config: OptimizerConfig, *, depth: int) -> Optimizer:
    """Build the optimizer for the trainable parameters of `module`; `set_rates` sets its rates at every step."""
    groups = parameter_groups(module, config, depth=depth)
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=0.0, weight_decay=0.0, momentum=config.betas[0], nesterov=config.betas[0] > 0)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, betas=config.betas, eps=config.epsilon, fused=True)


def schedule_of(config: OptimizerConfig, *, batch_size: int, warmup: int, total: int) -> Callable[[int], Rates]:
    """Return the recipe's rates as a function of the step."""
    peak = config.lr(batch_size)

    def lr(step: int) -> float:
        if isinstance(config, SteppedOptimizerConfig):
            falls = config.milestones
            return warmup_step_decay(step, total=total, warmup=warmup, start=config.warmup_lr, peak=peak, falls=falls)
        return warmup_cosine(step, total=total, warmup=warmup, start=config.warmup_lr, peak=peak, end=config.final_lr)

    def weight_decay(step: int) -> float:
        if isinstance(config, RisingDecayOptimizerConfig):
            return cosine(step, total=total, start=config.weight_decay, end=config.final_weight_decay)
        return config.weight_decay

    return lambda step: Rates(lr(step), weight_decay(step))


def set_rates(optimizer: Optimizer, rates: Rates) -> None:
    """Set both rates of each group, multiplied by its factors."""
    for group in optimizer.param_groups:
        group["lr"] = rates.lr * group["lr_scale"]
        group["weight_decay"] = rates.weight_decay * group["decay_scale"]


def named_parameters(optimizer: Optimizer) -> Iterable[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) for everything the optimizer updates."""
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def state_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """The state that an optimizer from `build_optimizer` keeps for one parameter, by name.

    A parameter without a gradient so far (such as DINO's prototypes while they are held) gets the zeros that its first
    step would start from. So the names are the same at every step, and a state missing from a checkpoint is detected.
    """
    kept = optimizer.state.get(parameter, {})
    return {name: kept[name] if name in kept else _start(name, parameter) for name in names_of_state(optimizer)}


def _start(name: str, parameter: nn.Parameter) -> Tensor:
    """Zeros; the step count is fp32 whatever the parameter's type, as in torch."""
    return torch.zeros((), device=parameter.device) if name == "step" else torch.zeros_like(parameter)


def names_of_state(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of the state that an optimizer from `build_optimizer` keeps for each parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        return "step", "exp_avg", "exp_avg_sq"
    assert isinstance(optimizer, torch.optim.SGD)
    return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
