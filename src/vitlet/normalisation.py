"""How pixels are normalised before an encoder sees them. Free of torch."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Normalisation(NamedTuple):
    """Mean and standard deviation that pixels in 0 … 1 are normalised with; R, G, B."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @classmethod
    def of_timm(cls, config: Mapping[str, Any]) -> "Normalisation":
        """Read it from timm's `pretrained_cfg`, of a network or of its file."""
        return cls(tuple(config["mean"]), tuple(config["std"]))

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour, 0 … 255, that is nearest to zero after normalisation."""
        red, green, blue = (min(255, max(0, round(255 * value))) for value in self.mean)
        return red, green, blue


IMAGENET = Normalisation()
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Maps 0 … 1 to -1 … 1: many of timm's and Google's weights."""
