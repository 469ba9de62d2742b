"""Our reading of a JPEG's header says what Pillow says, or nothing."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Exif

from vitlet.data.bad_image import BadImage
from vitlet.data.decode import decode_with_mode, jpeg_header

SIDE = {"L": 1, "RGB": 3, "CMYK": 4}


def jpeg(mode: str, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 31, 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def with_exif() -> bytes:
    exif = Exif()
    exif[0x0112] = 6
    return jpeg("RGB", exif=exif, comment=b"\xff\xc0 no header in a comment", icc_profile=b"\xff\xc0" * 40_000)


def read(content: bytes) -> tuple[int, int, int] | None:
    header = jpeg_header(content)
    return header and (header.width, header.height, header.channels)


@pytest.mark.parametrize(
    "content",
    [
        jpeg("L"),
        jpeg("RGB"),
        jpeg("RGB", progressive=True),
        jpeg("RGB", subsampling="4:4:4", optimize=True),
        jpeg("RGB", restart_marker_blocks=1),
        with_exif(),
    ],
)
def test_it_agrees_with_pillow(content: bytes) -> None:
    image = Image.open(io.BytesIO(content))
    assert read(content) == (*image.size, SIDE[image.mode])
    assert decode_with_mode(content, path="x")[1] == f"JPEG {image.mode}"


def test_what_it_does_not_know_is_left_to_pillow() -> None:
    assert jpeg_header(jpeg("CMYK")) is None
    assert decode_with_mode(jpeg("CMYK"), path="x")[1] == "JPEG CMYK"
    twelve = bytearray(jpeg("RGB"))
    twelve[twelve.index(b"\xff\xc0") + 4] = 12
    assert jpeg_header(bytes(twelve)) is None


def test_whatever_is_cut_off_or_changed_it_says_pillows_size_or_nothing() -> None:
    content = with_exif()
    header = content.index(b"\xff\xc0", content.rindex(b"ICC_PROFILE")) + 19
    for end in (*range(40), *range(header - 30, header)):
        found = read(content[:end])
        assert found is None or found == (31, 17, 3)
    small = jpeg("RGB")
    draw = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(small)
        damaged[draw.integers(2, 200)] = draw.integers(256)
        found = read(bytes(damaged))
        try:
            _, mode = decode_with_mode(bytes(damaged), path="x")
        except BadImage:
            continue
        if found is not None and mode.startswith("JPEG"):
            assert found == (*Image.open(io.BytesIO(damaged)).size, SIDE[mode.split()[1]])
