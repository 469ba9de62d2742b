"""Decodes image files to RGB pixels: one function, one error, one table of rules.

| stored as | becomes |
|---|---|
| grey, 1-bit, palette, CMYK, YCbCr, HSV | RGB |
| CIE L*a*b* | sRGB through littleCMS, perceptual intent |
| alpha (RGBA, LA, premultiplied, transparent palette entry, or colour that is equal in all stored bits) | over white |
| 16 bits a channel | the high byte, `value >> 8`; 12-bit TIFF `value >> 4` |
| 32-bit integers and floats | stretched from this image's minimum … maximum to 0 … 255; a constant image is 0 |
| several frames or pages (GIF, WebP, PNG, TIFF) | the first one |
| EXIF orientation 1 … 8 | applied |
| colour profile (ICC) | ignored: values as stored |
| uint8 array, height × width × 3 (`.npy`) | as stored; what `vitlet pack --raw` writes |
| truncated, damaged, above the pixel limit, a side below the minimum, another format, NaN in floats | `BadImage` |

The format is detected from the first bytes, never from the name, and apart from raw arrays only six formats are opened:
most security flaws of image libraries are in the others. The size is read from the header before any pixel is
allocated. Greyscale and RGB JPEG are decoded by simplejpeg (`docs/decisions/0008-jpeg.md`), everything else by Pillow,
whose settings are not changed: in particular, truncated files are never padded with grey.
"""

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import metadata
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageFile
from torch import Tensor

from vitlet.data import pixels
from vitlet.data.bad_image import BadImage
from vitlet.text import printable

DECODER_VERSION = "3"
"""Changes with the table above, to invalidate cached verdicts."""

MAX_PIXELS = 64_000_000
MIN_SIDE = 8

_MAGIC = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
    ("NPY", pixels.MAGIC),
)
# No encoder of these formats packs more pixels into a byte (1-bit PNG: 8 × deflate's limit of 1032). A header that
# claims more is a decompression bomb. WebP and TIFF (solid colours, fax codes) have no such bound.
_MAX_PIXELS_PER_BYTE = 10_000
_BOUNDED = ("JPEG", "PNG", "GIF", "BMP")

JPEG_DAMAGE = ("premature end of data segment", "bad Huffman code", "Premature end of JPEG file")
"""libjpeg only warns of these and goes on with grey or shifted blocks."""

_EXIF = b"Exif\0\0"


@cache
def decoder_version() -> str:
    """Return the versions of our rules and of the decoding libraries; part of the key of every cached verdict."""
    libraries = (f"{name} {metadata.version(name)}" for name in ("pillow", "simplejpeg"))
    return " ".join((DECODER_VERSION, *libraries))


def decode(
    content: bytes, *, path: str, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> UInt8[Tensor, "3 H W"]:
    """Decode an image file to RGB, in channels-last memory.

    Args:
        content: The whole file.
        path: Path for the error message.
        max_pixels: Larger images are refused by their header. Pillow itself refuses 178,956,970 and above.
        min_side: Images with a side below this many pixels are refused.

    Raises:
        BadImage: for any problem with the file; no other exception is raised.
    """
    return decode_with_mode(content, path=path, max_pixels=max_pixels, min_side=min_side)[0]


def decode_with_mode(
    content: bytes, *, path: str, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> tuple[UInt8[Tensor, "3 H W"], str]:
    """Like `decode`, but also return the storage mode: `JPEG RGB`, `PNG I;16`, `GIF P, first frame`."""
    try:
        kind = _format(content)
        if kind == "NPY":
            return _raw(content, max_pixels, min_side), "NPY RGB"
        if kind == "JPEG" and (header := jpeg_header(content)) is not None:
            _check_size((header.width, header.height), len(content), max_pixels, min_side)
            if (decoded := _with_simplejpeg(content, header)) is not None:
                return decoded, f"JPEG {'L' if header.channels == 1 else 'RGB'}"
        with _silent_pillow(), Image.open(io.BytesIO(content), formats=(kind,)) as image:
            _check_size(image.size, len(content) if kind in _BOUNDED else None, max_pixels, min_side)
            mode = f"{kind} {image.mode}" + (", first frame" if kind != "JPEG" and _has_more_frames(image) else "")
            return _with_pillow(image, content), mode
    except BadImage:
        raise
    except _Refused as refusal:
        raise BadImage(path, str(refusal)) from None
    # Parsers raise anything on damaged files: OSError, SyntaxError, struct.error, ValueError, MemoryError …
    except Exception as error:
        raise BadImage(path, _reason(error)) from error


def file_suffix(content: bytes) -> str:
    """Return the usual suffix of an image file (`jpg`, `png` …), detected from its first bytes.

    Raises:
        BadImage: if `decode` does not support the format.
    """
    try:
        return {"JPEG": "jpg", "TIFF": "tif"}.get(kind := _format(content), kind.lower())
    except _Refused as refusal:
        raise BadImage("", str(refusal)) from None


class _Refused(Exception):
    """Violation of one of our rules, as a sentence."""


def _format(content: bytes) -> str:
    for kind, magic in _MAGIC:
        if content.startswith(magic):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if not content:
        raise _Refused("the file is empty")
    start = printable(content[:12].decode("latin-1"))
    raise _Refused(f"not a JPEG, PNG, WebP, BMP, GIF or TIFF file; it starts with {start!r}")


def _check_size(size: tuple[int, int], num_bytes: int | None, max_pixels: int, min_side: int) -> None:
    width, height = size
    if min(size) < min_side:
        raise _Refused(f"{width} × {height} pixels; a side is below the minimum of {min_side}")
    if width * height > max_pixels:
        raise _Refused(f"{width} × {height} pixels; more than the limit of {max_pixels:,}")
    if num_bytes is not None and width * height > num_bytes * _MAX_PIXELS_PER_BYTE:
        raise _Refused(f"claims {width} × {height} pixels in {num_bytes} bytes")


class JpegHeader(NamedTuple):
    """Size in pixels, channels (1 or 3), and the place of the EXIF block's content, if there is one."""

    width: int
    height: int
    channels: int
    exif: slice | None


def jpeg_header(content: bytes) -> JpegHeader | None:
    """Return the header of an 8-bit JPEG with 1 or 3 channels; None for others, which Pillow handles.

    Pillow takes a tenth of a millisecond to read a header, a fifth of decoding an image of 256 × 341.
    """
    at, end, exif = 2, len(content) - 9, None
    while at < end and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):
            bits, channels = content[at + 4], content[at + 9]
            height, width = (int.from_bytes(content[i : i + 2], "big") for i in (at + 5, at + 7))
            is_supported = bits == 8 and channels in (1, 3) and width and height
            return JpegHeader(width, height, channels, exif) if is_supported else None
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA or marker == 0xFF:  # no length follows, or no header will
            return None
        following = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xE1 and exif is None and content.startswith(_EXIF, at + 4):
            exif = slice(at + 4, following)
        at = following
    return None


def _raw(content: bytes, max_pixels: int, min_side: int) -> UInt8[Tensor, "3 H W"]:
    shape = pixels.npy_shape(content)
    if shape is None:
        raise _Refused("an array that is not uint8 of height × width × 3")
    height, width, offset = shape
    _check_size((width, height), None, max_pixels, min_side)
    if len(content) != offset + 3 * height * width:
        raise _Refused(f"{len(content) - offset:,} bytes of pixels for {width} × {height}")
    return pixels.from_npy(content, shape=shape)


def _reason(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))
    if text.startswith("cannot identify image file"):  # contains an address
        text = "the header is damaged"
    return text[:200] or type(error).__name__


