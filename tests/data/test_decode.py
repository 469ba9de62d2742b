import io
import multiprocessing
import pickle
import random
import re
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

import vitlet.data.decode as module
from forked import fork, wait
from vitlet.data.bad_image import BadImage
from vitlet.data.decode import decode, decode_with_mode
from vitlet.errors import DataError


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def photo(height: int = 24, width: int = 32) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 7 % 256, y * 9 % 256, (x + y) * 4 % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels)


def pixels_of(content: bytes, **limits) -> np.ndarray:
    return decode(content, path="x", **limits).permute(1, 2, 0).numpy()


def refusal(content: bytes, **limits) -> str:
    with pytest.raises(BadImage) as caught:
        decode(content, path="folder/na\nme.jpg", **limits)
    assert caught.value.path == "folder/na\nme.jpg"
    assert "na\\x0ame.jpg" in str(caught.value)
    return caught.value.reason


def solid(mode: str, colour, kind: str, **options) -> np.ndarray:
    """The one colour a decoded solid image has."""
    pixels = pixels_of(encoded(Image.new(mode, (16, 12), colour), kind, **options))
    assert pixels.shape == (12, 16, 3)
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0]


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("L", 100, "PNG", (100, 100, 100)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("1", 1, "BMP", (255, 255, 255)),
        ("RGB", (10, 20, 30), "BMP", (10, 20, 30)),
        ("RGB", (10, 20, 30), "TIFF", (10, 20, 30)),
        ("P", 0, "GIF", (0, 0, 0)),
        ("CMYK", (255, 0, 0, 0), "TIFF", (0, 255, 255)),
        ("YCbCr", (81, 90, 240), "TIFF", (238, 14, 13)),
        ("RGBA", (0, 0, 0, 0), "PNG", (255, 255, 255)),
        ("RGBA", (200, 100, 0, 51), "PNG", (244, 224, 204)),  # one fifth of the colour, four fifths of white
        ("RGBA", (200, 100, 0, 51), "TIFF", (244, 224, 204)),
        ("LA", (0, 102), "PNG", (153, 153, 153)),
        ("I;16", 40000, "PNG", (156, 156, 156)),
        ("I;16", 255, "PNG", (0, 0, 0)),
        ("I;16", 65535, "TIFF", (255, 255, 255)),
    ],
)
def test_colour_rules(mode, colour, kind, expected):
    assert tuple(int(v) for v in solid(mode, colour, kind)) == expected


def test_cmyk_jpeg_is_not_inverted():
    red = solid("CMYK", (0, 255, 255, 0), "JPEG", quality=95)
    assert red[0] > 240
    assert red[1] < 15
    assert red[2] < 15


def test_lab_becomes_srgb():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(Image.new("RGB", (16, 12), (200, 60, 40)), srgb, lab, outputMode="LAB")
    pixels = pixels_of(encoded(converted, "TIFF"))
    assert np.abs(pixels[0, 0].astype(int) - (200, 60, 40)).max() <= 4


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        content = encoded(Image.fromarray(ramp), kind)
        np.testing.assert_array_equal(pixels_of(content)[:, :, 0], ramp >> 8)
    with Image.open(io.BytesIO(content)) as image:  # the control: clipping turns nearly all of it white
        assert (np.asarray(image.convert("I").convert("L")) == 255).mean() > 0.9


