"""Raw pixels as `.npy`: NumPy reads what we write, and we read nothing else."""

import io

import numpy as np
import pytest
import torch

from vitlet.data.bad_image import BadImage
from vitlet.data.decode import decode_with_mode
from vitlet.data.pixels import npy_shape, to_npy


@pytest.fixture
def image() -> torch.Tensor:
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.integers(0, 256, (9, 13, 3), dtype=np.uint8)).permute(2, 0, 1)


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_numpy_reads_it_and_we_read_numpys(image: torch.Tensor) -> None:
    content = to_npy(image)
    array = image.permute(1, 2, 0).numpy()
    assert np.array_equal(np.load(io.BytesIO(content), allow_pickle=False), array)
    assert content == saved(np.ascontiguousarray(array))
    pixels, mode = decode_with_mode(content, path="x")
    assert torch.equal(pixels, image)
    assert mode == "NPY RGB"
    assert pixels.permute(1, 2, 0).is_contiguous()  # channels last, as resizing wants it
    assert pixels.data_ptr() == np.frombuffer(content, dtype=np.uint8, offset=128).ctypes.data, "no copy"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 9, 3), dtype=np.float32),
        np.zeros((9, 9, 3), dtype=">u2"),
        np.zeros((9, 9), dtype=np.uint8),
        np.zeros((9, 9, 4), dtype=np.uint8),
        np.asfortranarray(np.zeros((9, 9, 3), dtype=np.uint8)),
    ],
)
def test_another_array_is_refused(array: np.ndarray) -> None:
    with pytest.raises(BadImage, match="array"):
        decode_with_mode(saved(array), path="x")


def with_shape(content: bytes, shape: bytes) -> bytes:
    """Another shape in a header of the same length."""
    return content.replace(b"(9, 13, 3), }".ljust(40), (shape + b", }").ljust(40))


def test_a_header_is_matched_and_not_evaluated(image: torch.Tensor) -> None:
    content = to_npy(image)
    assert npy_shape(with_shape(content, b"(9, 13, 3)")) == (9, 13, 128)
    assert npy_shape(with_shape(content, b"(9, 1+1, 3)")) is None
    assert npy_shape(content[:40]) is None
    with pytest.raises(BadImage, match="more than the limit"):
        decode_with_mode(with_shape(content, b"(99999, 99999, 3)"), path="x")


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\0"])
def test_pixels_that_do_not_fit_the_header_are_refused(image: torch.Tensor, change) -> None:
    with pytest.raises(BadImage, match="bytes of pixels for 13 × 9"):
        decode_with_mode(change(to_npy(image)), path="x")
