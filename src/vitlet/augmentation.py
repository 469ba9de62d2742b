"""Config of a view: how an image is cropped, coloured, flipped and erased.

`vitlet.data.views` applies it. The name of a class is that of the operation in the literature or in torchvision.
"""

from typing import Annotated, Literal

from pydantic import Field

from vitlet.bounds import Factors, Fraction, Shares
from vitlet.config import Config


class Resample(Config):
    """RandomResizedCrop (Szegedy et al. 2015): a crop of random area and aspect ratio, resized to the input size."""

    kind: Literal["resample"] = "resample"
    scale: Shares = (0.08, 1.0)
    ratio: Factors = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"
    """`random` picks bilinear or bicubic per image, as the paper's code does."""


class Shift(Config):
    """Pad by reflection and crop at random: the usual augmentation for images near 32 pixels."""

    kind: Literal["shift"] = "shift"
    padding: Annotated[int, Field(ge=0, le=64)] = 4


class Centre(Config):
    """Evaluation: resize the short side to `size / share`, then crop the centre."""

    kind: Literal["centre"] = "centre"
    share: Annotated[float, Field(gt=0, le=1)] = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


class LargeScaleJitter(Config):
    """For detection (Ghiasi et al. 2021): resize to fit `size` times a random scale, then take a random `size` × `size`
    window, padded at the right and bottom if the image is smaller.
    """

    kind: Literal["large-scale-jitter"] = "large-scale-jitter"
    scale: Factors = (0.1, 2.0)


class Fit(Config):
    """Evaluation of a detector: resize the long side to `size` and pad the rest of the square, without cropping."""

    kind: Literal["fit"] = "fit"


class Jitter(Config):
    """Colour jitter: strengths of brightness, contrast, saturation and hue, applied with `probability`."""

    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    probability: Fraction = 0.8


class RandAugment(Config):
    """RandAugment (Cubuk et al. 2020) as implemented by timm: two operations, increasing magnitudes."""

    magnitude: Annotated[int, Field(ge=0, le=10)] = 9
    magnitude_std: Annotated[float, Field(ge=0, le=5)] = 0.5
    num_operations: Annotated[int, Field(ge=1, le=8)] = 2


class View(Config):
    """One view of an image. Operations are applied in the order of the fields."""

    size: Annotated[int, Field(ge=8, le=2048)]
    """Side of the square result in pixels."""
    crop: Annotated[Resample | Shift | Centre | LargeScaleJitter | Fit, Field(discriminator="kind")]
    rand_augment: RandAugment | None = None
    jitter: Jitter | None = None
    """No effect if `rand_augment` is set, as in timm (the paper's recipes list both)."""
    blur: Fraction = 0.0
    """Probability of a Gaussian blur with σ uniform in 0.1 … 2 pixels."""
    grayscale: Fraction = 0.0
    flip: Fraction = 0.5
    solarize: Fraction = 0.0
    erase: Fraction = 0.0
    """Probability of random erasing with pixel noise (Zhong et al. 2020), after everything else."""
