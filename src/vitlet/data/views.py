"""Augmentation of one decoded image: crop, colours, blur, flip, solarise, erase, in the order of `View`'s fields.

`apply_view` is a pure function of image, view and key, uint8 in and uint8 out; conversion to float is cheaper per
batch. All random draws come from `random.Random(key)`; the noise of random erasing uses a generator with a derived key,
and timm's RandAugment, which only uses global generators, runs inside `rng.fenced`.

Paper: Szegedy et al. 2015 (random resized crop), Cubuk et al. 2020 (RandAugment), Zhong et al. 2020 (erasing),
Chen et al. 2020 (colour jitter and blur of contrastive views), Grill et al. 2020 (solarise), Ghiasi et al. 2021
(large-scale jitter).
Differences:
  * Resizing uses torch's antialiased uint8 kernel, which implements Pillow's filters in fixed point: pixels differ from
    Pillow's by 0.02 levels of 255 on average, and it is six times as fast (`vitlet.benchmarks.input`).
  * Jitter and blur are Pillow's operations, as in the published pipelines, and up to four times as fast as torch's.
    Pillow's blur of radius σ approximates a Gaussian by three box passes.
  * Erasing precedes normalisation, so its N(0, 1) noise is mapped to pixels by mean and std, rounded, and clipped to
    0 … 255: at ImageNet's values the tails beyond about ±2σ are cut off.
  * The flip follows RandAugment rather than preceding it; RandAugment's signs are symmetric, so the distribution is the
    same.
"""

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from vitlet import rng
from vitlet.augmentation import Centre, Fit, Jitter, LargeScaleJitter, RandAugment, Resample, Shift, View
from vitlet.normalisation import IMAGENET, Normalisation

_ATTEMPTS = 10
_LONGEST_ASPECT = 4
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)
_BLUR_SIGMA = (0.1, 2.0)

_Levels = tuple[int, int, int]


def apply_view(
    image: UInt8[Tensor, "3 H W"],
    view: View,
    *,
    key: int,
    normalisation: Normalisation = IMAGENET,
) -> UInt8[Tensor, "3 S S"]:
    """Apply `view` to `image` once.

    Args:
        image: RGB, 0 … 255, on the CPU, in any memory layout; not modified.
        view: The augmentation; `view.size` is S.
        key: From `rng.derive(seed, epoch, position, view_number)`; the same key gives the same pixels.
        normalisation: The normalisation that follows. As in timm, its mean fills areas exposed by RandAugment, and the
            noise of random erasing is N(0, 1) after it; the mean also pads images to a square.

    Returns:
        RGB, 0 … 255, in the image's memory layout where possible (channels last is the fastest). It may share memory
        with the image if nothing was changed.
    """
    return look(image, view, key=key, normalisation=normalisation)[0]


def look(
    image: UInt8[Tensor, "3 H W"],
    view: View,
    *,
    key: int,
    normalisation: Normalisation = IMAGENET,
) -> tuple[UInt8[Tensor, "3 S S"], "Placement | None", bool]:
    """Like `apply_view`, but also return the placement and the flip, which boxes and masks must follow.

    The placement is None for crops other than `LargeScaleJitter` and `Fit`. For these the flip comes first, as in
    detectron2, so that the padding is on the right and at the bottom of every image.
    """
    draw = random.Random(key)
    if isinstance(view.crop, LargeScaleJitter | Fit):
        is_flipped = draw.random() < view.flip
        placement = place(image.shape[1], image.shape[2], view, draw)
        pixels = _put(image.flip(-1) if is_flipped else image, placement, fill=normalisation.fill)
        pixels = _recolour(pixels, view, draw, key=key, fill=normalisation.fill)
    else:
        placement = None
        pixels = _recolour(_crop(image, view, draw), view, draw, key=key, fill=normalisation.fill)
        is_flipped = draw.random() < view.flip
        pixels = pixels.flip(-1) if is_flipped else pixels
    if draw.random() < view.solarize:
        pixels = torch.minimum(pixels, 255 - pixels)  # inverts exactly the values from 128
    if draw.random() < view.erase:
        pixels = _erase(pixels, draw, key=key, normalisation=normalisation)
    return pixels, placement, is_flipped


@dataclass(frozen=True)
class Placement:
    """A `size` × `size` window of an image resized to `height` × `width`, all in pixels."""

    height: int
    width: int
    top: int
    left: int
    size: int


