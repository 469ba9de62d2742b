"""One random look at a decoded image: crop, colours, blur, flip, solarise, erase, in the order of `View`'s fields.

`apply_view` is a pure function of image, view and key, uint8 in and uint8 out: pixels become floats once per batch,
where that is cheaper. Every draw comes from `random.Random(key)`, the noise of erasing from a generator of a key
derived from it, and timm's RandAugment, which knows only global generators, runs inside `rng.fenced`.

Paper: Szegedy et al. 2015 (random resized crop), Cubuk et al. 2020 (RandAugment), Zhong et al. 2020 (erasing),
Chen et al. 2020 (colour jitter and blur of contrastive views), Grill et al. 2020 (solarise), Ghiasi et al. 2021
(large-scale jitter).
Differences:
  * Resizing is torch's antialiased uint8 kernel, which follows Pillow's filters in fixed point: pixels differ from
    Pillow's by 0.02 levels of 255 in the mean, and come six times as fast (`vitlet.bench.input`).
  * Jitter and blur are Pillow's operations, as in the published chains, and up to four times as fast as torch's.
    Its blur of radius σ is three box passes, which approach a Gaussian.
  * Erasing comes before normalisation here, so its N(0, 1) noise is mapped to pixels by mean and std, rounded, and
    clipped to 0 … 255: at ImageNet's values the tails beyond about ±2σ are cut off.
  * The flip comes after RandAugment, not before; the signs there are drawn evenly, so the distribution is the same.
"""

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from vitlet import rng
from vitlet.augmentation import Centre, Fit, Jitter, LargeScaleJitter, RandAugment, Resample, Shift, View

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_ATTEMPTS = 10
_LONGEST_ASPECT = 4
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)
_BLUR_SIGMA = (0.1, 2.0)

_Levels = tuple[int, int, int]


class Normalisation(NamedTuple):
    """What an encoder subtracts from an image in 0 … 1, and then divides it by; R, G, B."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def fill(self) -> _Levels:
        """The colour, 0 … 255, that is nearest to zero for the encoder."""
        red, green, blue = (min(255, max(0, round(255 * value))) for value in self.mean)
        return red, green, blue


IMAGENET = Normalisation()


def apply_view(
    image: UInt8[Tensor, "3 H W"],
    view: View,
    *,
    key: int,
    normalisation: Normalisation = IMAGENET,
) -> UInt8[Tensor, "3 S S"]:
    """Look at `image` once through `view`.

    Args:
        image: RGB, 0 … 255, on the CPU, in any memory layout. It is not changed.
        view: What to do; `view.size` is S.
        key: From `rng.derive(seed, epoch, position, view_number)`; the same key gives the same pixels.
        normalisation: The one that follows. As in timm, its mean fills what RandAugment uncovers, and noise of erasing
            is N(0, 1) after it; the mean fills what an image leaves of a square, too.

    Returns:
        RGB, 0 … 255. It keeps the image's memory layout where it can (channels last is the fastest) and may share
        memory with the image where nothing was to be done.
    """
    return look(image, view, key=key, normalisation=normalisation)[0]


def look(
    image: UInt8[Tensor, "3 H W"],
    view: View,
    *,
    key: int,
    normalisation: Normalisation = IMAGENET,
) -> tuple[UInt8[Tensor, "3 S S"], "Placement | None", bool]:
    """`apply_view`, with where the image was put (None for crops of which nobody asks it) and whether it was flipped
    after that: what boxes and masks need to follow.
    """
    draw = random.Random(key)
    placement = None
    if isinstance(view.crop, LargeScaleJitter | Fit):
        placement = place(image.shape[1], image.shape[2], view, draw)
        pixels = _put(image, placement, fill=normalisation.fill)
    else:
        pixels = _crop(image, view, draw)
    pixels = _recolour(pixels, view, draw, key=key, fill=normalisation.fill)
    is_flipped = draw.random() < view.flip
    if is_flipped:
        pixels = pixels.flip(-1)
    if draw.random() < view.solarize:
        pixels = torch.minimum(pixels, 255 - pixels)  # inverts exactly the values of 128 and above
    if draw.random() < view.erase:
        pixels = _erase(pixels, draw, key=key, normalisation=normalisation)
    return pixels, placement, is_flipped


@dataclass(frozen=True)
class Placement:
    """An image resized to `height` × `width`, of which a window of `size` × `size` is seen, all in pixels."""

    height: int
    width: int
    top: int
    left: int
    size: int


def place(height: int, width: int, view: View, draw: random.Random) -> Placement:
    """Where an image of `height` × `width` is put by `LargeScaleJitter` or `Fit`."""
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
    """The part of an image that `crop` looks at, by torchvision's rule.

    Ten tries at an area and an aspect, uniform and log-uniform; if none fits, the largest centred box whose aspect
    is within `crop.ratio`.

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
    """`image` at `shape` (height, width), antialiased; `mode` is `bilinear` or `bicubic`."""
    if image.shape[1:] == shape:
        return image
    # The stride of a batch of one is free to choose, and torch keeps to its fast path for channels-last images only
    # if it is that of a larger batch; the same numbers come out, a third sooner, and stay channels last.
    apart = max(length * step for length, step in zip(image.shape, image.stride(), strict=True))
    batch = image.as_strided((1, *image.shape), (apart, *image.stride()))
    return interpolate(batch, size=shape, mode=mode, antialias=True, align_corners=False)[0]


def _centre(image: Tensor, size: int, *, share: float, mode: str) -> Tensor:
    height, width = image.shape[1:]
    short = min(height, width)
    # The ends of a very long image are never seen and would cost memory without bound when enlarged.
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
    """Indices `offset … offset + size - 1` into `size` pixels mirrored at both ends, the outermost not repeated."""
    period = 2 * (size - 1)
    index = np.arange(offset, offset + size) % period
    index = np.minimum(index, period - index)
    index.flags.writeable = False
    return index


def _recolour(pixels: Tensor, view: View, draw: random.Random, *, key: int, fill: _Levels) -> Tensor:
    """The operations that Pillow does: one conversion there and back, and none where none was drawn."""
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
    """The transform with DeiT's settings; its translations are shares of the side, so no size is needed."""
    from timm.data import auto_augment  # seconds to import, needed by few recipes

    made = auto_augment.rand_augment_transform(config, {"img_mean": fill, "interpolation": Image.Resampling.BICUBIC})
    for operation in made.ops:
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return made


def _posterize(photo: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep so many bits of each value. None, at magnitude 10, is black; Pillow refuses it from version 13 on."""
    return ImageOps.posterize(photo, bits) if bits else Image.new(photo.mode, photo.size)


def _jitter(photo: Image.Image, jitter: Jitter, draw: random.Random) -> Image.Image:
    """Brightness, contrast, saturation and hue in random order, each by a uniform amount, as torchvision does."""
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
        return photo  # the way through HSV and back would round colours for nothing
    hue, saturation, value = photo.convert("HSV").split()
    hue = hue.point([(level + levels) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _erase(pixels: Tensor, draw: random.Random, *, key: int, normalisation: Normalisation) -> Tensor:
    """Noise in one rectangle, drawn by timm's rule: ten tries for one that fits, else the image as it was."""
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
