"""LARS: momentum SGD whose step is scaled per tensor to the tensor's norm.

Paper: You, Gitman and Ginsburg 2017, in the form used by MAE's linear probe: the scaled gradient enters the momentum,
the learning rate multiplies its output, and one-dimensional tensors are not scaled.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


class Lars(Optimizer):
    """`v ← m·v + t·(‖w‖/‖g‖)·g`, then `w ← w − lr·v`; the factor is 1 for one dimension or if a norm is 0."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.9, trust: float = 0.001
    ) -> None:
        """Without weight decay, which no probe uses.

        Args:
            parameters: Parameters, all in one group.
            lr: Learning rate; may be changed before each step, in `param_groups`.
            momentum: 0 … 1.
            trust: Length of a step relative to the tensor's norm, for a learning rate of 1.
        """
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every tensor that has a gradient; gradients are computed beforehand, so there is no closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad
                if parameter.ndim > 1:
                    length, slope = parameter.norm(), update.norm()
                    ratio = torch.where((length > 0) & (slope > 0), group["trust"] * length / slope, 1.0)
                    update = update * ratio
                state = self.state[parameter]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(parameter)
                state["velocity"].mul_(group["momentum"]).add_(update)
                parameter.add_(state["velocity"], alpha=-group["lr"])
