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


def pairs_of(thumbnails: np.ndarray) -> np.ndarray:
    """All that `near_pairs` finds."""
    parts = near_pairs(dhash(thumbnails), thumbnails.__getitem__)
    return np.concatenate([np.empty((0, 2), dtype=np.int64), *parts])


def test_copies_look_alike_and_strangers_do_not():
    thumbnails = []
    for key in range(200):
        pixels = scene(key)
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.LANCZOS).save(stream, format="JPEG", quality=40)
        thumbnails += [thumbnail(as_tensor(pixels)), thumbnail(decode(stream.getvalue(), path=""))]
    pairs = pairs_of(np.stack(thumbnails))
    expected = {(2 * key, 2 * key + 1) for key in range(200)}
    found = {tuple(pair) for pair in pairs.tolist()}
    assert found <= expected
    assert len(found) >= 190


def test_flat_images_are_left_out():
    flat = np.zeros((5, 8, 9), dtype=np.uint8)
    assert pairs_of(flat).shape == (0, 2)
    assert pairs_of(flat[:0]).shape == (0, 2)
    assert pairs_of(flat[:1]).shape == (0, 2)


def test_many_that_look_alike_are_found_once_and_in_parts():
    """Three thousand frames of one scene: 32 pairs an image, as many as the reach allows, and never all at once."""
    frames = np.repeat(thumbnail(as_tensor(scene(0)))[None], 3000, axis=0)
    parts = list(near_pairs(dhash(frames), frames.__getitem__))
    assert max(map(len, parts)) <= 3000
    pairs = np.concatenate(parts)
    assert len(pairs) == len(np.unique(pairs, axis=0)) == sum(3000 - step for step in range(1, 33))
    assert (pairs[:, 0] < pairs[:, 1]).all()


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
