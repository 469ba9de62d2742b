import io

import numpy as np
import torch
from PIL import Image

from vitlet.data.decode import decode
from vitlet.data.duplicates import dhash, equal_pairs, near_pairs, shared_pairs, thumbnail


def scene(key: int) -> np.ndarray:
    """Random, but smooth as a photo is: 96 × 128 pixels."""
    small = np.random.Generator(np.random.Philox(key)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((128, 96), Image.Resampling.BICUBIC))


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def test_copies_look_alike_and_strangers_do_not():
    thumbnails = []
    for key in range(200):
        pixels = scene(key)
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.LANCZOS).save(stream, format="JPEG", quality=40)
        thumbnails += [thumbnail(as_tensor(pixels)), thumbnail(decode(stream.getvalue(), path=""))]
    pairs = near_pairs(np.stack(thumbnails))
    expected = {(2 * key, 2 * key + 1) for key in range(200)}
    found = {tuple(pair) for pair in pairs.tolist()}
    assert found <= expected
    assert len(found) >= 190


def test_flat_images_are_left_out():
    flat = np.zeros((5, 8, 9), dtype=np.uint8)
    assert near_pairs(flat).shape == (0, 2)
    assert near_pairs(flat[:0]).shape == (0, 2)
    assert near_pairs(flat[:1]).shape == (0, 2)


def test_hash_bits():
    rising = np.tile(np.arange(9, dtype=np.uint8) * 10, (8, 1))[None]
    assert dhash(rising).tolist() == [2**64 - 1]
    assert dhash(rising[:, :, ::-1]).tolist() == [0]


def test_equal_and_shared():
    digests = np.array([b"b", b"a", b"b", b"c", b"b"], dtype="S32")
    assert equal_pairs(digests).tolist() == [[0, 2], [0, 4]]
    assert equal_pairs(digests[:0]).tolist() == []
    assert shared_pairs(digests[:3], digests[2:]).tolist() == [[0, 0], [0, 2]]
    assert shared_pairs(digests[:0], digests).tolist() == []
    assert shared_pairs(digests, digests[:0]).tolist() == []