def test_sixteen_bit_colour_png_takes_the_high_byte():
    content = stored_png(np.full((12, 16, 3), (0x1234, 0x80FF, 0xFFFF)), bits=16)
    assert tuple(pixels_of(content)[0, 0]) == (0x12, 0x80, 0xFF)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, step to the right and step down of each pass of an interlaced PNG."""


def stored_png(values: np.ndarray, *, bits: int, key: int | tuple[int, ...] | None = None, interlaced=False) -> bytes:
    """A PNG file of these values, grey [H, W] or colours [H, W, 3], of which `key` is transparent."""
    passes = [values[y::down, x::right] for x, y, right, down in (ADAM7 if interlaced else ((0, 0, 1, 1),))]
    places = np.arange(bits)[::-1]
    rows = [np.packbits((row.reshape(-1, 1) >> places & 1).astype(np.uint8)) for part in passes for row in part]
    height, width, *colours = values.shape
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2 if colours else 0, 0, 0, interlaced))]
    if key is not None:
        parts.append((b"tRNS", np.array(key, ">u2").tobytes()))
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


NEAR = {1: (0, 1), 2: (1, 0, 3, 2), 4: (5, 4, 13, 10), 8: (85, 84, 213, 170), 16: (0x1234, 0x1235, 0x9234, 0x3412)}
"""Values of so many bits that differ in the first or in the last of them."""


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "colours"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 3), (16, 3)])
def test_a_transparent_colour_is_white_and_its_neighbours_are_not(bits, colours, interlaced, monkeypatch):
    """The control is Pillow by itself: right for 1 and 8 bits only."""
    draw = np.random.Generator(np.random.Philox(bits + colours))
    values = draw.choice(NEAR[bits], size=(24, 40, colours) if colours else (24, 40))
    key = (NEAR[bits][0],) * colours if colours else NEAR[bits][0]
    scaled = values >> 8 if bits == 16 else values * 255 // (2**bits - 1)
    is_clear = values == key
    expected = np.where(is_clear.all(axis=2, keepdims=True) if colours else is_clear, 255, scaled)
    content = stored_png(values, bits=bits, key=key, interlaced=interlaced)
    assert is_clear.any()
    assert not is_clear.all()
    np.testing.assert_array_equal(pixels_of(content), expected if colours else np.stack([expected] * 3, axis=2))
    monkeypatch.setattr(module, "_keyed", lambda *_: None)
    assert np.array_equal(pixels_of(content)[:, :, 0], expected[..., 0] if colours else expected) == (bits in (1, 8))


def test_golden_pixels_of_transparent_colours():
    grey = np.resize([0, 1, 2, 3], (8, 8))
    assert pixels_of(stored_png(grey, bits=2, key=1))[0, :4, 0].tolist() == [0, 255, 170, 255]
    deep = np.resize([0x1234, 0x1235, 0x12FF, 0], (8, 8))
    assert pixels_of(stored_png(deep, bits=16, key=0x1235))[0, :4, 0].tolist() == [0x12, 255, 0x12, 0]
    colours = np.resize([[0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD]], (8, 8, 3))
    content = stored_png(colours, bits=16, key=(0x1234, 0x5678, 0x9ABC))
    assert pixels_of(content)[0, :2].tolist() == [[255, 255, 255], [0x12, 0x56, 0x9A]]


def test_floats_and_wide_integers_are_stretched():
    ramp = np.linspace(-3.0, 5.0, 16 * 16, dtype=np.float32).reshape(16, 16)
    pixels = pixels_of(encoded(Image.fromarray(ramp), "TIFF"))[:, :, 0]
    np.testing.assert_array_equal(pixels, np.rint((ramp.astype(np.float64) + 3) / 8 * 255).astype(np.uint8))
    wide = (np.arange(256, dtype=np.int32) * 1000 - 7).reshape(16, 16)
    np.testing.assert_array_equal(pixels_of(encoded(Image.fromarray(wide), "TIFF"))[:, :, 1].ravel(), np.arange(256))
    assert pixels_of(encoded(Image.fromarray(np.full((16, 16), 3.5, np.float32)), "TIFF")).max() == 0
    ramp[3, 3] = np.nan
    assert "NaN" in refusal(encoded(Image.fromarray(ramp), "TIFF"))


def test_palettes_and_their_transparency():
    image = Image.new("P", (16, 12), 1)
    image.putpalette([0, 0, 0, 12, 34, 56])
    assert tuple(pixels_of(encoded(image, "PNG"))[0, 0]) == (12, 34, 56)
    assert tuple(pixels_of(encoded(image, "PNG", transparency=1))[0, 0]) == (255, 255, 255)
    assert tuple(pixels_of(encoded(image, "GIF", transparency=1))[0, 0]) == (255, 255, 255)
    keyed = Image.new("RGB", (16, 12), (9, 9, 9))
    assert tuple(pixels_of(encoded(keyed, "PNG", transparency=(9, 9, 9)))[0, 0]) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_counts(kind):
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue", "green")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    pixels, mode = decode_with_mode(content, path="x")
    assert pixels[0].min() > 240
    assert pixels[2].max() < 15
    assert mode.endswith("first frame")
    assert not decode_with_mode(encoded(frames[0], kind), path="x")[1].endswith("first frame")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind, orientation):
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste("red", (0, 0, 16, 16))
    upright.paste("blue", (32, 16, 48, 32))
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    pixels = pixels_of(content)
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels.astype(int) - np.asarray(upright)).max() < 30


@pytest.mark.parametrize("options", [{}, *({"subsampling": name} for name in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"))])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_fast_path_gives_pillows_pixels(options, progressive):
    for image in (photo(120, 200), photo(121, 203), photo(64, 64).convert("L")):
        content = encoded(image, "JPEG", quality=90, progressive=progressive, **options)
        with Image.open(io.BytesIO(content)) as reference:
            expected = np.asarray(reference.convert("RGB")).astype(int)
        assert np.abs(pixels_of(content).astype(int) - expected).max() <= 2


def test_of_libjpegs_warnings_only_damage_refuses_a_jpeg():
    whole = encoded(photo(100, 100), "JPEG")
    padded = whole[:-2] + b"some camera" + whole[-2:]
    with pytest.raises(ValueError, match="extraneous bytes"):  # else this tests nothing
        simplejpeg.decode_jpeg(padded)
    assert np.array_equal(pixels_of(padded), pixels_of(whole))
    cut = whole[:-150] + whole[-2:]
    with Image.open(io.BytesIO(cut)) as image:
        assert image.convert("RGB").size == (100, 100), "Pillow fills it up with grey"
    assert "premature end of data segment" in refusal(cut)


def test_format_is_read_from_the_bytes_and_the_list_is_closed():
    assert decode_with_mode(encoded(photo(), "PNG"), path="really.jpg")[1] == "PNG RGB"
    assert decode_with_mode(encoded(photo(), "JPEG"), path="really.png")[1] == "JPEG RGB"
    for kind in ("PPM", "ICO", "TGA", "PCX", "EPS", "PDF"):
        assert "not a JPEG" in refusal(encoded(photo(), kind))
    assert "<!DOCTYPE ht" in refusal(b"<!DOCTYPE html><title>404</title>")
    assert refusal(pickle.dumps({"a": 1})).startswith("not a JPEG")
    assert refusal(b"") == "the file is empty"
    assert refusal(b"RIFF")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(kind, share):
    noise = np.random.Generator(np.random.Philox(1)).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    assert pixels_of(content).shape == (60, 80, 3)
    assert refusal(content[: int(len(content) * share)])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_without_its_end_is_refused(mode):
    content = encoded(photo(100, 100).convert(mode), "JPEG")
    assert content.endswith(b"\xff\xd9")
    assert refusal(content[:-2])
    assert refusal(encoded(photo(100, 100).convert(mode), "JPEG", progressive=True)[:-2])
    assert pixels_of(content + b"padding of some camera").shape == (100, 100, 3)


def test_pixel_limit_is_checked_in_the_header():
    png = encoded(photo(100, 100), "PNG")
    assert "more than the limit of 9,999" in refusal(png, max_pixels=9_999)
    assert pixels_of(png, max_pixels=10_000).shape == (100, 100, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for side in (10_000, 13_000, 100_000):  # 13,000² lies where Pillow would only warn
            head = png[:16] + struct.pack(">II", side, side) + png[24:29]
            forged = head + struct.pack(">I", zlib.crc32(head[12:29])) + png[33:]
            assert "pixels" in refusal(forged)
    assert "claims" in refusal(png[:16] + _resized_header(png, 7_000) + png[33:])


def _resized_header(png: bytes, side: int) -> bytes:
    fields = struct.pack(">II", side, side) + png[24:29]
    return fields + struct.pack(">I", zlib.crc32(b"IHDR" + fields))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak so far")
def test_tiny_bombs_cost_no_memory(tmp_path):
    """A BMP of 69 bytes that claims 60 million pixels; measured in a process of its own."""
    bmp = encoded(Image.new("RGB", (1, 1)), "BMP")
    bomb = bmp[:18] + struct.pack("<ii", 7_700, 7_700) + bmp[26:]

    def peak() -> int:
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

    def body() -> None:
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        assert "claims" in refusal(bomb)
        assert peak() - before < 50, peak() - before

    assert wait(fork(body, error_file=tmp_path / "error.txt")) == 0, (tmp_path / "error.txt").read_text()


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (7, 8), (8, 7)])
def test_small_sides_are_refused(size):
    assert "below the minimum of 8" in refusal(encoded(Image.new("RGB", size), "PNG"))
    assert pixels_of(encoded(Image.new("RGB", size), "PNG"), min_side=1).shape == (size[1], size[0], 3)


def test_wide_images_are_fine():
    assert pixels_of(encoded(Image.new("L", (65_500, 8)), "JPEG")).shape == (8, 65_500, 3)


def test_bad_image_is_a_data_error_and_crosses_processes():
    error = pickle.loads(pickle.dumps(BadImage("a.jpg", "the file is empty")))
    assert isinstance(error, DataError)
    assert (error.path, error.reason, error.exit_code) == ("a.jpg", "the file is empty", 3)


def test_reasons_do_not_depend_on_the_machine():
    reason = refusal(encoded(photo(), "JPEG")[:-20])
    assert "/" not in reason
    assert "0x" not in refusal(encoded(photo(), "TIFF")[:20])


def test_pillow_settings_and_warning_filters_stay_as_they_were():
    filters = list(warnings.filters)
    settings_before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    contents = [encoded(photo(40, 40), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")] * 8
    threads = [threading.Thread(target=pixels_of, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == filters
    assert settings_before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_a_fork_while_another_thread_decodes_does_not_hang():
    with module._pillow_lock:  # as another thread would hold it
        child = multiprocessing.get_context("fork").Process(target=pixels_of, args=(encoded(photo(), "PNG"),))
        child.start()
    child.join(timeout=20)
    child.kill()
    assert child.exitcode == 0


SEEDS = [
    encoded(photo(), "JPEG"),
    encoded(photo(), "JPEG", progressive=True),
    encoded(photo().convert("CMYK"), "JPEG"),
    encoded(photo(), "PNG"),
    encoded(photo().convert("P"), "PNG"),
    encoded(photo().convert("RGBA"), "WEBP"),
    encoded(photo(), "GIF", save_all=True, append_images=[photo().rotate(90)]),
    encoded(photo(), "BMP"),
    encoded(photo(), "TIFF"),
    encoded(photo(), "TIFF", compression="tiff_lzw"),
    encoded(photo(), "TIFF", compression="jpeg"),
]


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**63))
def test_only_bad_image_leaves_on_mutated_files(key):
    """1,100 files: bytes changed, cut out, doubled or the end lost."""
    draw = random.Random(key)
    for seed in SEEDS:
        data = bytearray(seed)
        for _ in range(draw.randint(1, 12)):
            place = draw.randrange(len(data))
            match draw.randrange(4):
                case 0 | 1:
                    data[place] = draw.randrange(256)
                case 2:
                    del data[place : place + draw.randrange(1, 40)]
                case _:
                    data[place:place] = data[place : place + draw.randrange(1, 40)]
            if not data:
                break
        try:
            pixels = decode(bytes(data), path="fuzz", max_pixels=1_000_000)
        except BadImage:
            continue
        else:
            assert pixels.dtype == torch.uint8
            assert pixels.shape[0] == 3
            assert min(pixels.shape[1:]) >= 8
