"""The interface of every method: a module that turns a batch and a step into losses, then moves its own teachers."""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from vitlet.data.batch import Batch
from vitlet.nn.encoder import Encoder
from vitlet.rng import derive

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
PartT = TypeVar("PartT")


def untraced(function: FunctionT) -> FunctionT:
    """Keep torch.compile out of a function that draws: it would treat NumPy and Python numbers as tensors."""
    return torch.compiler.disable(function)  # type: ignore[return-value]


@dataclass(frozen=True)
class Step:
    """The position in training; besides the batch, the only thing a loss may depend on."""

    index: int
    """0-based index of the coming optimizer step."""
    total: int
    """Number of steps of the whole run."""
    seed: int

    def key(self, purpose: str) -> int:
        """A seed for this step's draws for one purpose; combine with `batch.slots` through `rng.uniform`."""
        return derive(self.seed, purpose, self.index)


@dataclass(frozen=True)
class Losses:
    """The scalar to minimise, its terms, and statistics to monitor; means over the batch."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)


class PartsOfStep(Generic[PartT]):
    """What `forward` notes of each part of a step's batch, until `after_step` takes it.

    fp16 skips a step whose loss scale was too high, and `after_step` is then not called. What such a step noted is
    dropped when the next one begins: it is in no checkpoint, so keeping it would make resuming change the result.
    """

    def __init__(self) -> None:
        """Nothing noted."""
        self._index: int | None = None
        self._parts: list[PartT] = []

    @untraced
    def add(self, step: Step, part: PartT) -> None:
        """Note `part` for `step`."""
        if step.index != self._index:
            self._index, self._parts = step.index, []
        self._parts.append(part)

    def take(self) -> list[PartT]:
        """Return what was noted for the step, in order, and forget it."""
        parts, self._index, self._parts = self._parts, None, []
        return parts


class Objective(nn.Module, abc.ABC):
    """A method's mathematics and state. It knows no optimizer and no file.

    It creates tensors on the device of its batch. A batch may be spread over several ranks; this matters only where a
    loss or a queue needs all of it, and there through `distributed.across`, which changes nothing in a single process.
    """

    encoder: Encoder
    """The network that is kept after training."""

    @abc.abstractmethod
    def forward(self, batch: Batch, step: Step) -> Losses:
        """Losses of a batch or of a part of one: means over its samples."""

    def after_step(self, step: Step) -> None:
        """Update what follows the weights (teachers, centres, queues); called once after each optimizer step."""
        return

    def provenance(self) -> dict[str, Any]:
        """Facts for the encoder's card besides the recipe: which teacher it learned from, and under what licence."""
        return {}