def place(height: int, width: int, view: View, draw: random.Random) -> Placement:
    """Draw the placement of an image of `height` × `width` for `LargeScaleJitter` or `Fit`."""
    size, crop = view.size, view.crop
    scale = draw.uniform(*crop.scale) if isinstance(crop, LargeScaleJitter) else 1.0
    ratio = scale * size / max(height, width)
    height, width = max(1, round(height * ratio)), max(1, round(width * ratio))
    top, left = (draw.randint(0, max(0, side - size)) for side in (height, width))
    return Placement(height, width, top, left, size)


def _put(image: Tensor, placement: Placement, *, fill: _Levels) -> Tensor:
    at, size = placement, placement.size
    pixels = resize(image, (at.height, at.width), "bilinear")[:, at.top : at.top + size, at.left : at.left + size]
    if pixels.shape[1:] == (size, size):
        return pixels
    square = torch.tensor(fill, dtype=torch.uint8).expand(size, size, 3).clone().permute(2, 0, 1)
    square[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return square


def _crop(image: Tensor, view: View, draw: random.Random) -> Tensor:
    crop, size = view.crop, view.size
    if isinstance(crop, Resample):
        top, left, height, width = random_box(image.shape[1], image.shape[2], crop, draw)
        name = crop.interpolation
        mode = draw.choice(("bilinear", "bicubic")) if name == "random" else name
        return resize(image[:, top : top + height, left : left + width], (size, size), mode)
    if isinstance(crop, Shift):
        return _shift(image, size, crop.padding, draw)
    assert isinstance(crop, Centre)
    return _centre(image, size, share=crop.share, mode=crop.interpolation)


def random_box(height: int, width: int, crop: Resample, draw: random.Random) -> tuple[int, int, int, int]:
    """Draw a crop box by torchvision's rule.

    Tries ten times to draw an area (uniform) and an aspect ratio (log-uniform); if none fits, returns the largest
    centred box whose aspect ratio is within `crop.ratio`.

    Returns:
        Top, left, height, width in pixels, inside the image and never empty.
    """
    low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
    for _ in range(_ATTEMPTS):
        area = draw.uniform(*crop.scale) * height * width
        aspect = math.exp(draw.uniform(low, high))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            return draw.randint(0, height - box_height), draw.randint(0, width - box_width), box_height, box_width
    box_height = min(height, max(1, round(width / crop.ratio[0])))
    box_width = min(width, max(1, round(height * crop.ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resize(image: UInt8[Tensor, "3 H W"], shape: tuple[int, int], mode: str) -> UInt8[Tensor, "3 h w"]:
    """Resize `image` to `shape` (height, width) with antialiasing; `mode` is `bilinear` or `bicubic`."""
    if image.shape[1:] == shape:
        return image
    # The batch stride of a single image is arbitrary, but torch takes its fast channels-last path only if it is that of
    # a larger batch. Results are the same, stay channels last, and take a third less time.
    apart = max(length * step for length, step in zip(image.shape, image.stride(), strict=True))
    batch = image.as_strided((1, *image.shape), (apart, *image.stride()))
    return interpolate(batch, size=shape, mode=mode, antialias=True, align_corners=False)[0]


def _centre(image: Tensor, size: int, *, share: float, mode: str) -> Tensor:
    height, width = image.shape[1:]
    short = min(height, width)
    # The ends of a very long image are cropped anyway, and enlarging them would take unbounded memory.
    height, width = min(height, _LONGEST_ASPECT * short), min(width, _LONGEST_ASPECT * short)
    image = _middle(image, height, width)
    target = round(size / share)
    shape = (target * height // short, target * width // short)
    return _middle(resize(image, shape, mode), size, size)


def _middle(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    top, left = round((image.shape[1] - height) / 2), round((image.shape[2] - width) / 2)
    return image[:, top : top + height, left : left + width]


def _shift(image: Tensor, size: int, padding: int, draw: random.Random) -> Tensor:
    pixels = _centre(image, size, share=1.0, mode="bicubic").numpy()
    rows, columns = (_reflected(size, draw.randint(-padding, padding)) for _ in range(2))
    return torch.from_numpy(pixels.take(rows, axis=1).take(columns, axis=2))


@functools.lru_cache(maxsize=1024)
def _reflected(size: int, offset: int) -> np.ndarray:
    """Indices `offset … offset + size - 1` into `size` pixels, reflected at both ends; edges are not repeated."""
    period = 2 * (size - 1)
    index = np.arange(offset, offset + size) % period
    index = np.minimum(index, period - index)
    index.flags.writeable = False
    return index


def _recolour(pixels: Tensor, view: View, draw: random.Random, *, key: int, fill: _Levels) -> Tensor:
    """Apply the Pillow operations, with one conversion to Pillow and back, or none if no operation was drawn."""
    jitter = view.jitter
    if view.rand_augment is not None or (jitter is not None and draw.random() >= jitter.probability):
        jitter = None
    blurred = draw.random() < view.blur
    grey = draw.random() < view.grayscale
    if not (view.rand_augment is not None or jitter is not None or blurred or grey):
        return pixels
    photo = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    if view.rand_augment is not None:
        photo = _rand_augment(photo, view.rand_augment, key=key, fill=fill)
    if jitter is not None:
        photo = _jitter(photo, jitter, draw)
    if blurred:
        photo = photo.filter(ImageFilter.GaussianBlur(draw.uniform(*_BLUR_SIGMA)))
    if grey:
        photo = photo.convert("L").convert("RGB")
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def _rand_augment(photo: Image.Image, values: RandAugment, *, key: int, fill: _Levels) -> Image.Image:
    augment = _timm_rand_augment(
        f"rand-m{values.magnitude}-n{values.num_operations}-mstd{values.magnitude_std}-inc1",
        fill=fill,
    )
    with rng.fenced(rng.derive(key, "rand_augment")):
        return augment(photo)


@functools.cache
def _timm_rand_augment(config: str, *, fill: _Levels) -> Callable[[Image.Image], Image.Image]:
    """Return timm's transform with DeiT's settings; translations are relative, so the size is not needed."""
    from timm.data import auto_augment  # takes seconds to import and few recipes need it

    augment = auto_augment.rand_augment_transform(config, {"img_mean": fill, "interpolation": Image.Resampling.BICUBIC})
    for operation in augment.ops:
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return augment


def _posterize(photo: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep `bits` bits of each value. 0 bits (magnitude 10) give black, which Pillow refuses from version 13."""
    return ImageOps.posterize(photo, bits) if bits else Image.new(photo.mode, photo.size)


def _jitter(photo: Image.Image, jitter: Jitter, draw: random.Random) -> Image.Image:
    """Change brightness, contrast, saturation and hue in random order by uniform amounts, as torchvision does."""
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for operation in draw.sample(range(4), 4):
        if operation == 3:
            photo = _turn_hue(photo, draw.uniform(-jitter.hue, jitter.hue))
        else:
            strength = strengths[operation]
            photo = enhancers[operation](photo).enhance(draw.uniform(1 - strength, 1 + strength))
    return photo


def _turn_hue(photo: Image.Image, turns: float) -> Image.Image:
    levels = int(255 * turns)
    if levels == 0:
        return photo  # avoids the rounding errors of conversion to HSV and back
    hue, saturation, value = photo.convert("HSV").split()
    hue = hue.point([(level + levels) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _erase(pixels: Tensor, draw: random.Random, *, key: int, normalisation: Normalisation) -> Tensor:
    """Fill one rectangle, drawn by timm's rule, with noise; unchanged if none fits in ten tries."""
    size = pixels.shape[-1]
    low, high = (math.log(aspect) for aspect in _ERASED_ASPECT)
    for _ in range(_ATTEMPTS):
        area = draw.uniform(*_ERASED_AREA) * size * size
        aspect = math.exp(draw.uniform(low, high))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < size and width < size:
            top, left = draw.randint(0, size - height), draw.randint(0, size - width)
            noise = np.random.Generator(np.random.Philox(key=rng.derive(key, "erase")))
            normal = noise.standard_normal((3, height, width), dtype=np.float32)
            centre, scale = (np.asarray(values, dtype=np.float32)[:, None, None] for values in normalisation)
            colours = (255 * (centre + scale * normal)).round().clip(0, 255).astype(np.uint8)
            erased = pixels.clone()
            erased[:, top : top + height, left : left + width] = torch.from_numpy(colours)
            return erased
    return pixels
