"""Teachers that follow a student: a frozen copy, and an exponential moving average of its weights.

Paper: Tarvainen and Valpola 2017 (mean teacher); He et al. 2020 (momentum encoder).
"""

import copy
from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def frozen_copy(module: ModuleT) -> ModuleT:
    """Copy a network, with weights of its own that receive no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """Move each parameter of `teacher` towards the student's by a fraction 1 − `momentum`.

    Buffers are left alone: a teacher's batch statistics follow its own forward passes.
    """
    for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
        theirs.lerp_(ours, 1 - momentum)
