"""Features: every image once, equal to a plain loop, and never computed twice."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitlet.augmentation import Centre, View
from vitlet.data.batch import Batch
from vitlet.data.index import Index, open_index
from vitlet.errors import DataError, NonFiniteError
from vitlet.evaluation import features
from vitlet.evaluation.features import Reading, cached_features, encoder_digest, extract
from vitlet.nn.encoder import Encoder
from vitlet.normalisation import Normalisation
from vitlet.recipe import EncoderConfig

CONFIG = EncoderConfig(image_size=16, patch_size=4, width=24, depth=2, heads=3)
VIEW = View(size=16, crop=Centre(share=1.0), flip=0.0)


def _images(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)


def _batches(images: torch.Tensor, *, size: int) -> Iterator[Batch]:
    positions = torch.arange(len(images))
    for i in range(0, len(images), size):
        at = slice(i, i + size)
        yield Batch((images[at],), positions[at] % 3, positions[at], positions[at])


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Seven images of two classes."""
    for i, pixels in enumerate(_images(7)):
        path = tmp_path / "data" / ("cat" if i < 4 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return open_index(tmp_path / "data", cache=tmp_path / "cache")


@pytest.mark.parametrize("pool", ["mean", "class"])
@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_every_image_once_and_equal_to_a_plain_forward(pool: features.Pool, size: int) -> None:
    encoder, images = Encoder(CONFIG, seed=1), _images(7)
    found, labels = extract(encoder, _batches(images, size=size), pool=pool)
    with torch.no_grad():
        tokens = encoder(images)
    expected = tokens[:, 1:].mean(dim=1) if pool == "mean" else tokens[:, 0]
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_encoder_is_left_as_it_was() -> None:
    encoder = Encoder(CONFIG).train()
    seen = []
    encoder.vit.norm.register_forward_hook(lambda module, *_: seen.append(module.training))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    extract(encoder, _batches(_images(5), size=2), pool="mean")
    assert encoder.training
    assert encoder.vit.blocks.training
    assert seen == [False] * 3
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    with pytest.raises(DataError):
        extract(encoder, [], pool="mean")
    assert encoder.training


def test_the_result_can_be_trained_on() -> None:
    found, labels = extract(Encoder(CONFIG), _batches(_images(6), size=4), pool="mean")
    head = torch.nn.Linear(24, 3)
    torch.nn.functional.cross_entropy(head(found), labels).backward()
    assert head.weight.grad is not None


def test_bf16_is_near_and_is_not_fp32() -> None:
    encoder, images = Encoder(CONFIG, seed=1), _images(7)
    exact, _ = extract(encoder, _batches(images, size=7), pool="mean")
    rounded, _ = extract(encoder, _batches(images, size=7), pool="mean", precision="bf16")
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.999


def test_a_damaged_encoder_is_named() -> None:
    encoder = Encoder(CONFIG)
    encoder.vit.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN or infinite features"):
        extract(encoder, _batches(_images(3), size=3), pool="class")


def _cached(encoder: Encoder, index: Index, ids: list[int], cache: Path, *, view: View = VIEW, pool="mean"):
    return cached_features(encoder, index, np.array(ids, dtype=np.int64), reading=Reading(view, pool), cache=cache)


def test_a_second_call_computes_nothing(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(CONFIG, seed=1)
    first, labels = _cached(encoder, index, [0, 5, 2], tmp_path)
    assert labels.tolist() == [0, 1, 0]
    assert torch.allclose(first, encoder(_images(7)[[0, 5, 2]])[:, 1:].mean(dim=1), atol=1e-5)
    monkeypatch.setattr(Encoder, "encode", lambda *_, **__: pytest.fail("computed again"))
    again, same = _cached(Encoder(CONFIG, seed=1), index, [0, 5, 2], tmp_path)  # another object, the same content
    assert torch.equal(first, again)
    assert torch.equal(labels, same)


def test_whatever_changes_a_feature_changes_the_name(index: Index, tmp_path: Path) -> None:
    encoder = Encoder(CONFIG, seed=1)
    _cached(encoder, index, [0, 1, 2], tmp_path)
    names = {p.name for p in (tmp_path / "features").iterdir()}
    other_view = View(size=16, crop=Centre(share=0.875), flip=0.0)
    for change in (
        lambda: _cached(Encoder(CONFIG, seed=2), index, [0, 1, 2], tmp_path),
        lambda: _cached(encoder, index, [0, 2, 1], tmp_path),
        lambda: _cached(encoder, index, [0, 1], tmp_path),
        lambda: _cached(encoder, index, [0, 1, 2], tmp_path, view=other_view),
        lambda: _cached(encoder, index, [0, 1, 2], tmp_path, pool="class"),
        lambda: cached_features(encoder, index, np.arange(3), reading=Reading(VIEW, "mean", "bf16"), cache=tmp_path),
    ):
        change()
        now = {p.name for p in (tmp_path / "features").iterdir()}
        assert len(now) == len(names) + 1
        names = now


def test_an_image_rewritten_in_the_same_size_is_another_image(index: Index, tmp_path: Path) -> None:
    before = features.images_digest(index, np.arange(3))
    path = Path(index.root) / index.path(1)
    os.utime(path, ns=(0, 1))
    again = open_index(tmp_path / "data", cache=tmp_path / "cache")
    assert again.fingerprint == index.fingerprint
    assert features.images_digest(again, np.arange(3)) != before
    assert features.images_digest(again, np.array([0, 2])) == features.images_digest(index, np.array([0, 2]))


def test_images_that_are_decoded_in_another_way_are_other_images(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cached(Encoder(CONFIG, seed=1), index, [0, 1], tmp_path)
    monkeypatch.setattr(features, "decoder_version", lambda: "another")
    _cached(Encoder(CONFIG, seed=1), index, [0, 1], tmp_path)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_the_head_count_is_part_of_an_encoder() -> None:
    """Its tensors are the same for any number of heads; its features are not."""
    three, six = Encoder(CONFIG, seed=1), Encoder(CONFIG.changed(heads=6), seed=1)
    assert all(torch.equal(v, six.state_dict()[k]) for k, v in three.state_dict().items())
    assert encoder_digest(three, view=VIEW) != encoder_digest(six, view=VIEW)


def test_what_only_training_knows_is_no_part_of_it() -> None:
    encoder, other = Encoder(CONFIG, seed=1), Encoder(CONFIG.changed(drop_path=0.3), seed=1)
    assert encoder_digest(encoder, view=VIEW) == encoder_digest(other, view=VIEW)
    dark = Encoder(CONFIG, seed=1, normalisation=Normalisation((0.1, 0.1, 0.1)))
    assert encoder_digest(encoder, view=VIEW) != encoder_digest(dark, view=VIEW)


def test_a_damaged_cache_is_made_again(index: Index, tmp_path: Path) -> None:
    encoder = Encoder(CONFIG, seed=1)
    first, _ = _cached(encoder, index, [0, 1, 2], tmp_path)
    (file,) = (tmp_path / "features").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    again, _ = _cached(encoder, index, [0, 1, 2], tmp_path)
    assert torch.equal(first, again)
    assert len(file.read_bytes()) > first.nbytes


def test_no_images(index: Index, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images to evaluate"):
        _cached(Encoder(CONFIG), index, [], tmp_path)


def test_every_block_is_what_it_gives_and_the_last_is_known(index: Index, tmp_path: Path) -> None:
    encoder = Encoder(CONFIG, seed=1)
    images = _images(5)
    found, _ = features.extract_blocks(encoder, _batches(images, size=2), pool="class")
    with torch.no_grad():
        traced = encoder.encode(encoder.embed(images), trace=["block.0.output", "block.1.output"]).traced
        normed = encoder.vit.norm(found[:, 1])
    assert torch.allclose(found[:, 0], traced["block.0.output"][:, 0], atol=1e-5)
    assert torch.allclose(normed, encoder(images)[:, 0].detach(), atol=1e-5)
    last, every, again = (
        cached_features(
            encoder, index, np.arange(7), reading=Reading(VIEW, "class", every_block=blocks), cache=tmp_path / "cache"
        )[0]
        for blocks in (False, True, True)
    )
    assert (last.shape, every.shape) == ((7, 24), (7, 2, 24))
    assert torch.equal(every, again)
