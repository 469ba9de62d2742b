"""How an image comes to the square: told exactly, to timm as nearly as it can be said, and refused where it varies."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from vitlet.augmentation import Centre, Fit, Resample, Shift, View
from vitlet.errors import UsageError
from vitlet.nn.encoder import Encoder
from vitlet.normalisation import Normalisation
from vitlet.recipe import DataConfig, EncoderConfig
from vitlet.weights.folder import CARD, write_model
from vitlet.weights.preprocessing import remark, resizing_steps, timm_resizing

CENTRE = View(size=32, crop=Centre(share=0.8, interpolation="bilinear"), flip=0)
WHOLE = View(size=32, crop=Fit(), flip=0)
OWN = Normalisation((0.9, 0.2, 0.4), (0.5, 0.5, 0.5))
SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=4)


def test_a_centre_crop_and_a_whole_image_are_told_apart() -> None:
    assert resizing_steps(CENTRE, OWN) == [
        {"do": "resize", "short_side": 40, "interpolation": "bilinear", "antialias": True},
        {"do": "centre_crop", "size": 32},
    ]
    assert resizing_steps(WHOLE, OWN) == [
        {"do": "resize", "long_side": 32, "interpolation": "bilinear", "antialias": True},
        {"do": "pad", "size": 32, "at": ["right", "bottom"], "fill": [230, 51, 102]},
    ]


@pytest.mark.parametrize("crop", [Resample(), Shift()])
def test_crops_that_vary_are_refused_before_training_and_in_models(crop: Resample | Shift) -> None:
    view = View(size=32, crop=crop, flip=0)
    for told in (lambda: resizing_steps(view, OWN), lambda: timm_resizing(view)):
        with pytest.raises(UsageError, match=rf"crop of the kind {crop.kind}.*another crop each time"):
            told()
    good = DataConfig(views=(view,), evaluation=WHOLE)
    with pytest.raises(UsageError, match=rf"data\.evaluation\.crop of the kind {crop.kind}"):
        good.changed(evaluation=view)


def test_timm_gets_what_is_nearest_and_the_card_says_what_is_not_the_same(tmp_path: Path) -> None:
    """timm's transform of a wide image: all of it is there, as with us, but in the middle of the square."""
    encoder = Encoder(SMALL, normalisation=OWN)
    write_model(tmp_path / "m", encoder=encoder, evaluation=WHOLE, facts={})
    model = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True)
    look = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8))
    pixels = look(wide) * torch.tensor(OWN.std)[:, None, None] + torch.tensor(OWN.mean)[:, None, None]
    seen = (255 * pixels).round().permute(1, 2, 0).numpy()
    assert np.array_equal(seen[8:24], np.asarray(wide.resize((32, 16), Image.Resampling.BILINEAR)))
    assert (seen[:8] == OWN.fill).all()
    assert (seen[24:] == OWN.fill).all()
    told = " ".join((tmp_path / "m" / CARD).read_text().split())
    assert "padded at the right and the bottom to a square with RGB (230, 51, 102)" in told
    assert "in the middle of the padded square" in told
    assert remark(CENTRE, OWN, target="timm") == ""
    assert "timm" not in remark(WHOLE, OWN, target="onnx")
