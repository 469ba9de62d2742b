"""Shards that any WebDataset reader opens, and that give our loader the same batches as the folder they came from."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from forked import fork, wait
from vitlet.augmentation import Resample, View
from vitlet.data import packing
from vitlet.data.columns import Writer
from vitlet.data.index import Index, open_index
from vitlet.data.loader import TrainingBatches
from vitlet.data.packing import Form, pack
from vitlet.errors import ResourceError, UsageError

NUM_TRAIN, NUM_VAL = 45, 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of JPEG and PNG in train and val, with names that WebDataset's rule would tear or mix."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for i in range(NUM_TRAIN + NUM_VAL):
        folder = root / ("train" if i < NUM_TRAIN else "val") / ("cat" if i % 3 else "dog é")
        folder.mkdir(parents=True, exist_ok=True)
        small = draw.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        photo = Image.fromarray(small).resize((60 + i % 7, 40 + i % 5), Image.Resampling.BICUBIC)
        photo.save(folder / (f"same.{i // 2}.png" if i % 2 else f"same.{i // 2}.jpg"))
    (root / "train" / "cat" / os.fsdecode(b"\xff odd.png")).write_bytes((root / "train/cat/same.0.png").read_bytes())
    return root


def packed(photos: Path, out: Path, **form) -> tuple[Index, Index, dict]:
    index = open_index(photos)
    facts = pack(index, np.arange(len(index)), out=out, form=Form(**form))
    return index, open_index(out), facts


def test_a_copy_has_the_same_rows_bytes_and_fingerprint(photos: Path, tmp_path: Path) -> None:
    index, shards, facts = packed(photos, tmp_path / "out", shard_bytes=40_000)
    assert len([s for s in facts["shardlist"] if s["url"].startswith("train")]) >= 3
    assert shards.fingerprint == index.fingerprint
    assert shards.classes == index.classes
    for i in range(len(index)):
        assert shards.path(i) == index.path(i)
        assert shards.read(i) == index.read(i)
    assert np.array_equal(shards.labels, index.labels)
    assert np.array_equal(shards.splits, index.splits)


def test_counts_are_exact(photos: Path, tmp_path: Path) -> None:
    _, _, facts = packed(photos, tmp_path / "out", shard_bytes=40_000)
    assert facts == json.loads((tmp_path / "out" / "shards.json").read_text())
    assert facts["splits"] == {"train": NUM_TRAIN + 1, "val": NUM_VAL}
    assert facts["num_images"] == sum(s["nsamples"] for s in facts["shardlist"]) == NUM_TRAIN + NUM_VAL + 1
    for shard in facts["shardlist"]:
        file = tmp_path / "out" / shard["url"]
        assert file.stat().st_size == shard["filesize"]
        with tarfile.open(file) as tar:
            assert sum(not name.endswith(".cls") for name in tar.getnames()) == shard["nsamples"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
@pytest.mark.parametrize("form", [{}, {"short_side": 32}, {"short_side": 32, "raw": True}])
def test_webdataset_reads_every_sample(photos: Path, tmp_path: Path, form: dict) -> None:
    index, shards, _ = packed(photos, tmp_path / "out", shard_bytes=40_000, **form)
    files = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    samples = {s["__key__"]: s for s in webdataset.WebDataset(files, shardshuffle=False).decode("rgb8")}
    assert sorted(samples) == [f"{i:08d}" for i in range(len(index))]
    for i in range(len(index)):
        sample = samples[f"{i:08d}"]
        assert sample["cls"] == index.labels[i]
        pixels = next(sample[suffix] for suffix in ("jpg", "png", "npy") if suffix in sample)
        height, width = pixels.shape[:2]
        assert (min(height, width) == 32) == bool(form)
        if form:
            was = Image.open(io.BytesIO(index.read(i)))
            assert abs(width / height - was.width / was.height) < 1 / 32
        else:
            assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(shards.read(i))).convert("RGB")))


def test_smaller_pixels_are_pillows_and_small_images_stay_as_they_are(photos: Path, tmp_path: Path) -> None:
    index, shards, _ = packed(photos, tmp_path / "out", short_side=42, raw=True)
    differences = []
    for i in range(len(index)):
        was = Image.open(io.BytesIO(index.read(i))).convert("RGB")
        now = np.load(io.BytesIO(shards.read(i)))
        if min(was.size) > 42:
            was = was.resize(now.shape[1::-1], Image.Resampling.BICUBIC)
        differences.append(np.abs(now.astype(int) - np.asarray(was)).mean())
    assert max(differences) < 0.6  # two JPEG decoders, two resizers
    _, kept, _ = packed(photos, tmp_path / "kept", short_side=500)
    assert all(kept.read(i) == index.read(i) for i in range(len(index)))


def batches(index: Index, *, rank: int = 0, num_ranks: int = 1, workers: int = 0, num: int) -> list:
    ids = np.flatnonzero(index.splits == 0)
    loader = TrainingBatches(
        index=index, ids=ids, views=(View(size=16, crop=Resample()),), batch_size=8, seed=5,
        workers=workers, rank=rank, num_ranks=num_ranks,
    )  # fmt: skip
    stream = loader.from_step(0)
    found = [next(stream) for _ in range(num)]
    stream.close()
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on fewer than four cores
def test_batches_are_the_folders_for_any_ranks_and_workers(photos: Path, tmp_path: Path) -> None:
    """Three training shards, two ranks, four workers each: as many steps on both, and the folder's ids and bits."""
    index, shards, facts = packed(photos, tmp_path / "out", shard_bytes=80_000)
    assert sum(s["url"].startswith("train") for s in facts["shardlist"]) == 3
    epoch = (NUM_TRAIN + 1) // 8
    expected = batches(index, num=epoch + 1)
    ranks = [batches(shards, rank=rank, num_ranks=2, workers=4, num=epoch + 1) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(expected)
    for step, whole in enumerate(expected):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part.positions for part in parts]), whole.positions)
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_packing_twice_gives_the_same_bytes_with_any_threads(photos: Path, tmp_path: Path) -> None:
    index = open_index(photos)
    for name, threads in (("a", 1), ("b", 3)):
        pack(index, np.arange(len(index)), out=tmp_path / name, form=Form(short_side=32), threads=threads)
    names = sorted(os.listdir(tmp_path / "a"))
    assert names == sorted(os.listdir(tmp_path / "b"))
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_nothing_is_replaced_and_a_failure_leaves_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    index = open_index(photos)
    with pytest.raises(UsageError, match="not empty"):
        pack(index, np.arange(3), out=tmp_path / "full", form=Form())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "_write_index", full)
    with pytest.raises(ResourceError, match="No space left"):
        pack(index, np.arange(3), out=tmp_path / "new", form=Form())
    assert os.listdir(tmp_path) == ["full"]


def test_what_a_killed_packing_left_is_gone_after_the_next(photos: Path, tmp_path: Path) -> None:
    """Its shards, and the columns of an index."""
    index = open_index(photos)

    def killed() -> None:
        with Writer(tmp_path):
            pack(index, np.arange(9), out=tmp_path / "lost", form=Form(), progress=lambda _: os.kill(os.getpid(), 9))

    assert wait(fork(killed, error_file=tmp_path / "error.txt")) == -9
    assert len([name for name in os.listdir(tmp_path) if name.startswith(".tmp-")]) == 2
    pack(index, np.arange(9), out=tmp_path / "out", form=Form())
    assert os.listdir(tmp_path) == ["out"]
    assert wait(fork(killed, error_file=tmp_path / "error.txt")) == -9
    with Writer(tmp_path):
        assert len([name for name in os.listdir(tmp_path) if name.startswith(".tmp-")]) == 1
