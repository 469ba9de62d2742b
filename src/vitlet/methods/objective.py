"""What every method is: a module that turns a batch and a step into losses, and moves its own teachers after it."""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vitlet.data.batch import Batch
from vitlet.nn.encoder import Encoder
from vitlet.rng import derive

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def untraced(function: FunctionT) -> FunctionT:
    """Keep torch.compile out of a function that draws: it takes NumPy's and Python's numbers for tensors."""
    return torch.compiler.disable(function)  # type: ignore[return-value]


@dataclass(frozen=True)
class Step:
    """Where training is; the only thing besides the batch that a loss may depend on."""

    index: int
    """0-based number of the optimizer step that is about to be taken."""
    total: int
    """Steps of the whole run."""
    seed: int

    def key(self, purpose: str) -> int:
        """A seed for draws of one purpose in this step; combine with `batch.slots` through `rng.uniform`."""
        return derive(self.seed, purpose, self.index)


@dataclass(frozen=True)
class Losses:
    """The scalar to descend, its parts, and what is worth a look; means over the batch."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module, abc.ABC):
    """A method's mathematics and state. It knows no optimizer and no file.

    What it makes stands on the device of its batch. A batch may lie on several ranks; that shows only where a loss or a
    queue looks at all of it, and there through `vitlet.nn.across`, which changes nothing in a single process.
    """

    encoder: Encoder
    """The network that is kept when training is over."""

    @abc.abstractmethod
    def forward(self, batch: Batch, step: Step) -> Losses:
        """Losses of a batch, or of a part of one: means over its samples."""

    def after_step(self, step: Step) -> None:
        """Move what follows the weights (teachers, centres, queues); called once after each optimizer step."""
        return

    def provenance(self) -> dict[str, Any]:
        """What the card of the encoder must say beside the recipe: whose knowledge is in it, and under what licence."""
        return {}
