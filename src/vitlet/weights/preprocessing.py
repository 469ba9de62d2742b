"""How an image comes to the encoder's square, as plain values for other programs.

`preprocessing.json` says exactly what evaluation does. timm's config has fewer words: it cannot pad at the right and
the bottom alone, as a detector's encoder is trained to see, so it gets what is nearest, and the card says so.
"""

from typing import Any

from vitlet.augmentation import Centre, Fit, View
from vitlet.errors import UsageError
from vitlet.normalisation import Normalisation


def resizing_steps(view: View, normalisation: Normalisation) -> list[dict[str, Any]]:
    """Return the steps from a decoded image to the square of `view.size` pixels.

    Raises:
        UsageError: if the view crops in a way that these steps cannot tell, such as at random.
    """
    crop, size = view.crop, view.size
    if isinstance(crop, Fit):
        return [
            {"do": "resize", "long_side": size, "interpolation": "bilinear", "antialias": True},
            {"do": "pad", "size": size, "at": ["right", "bottom"], "fill": list(normalisation.fill)},
        ]
    if isinstance(crop, Centre):
        short_side = round(size / crop.share)
        return [
            {"do": "resize", "short_side": short_side, "interpolation": crop.interpolation, "antialias": True},
            {"do": "centre_crop", "size": size},
        ]
    raise _untold(view)


def timm_resizing(view: View) -> dict[str, Any]:
    """Return what timm's config says of it: exact for a centre crop, the nearest for `Fit`.

    Raises:
        UsageError: as `resizing_steps`.
    """
    if isinstance(view.crop, Fit):
        return {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "border"}
    if isinstance(view.crop, Centre):
        return {"interpolation": view.crop.interpolation, "crop_pct": view.crop.share, "crop_mode": "center"}
    raise _untold(view)


def remark(view: View, normalisation: Normalisation, *, target: str) -> str:
    """Return what the card of a model for `target` says about whole images; empty for a centre crop."""
    if not isinstance(view.crop, Fit):
        return ""
    seen = (
        f"It was trained on whole images: the long side resized to {view.size} px (bilinear), then padded at the right "
        f"and the bottom to a square with RGB {normalisation.fill}"
    )
    if target != "timm":
        return f"{seen}, as `preprocessing.json` says."
    return (
        f"{seen}. timm's config cannot say that: the transform that timm makes of it puts the image in the middle of "
        "the padded square, so features come out slightly different. For the encoder's own, do it as said here."
    )


def _untold(view: View) -> UsageError:
    return UsageError(
        f"an evaluation view with a crop of the kind {view.crop.kind}",
        why="Other programs are told how to prepare an image, and it would be another crop each time",
        fix="a recipe whose data.evaluation.crop is of the kind centre or fit",
    )
