"""A network that another one uses but does not own: a teacher."""

from collections.abc import Callable
from typing import Generic, TypeVar, cast

from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Frozen(nn.Module, Generic[ModuleT]):
    """Holds a network in evaluation mode and without gradients, and keeps it out of everything that is saved.

    The network is not a submodule: `state_dict()`, `parameters()` and `train()` do not reach it, so neither a
    checkpoint nor an export nor an optimizer sees it. It still follows its owner to a device.
    """

    def __init__(self, network: ModuleT) -> None:
        """`network` is changed in place: evaluation mode, no gradients."""
        super().__init__()
        self._held = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> ModuleT:
        """The network; call it under `torch.no_grad()`."""
        return self._held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen[ModuleT]":
        self._held[0]._apply(fn, recurse)
        return cast("Frozen[ModuleT]", super()._apply(fn, recurse))