# Pillow warns about odd metadata; if warnings are errors, the verdict on a file would depend on the caller's filters.
# `catch_warnings` is process-wide, hence the lock; a fork may copy it locked, hence a new one in the child.
_pillow_lock = threading.Lock()


def _renew_lock() -> None:
    global _pillow_lock
    _pillow_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def _silent_pillow() -> Iterator[None]:
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _with_simplejpeg(content: bytes, header: JpegHeader) -> UInt8[Tensor, "3 H W"] | None:
    """Decode, or return None where libjpeg warns of what it can pass over: Pillow then decides.

    Raises:
        _Refused: if parts of the picture are missing.
    """
    try:
        pixels = simplejpeg.decode_jpeg(content)
    except ValueError as warning:
        if any(word in str(warning) for word in JPEG_DAMAGE):
            raise _Refused(_reason(warning)) from None
        return None
    orientation = 1 if header.exif is None else _orientation(partial(_parsed, content[header.exif]))
    if orientation in _TRANSPOSE:
        pixels = np.array(Image.fromarray(pixels).transpose(_TRANSPOSE[orientation]))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _with_pillow(image: ImageFile.ImageFile, content: bytes) -> UInt8[Tensor, "3 H W"]:
    coding = image.tile[0].args if image.tile else None  # known only until the pixels are loaded
    image.load()
    keyed = _keyed(image, coding, content)
    rgb = _to_rgb(image) if keyed is None else keyed
    orientation = _orientation(image.getexif)
    if orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(read: Callable[[], Image.Exif]) -> int:
    """Return the EXIF orientation, or 1 if it is missing or damaged: the pixels are usable without it."""
    try:
        return int(read().get(0x0112, 1))
    except Exception:  # Pillow's parser raises anything on damaged bytes
        return 1


def _parsed(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


def _keyed(image: Image.Image, coding: object, content: bytes) -> Image.Image | None:
    """Convert a PNG with a transparent colour if Pillow, in whose words it has this coding, compares other bits."""
    key = image.info.get("transparency")
    if key is None or coding not in ("L;2", "L;4", "I;16B", "RGB;16B"):
        return None
    values = np.asarray(image)
    if coding == "RGB;16B":  # the high bytes; read in the other order, the low ones take their place
        with Image.open(io.BytesIO(content), formats=("PNG",)) as low:
            low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
            is_clear = ((values.astype(np.uint16) << 8 | np.asarray(low)) == key).all(axis=2)
    elif coding == "I;16B":
        is_clear = values == key
        values = _to_eight_bits(image)
    else:
        is_clear = values == key * (85 if coding == "L;2" else 17)  # Pillow has scaled the pixels alone
    rgb = Image.fromarray(values).convert("RGB")
    rgb.paste("white", mask=Image.fromarray(is_clear))
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return Image.fromarray(_to_eight_bits(image)).convert("RGB")
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # None only with inPlace=True
        return converted
    if "transparency" in image.info or mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        if mode in ("La", "RGBa"):
            image = image.convert(mode.upper())
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(258, (16,))[0] if image.format == "TIFF" else 16  # type: ignore[attr-defined]
        return (values >> (bits - 8)).astype(np.uint8)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise _Refused("a float image with NaN or infinite values")
    low, high = values.min(), values.max()
    return np.rint((values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))).astype(np.uint8)


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame; the first one is what we use
        return False
