"""Normalisation of pixels as one multiplication and one addition.

Two others divide: `ConvEncoder`, and exported models, which follow the steps of their `preprocessing.json` one by one.
The results differ by rounding.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlet.normalisation import Normalisation


def scale_and_shift(normalisation: Normalisation) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Return (scale, shift) by channel: values x of 0 … 255 are normalised to x · scale + shift."""
    mean, std = map(torch.tensor, normalisation)
    scale = 1 / (std * 255)
    return scale, -mean * 255 * scale
