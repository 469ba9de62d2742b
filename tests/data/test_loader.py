import itertools
import multiprocessing
import multiprocessing.synchronize
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from vitlet.augmentation import Centre, Jitter, RandAugment, Resample, Shift, View
from vitlet.data import loader, samples
from vitlet.data.bad_image import BadImage
from vitlet.data.batch import Batch
from vitlet.data.check import check
from vitlet.data.index import Index, open_index
from vitlet.data.loader import TrainingBatches, evaluation_batches
from vitlet.data.samples import Samples
from vitlet.data.subsets import training_ids
from vitlet.errors import DataError, UsageError, WorkerError
from vitlet.normalisation import IMAGENET, Normalisation

# Three workers on two cores are slow, not wrong.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

AUGMENTED = View(size=8, crop=Resample(), rand_augment=RandAugment(), erase=0.5)
JITTERED = View(size=8, crop=Shift(padding=2), jitter=Jitter(), blur=0.5)
STILL = View(size=8, crop=Centre(share=1.0), flip=0)
COUNT, BATCH = 26, 8
STARTS = (0, 5, 9)


def draw_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = draw_images(tmp_path_factory.mktemp("images"), [f"{i:02d}.png" for i in range(COUNT)])
    return open_index(folder, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_index(tmp_path: Path) -> Index:
    """One that a test may harm."""
    folder = draw_images(tmp_path / "images", [f"{i:02d}.png" for i in range(COUNT)])
    return open_index(folder, cache=tmp_path / "cache")


def batches_of(index: Index, ids: np.ndarray | None = None, **changes: object) -> TrainingBatches:
    values = {"views": (AUGMENTED, JITTERED), "batch_size": BATCH, "seed": 5, "workers": 0} | changes
    return TrainingBatches(index=index, ids=np.arange(len(index)) if ids is None else ids, **values)


def take(stream: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(stream, count))
    stream.close()
    return taken


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def same(one: Batch, other: Batch) -> bool:
    tensors = [(*b.views, b.labels, b.positions, b.slots) for b in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*tensors, strict=True)) and one.replaced == other.replaced


def joined(shares: tuple[Batch, ...]) -> Batch:
    """The global batch from the shares of the ranks."""
    return Batch(
        views=tuple(torch.cat(view) for view in zip(*(s.views for s in shares), strict=True)),
        labels=torch.cat([s.labels for s in shares]),
        positions=torch.cat([s.positions for s in shares]),
        slots=torch.cat([s.slots for s in shares]),
        replaced=tuple(r for s in shares for r in s.replaced),
    )


@pytest.fixture(scope="module")
def stream(index: Index) -> list[Batch]:
    """Four epochs in one process."""
    seed_everything(0)
    return take(batches_of(index).from_step(0), 12)


def test_an_epoch_is_a_permutation_that_changes(index: Index, stream: list[Batch]) -> None:
    per_epoch = batches_of(index).steps_per_epoch
    assert per_epoch == 3
    epochs = [torch.cat([b.positions for b in stream[e : e + per_epoch]]).tolist() for e in range(0, 12, per_epoch)]
    assert all(len(set(epoch)) == per_epoch * BATCH for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_an_image_looks_different_in_every_epoch(stream: list[Batch]) -> None:
    looks = [b.views[0][i] for b in stream for i in range(BATCH) if b.positions[i] == stream[0].positions[0]]
    assert len(looks) >= 2
    assert not torch.equal(looks[0], looks[1])


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_same_bits_for_any_workers_ranks_and_start(
    index: Index, stream: list[Batch], workers: int, ranks: int
) -> None:
    for start in STARTS if workers in (0, 3) and ranks in (1, 4) else (5,):
        seed_everything(100 * workers + 10 * ranks + start)
        before = torch.get_rng_state()
        shares = [
            take(batches_of(index, workers=workers, rank=rank, num_ranks=ranks).from_step(start), 3)
            for rank in range(ranks)
        ]
        assert torch.equal(before, torch.get_rng_state())
        for expected, *parts in zip(stream[start : start + 3], *shares, strict=True):
            assert same(joined(tuple(parts)), expected)


@pytest.mark.parametrize(("workers", "ranks", "kept"), [(0, 1, 26), (1, 1, 26), (2, 1, 13), (2, 2, 6), (4, 8, 0)])
def test_the_workers_and_ranks_of_a_host_share_the_room_for_decoded_images(
    index: Index, monkeypatch: pytest.MonkeyPatch, workers: int, ranks: int, kept: int
) -> None:
    monkeypatch.setattr(samples, "_DECODED_CACHE_BYTES", COUNT * 12 * 12 * 3)  # just enough for all images once
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    decoded = []
    whole = samples.decode
    monkeypatch.setattr(samples, "decode", lambda content, path: decoded.append(path) or whole(content, path=path))
    one_worker = Samples(index, np.arange(COUNT), views=(STILL,), seed=5, workers=workers)
    first = [shown(one_worker[0, position]) for position in range(COUNT)]
    assert len(decoded) == COUNT
    assert [shown(one_worker[0, position]) for position in range(COUNT)] == first
    assert len(decoded) == 2 * COUNT - kept
    assert kept * max(1, workers) * ranks <= COUNT, "together they keep no more than one process does"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_same_bits_however_little_is_kept(
    index: Index, stream: list[Batch], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(samples, "_DECODED_CACHE_BYTES", COUNT * 12 * 12 * 3)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    found = take(batches_of(index, workers=workers).from_step(0), 12)
    assert all(same(a, b) for a, b in zip(found, stream, strict=True))


def test_control_augmentation_from_a_global_generator_depends_on_the_workers(
    index: Index, stream: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    derived = samples.derive
    drawn = lambda seed, *key: derived(seed, random.getrandbits(30) if key[0] == "view" else 0, *key)  # noqa: E731
    monkeypatch.setattr(samples, "derive", drawn)
    seed_everything(0)
    one = take(batches_of(index, workers=0).from_step(0), 2)
    seed_everything(0)
    two = take(batches_of(index, workers=2).from_step(0), 2)
    assert not all(same(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_erasing_and_filling_follow_the_normalisation(index: Index, workers: int) -> None:
    """Noise without spread shows its centre; the control is a batch that was told nothing."""
    white = Normalisation(mean=(1.0, 1.0, 1.0), std=(1e-9, 1e-9, 1e-9))
    view = STILL.changed(erase=1.0)
    (whole,) = take(batches_of(index, views=(STILL,)).from_step(0), 1)
    (found,) = take(batches_of(index, views=(view,), workers=workers, normalisation=white).from_step(0), 1)
    changed = (found.images != whole.images).any(dim=1)
    assert changed.flatten(1).any(dim=1).sum() >= BATCH - 1
    assert found.images.permute(0, 2, 3, 1)[changed].eq(255).all()
    (control,) = take(batches_of(index, views=(view,), workers=workers).from_step(0), 1)
    assert not control.images.permute(0, 2, 3, 1)[changed].eq(255).all()


def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_work(index: Index) -> None:
    with pytest.raises(UsageError, match=r"batch size 10 does not divide over 4 ranks.*--batch-size 8 or 12$"):
        batches_of(index, batch_size=10, num_ranks=4)
    with pytest.raises(UsageError, match=r"batch size 1 does not divide over 4 ranks.*--batch-size 4$"):
        batches_of(index, batch_size=1, num_ranks=4)
    for size in (4, 8, 12):
        batches_of(index, batch_size=size, num_ranks=4)


def test_a_batch_larger_than_the_data_is_refused(index: Index) -> None:
    with pytest.raises(UsageError, match=r"batch size 64 is larger than the 26 training images.*--batch-size 26"):
        batches_of(index, batch_size=64)


def test_evaluation_sees_every_image_once_and_in_order(index: Index) -> None:
    ids = np.array([3, 1, 4, 15, 9, 2, 6])
    whole = list(evaluation_batches(index, ids, view=STILL, normalisation=IMAGENET, batch_size=3))
    assert [len(b) for b in whole] == [3, 3, 1]
    assert torch.cat([b.positions for b in whole]).tolist() == list(range(7))
    shares = [
        list(evaluation_batches(index, ids, view=STILL, normalisation=IMAGENET, batch_size=3, rank=r, num_ranks=2))
        for r in (0, 1)
    ]
    images = {int(p): image for share in shares for b in share for p, image in zip(b.positions, b.images, strict=True)}
    assert sorted(images) == list(range(7))
    assert all(torch.equal(images[int(p)], i) for b in whole for p, i in zip(b.positions, b.images, strict=True))
    assert len(list(evaluation_batches(index, ids, view=STILL, normalisation=IMAGENET, workers=2, batch_size=2))) == 4


def test_file_names_are_printable(tmp_path: Path) -> None:
    folder = draw_images(tmp_path / "images", ["a\nb.png", "\x1b[31mred.png", "plain.png"])
    batches = batches_of(open_index(folder, cache=tmp_path / "cache"), batch_size=3)
    names = batches.describe(take(batches.from_step(0), 1)[0])
    assert sorted(names) == ["\\x1b[31mred.png", "a\\x0ab.png", "plain.png"]


def harm(position: int | None, how: object) -> object:
    """`Samples._decode` that meets an accident at one position, or at all."""
    real = Samples._decode

    def decode(self: Samples, at: int) -> torch.Tensor:
        if position in (at, None):
            how()
        return real(self, at)

    return decode


def die(number: int) -> object:
    return lambda: os.kill(os.getpid(), number)


ACCIDENTS = {
    "killed": die(signal.SIGKILL),
    "segmentation fault": die(signal.SIGSEGV),
    "gone": lambda: os._exit(1),
    "hanging": lambda: time.sleep(1000),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_a_worker_that_dies_is_an_error_that_names_the_file(
    index: Index, monkeypatch: pytest.MonkeyPatch, accident: str
) -> None:
    stream = batches_of(index).from_step(0)
    target = int(next(itertools.islice(stream, 4, None)).positions[3])  # in the fifth batch
    stream.close()
    monkeypatch.setattr(Samples, "_decode", harm(target, ACCIDENTS[accident]))
    monkeypatch.setattr(loader, "WORKER_TIMEOUT_SECONDS", 2 if accident == "hanging" else 60)
    began = time.monotonic()
    with pytest.raises(WorkerError, match=rf"while reading .*{target:02d}\.png.*--workers 0") as caught:
        take(batches_of(index, workers=2).from_step(0), 9)
    assert time.monotonic() - began < 30, "of a death it hears before the timeout"
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)
    assert (".png or " in str(caught.value)) == (accident != "hanging"), "of one that hangs it is known which"
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("rule", ["by image", "by batch"])
def test_a_batch_may_take_longer_than_the_limit_of_an_image(
    index: Index, stream: list[Batch], monkeypatch: pytest.MonkeyPatch, workers: int, rule: str
) -> None:
    """As a batch of 4,096 photographs does. The control is the former rule, by which it dies."""
    monkeypatch.setattr(Samples, "_decode", harm(None, lambda: time.sleep(0.4)))
    monkeypatch.setattr(loader, "WORKER_TIMEOUT_SECONDS", 1)
    slow = batches_of(index, workers=workers).from_step(0)
    if rule == "by batch":
        monkeypatch.setattr(loader, "_next", lambda stream, *_, **__: next(stream))
        with pytest.raises(WorkerError, match="a loader worker hangs"):
            take(slow, 2)
    else:
        assert all(same(a, b) for a, b in zip(take(slow, 2), stream, strict=False))


@pytest.mark.parametrize(("free", "ahead"), [(None, 2), (4 * 3 * 2 * 2 * BATCH * 64, 2), (4 * 3 * 2 * BATCH * 64, 1)])
def test_batches_that_wait_leave_half_of_the_shared_memory(
    index: Index, monkeypatch: pytest.MonkeyPatch, free: int | None, ahead: int
) -> None:
    made, real = [], torch.utils.data.DataLoader
    monkeypatch.setattr(loader, "free_shared_memory", lambda: free)
    monkeypatch.setattr(loader, "DataLoader", lambda *a, **k: made.append(k["prefetch_factor"]) or real(*a, **k))
    for ranks, expected in ((1, ahead), (2, 2 if free is None else 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        take(batches_of(index, workers=2).from_step(0), 1)
        take(batches_of(index, workers=0).from_step(0), 1)
        assert made == [expected, None]
        made.clear()


def test_the_death_of_a_worker_waits_for_the_end_of_the_step(index: Index) -> None:
    stream = batches_of(index, workers=1).from_step(0)
    next(stream)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    for _ in range(20):  # a step, or a checkpoint that is being written: nothing may be raised in here
        time.sleep(0.01)
    with pytest.raises(WorkerError):
        take(stream, 20)


def test_the_death_of_a_worker_is_heard_at_once_while_another_stream_is_open(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a probe within training. The control waits for the timeout: it asks the handler of the outer stream."""
    monkeypatch.setattr(loader, "WORKER_TIMEOUT_SECONDS", 60)
    training = batches_of(index, workers=1).from_step(0)
    next(training)
    handler = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(Samples, "_decode", harm(COUNT - 1, ACCIDENTS["killed"]))
    began = time.monotonic()
    with pytest.raises(WorkerError):
        take(evaluation_batches(index, np.arange(COUNT), view=STILL, normalisation=IMAGENET, workers=1), COUNT)
    assert time.monotonic() - began < 30
    assert signal.getsignal(signal.SIGCHLD) is handler
    training.close()


def test_no_worker_is_left_behind(index: Index) -> None:
    stream = batches_of(index, workers=3).from_step(0)
    next(stream)
    assert len(multiprocessing.active_children()) == 3
    stream.close()
    assert multiprocessing.active_children() == []


def wait_until_held(lock: Any) -> None:
    while lock.acquire(block=False):
        lock.release()
        time.sleep(0.001)


def kill_at_once(stream: Any, children: set[Any]) -> None:
    """`loader._end` as it was: without a word to the workers, here while one asks whether the end has come."""
    lock = stream._workers_done_event._cond._lock
    wait_until_held(lock)
    for child in children:
        child.kill()
        child.join()
    is_lost = not lock.acquire(timeout=1)
    stream._workers_done_event = multiprocessing.Event()
    stream._shutdown_workers()  # now, for nobody knows in which thread the garbage collector would
    assert is_lost, "its owner is gone: torch would wait for ever"


def ask_slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have a worker that asks whether the end has come hold the lock for so long."""
    asks, calls = multiprocessing.synchronize.Event.is_set, itertools.count()

    def slowly(event: multiprocessing.synchronize.Event) -> bool:
        if get_worker_info() is not None and next(calls):  # the first time is before the first batch
            with event._cond:
                time.sleep(seconds)
        return asks(event)

    monkeypatch.setattr(multiprocessing.synchronize.Event, "is_set", slowly)


@pytest.mark.parametrize("end", [loader._end, kill_at_once])
def test_a_worker_that_asks_for_the_end_is_not_killed_while_it_holds_the_lock(
    index: Index, monkeypatch: pytest.MonkeyPatch, end: Callable[..., None]
) -> None:
    """The second case is the control, which asserts that it breaks the lock and then gives torch another."""
    ask_slowly(monkeypatch, 60 if end is kill_at_once else 0.2)  # the control kills it there
    monkeypatch.setattr(loader, "_end", end)
    stream = batches_of(index, workers=2).from_step(0)
    next(stream)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 60
    assert multiprocessing.active_children() == []


def test_a_lock_that_a_killed_worker_keeps_does_not_keep_the_end(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where memory is short, and the system kills one. Torch alone would wait for the lock for ever."""
    ask_slowly(monkeypatch, 60)
    monkeypatch.setattr(loader, "_GRACE_SECONDS", 0.5)
    streams, guarded = [], loader._guarded
    monkeypatch.setattr(
        loader, "_guarded", lambda stream, children: streams.append(stream) or guarded(stream, children)
    )
    stream = batches_of(index, workers=1).from_step(0)
    next(stream)
    lock = streams[0]._workers_done_event._cond._lock
    wait_until_held(lock)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 10
    assert not lock.acquire(block=False), "its owner is gone"
    assert multiprocessing.active_children() == []


def test_a_worker_that_hangs_at_the_end_is_killed(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_GRACE_SECONDS", 0.5)
    stream = batches_of(index, workers=2).from_step(0)
    next(stream)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGSTOP)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 4, "torch alone waits five seconds for each, twice"
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanishes_is_replaced_the_same_way_every_time(own_index: Index, workers: int) -> None:
    whole = take(batches_of(own_index).from_step(0), 6)
    lost = int(whole[0].positions[2])
    (Path(own_index.root) / own_index.path(lost)).unlink()
    found = take(batches_of(own_index, workers=workers).from_step(0), 6)
    again = take(batches_of(own_index, workers=1).from_step(0), 6)
    assert all(same(a, b) for a, b in zip(found, again, strict=True))
    replaced = [r for b in found for r in b.replaced]
    assert len(replaced) == sum(int((b.positions == lost).sum()) for b in whole)
    assert all(position == lost for position, _ in replaced)
    assert all(f"{lost:02d}.png" in reason for _, reason in replaced)
    for before, after in zip(whole, found, strict=True):
        kept = before.positions != lost
        assert torch.equal(before.positions, after.positions)
        assert torch.equal(before.images[kept], after.images[kept])
        assert not torch.equal(before.images[~kept], after.images[~kept]) or kept.all()


def shown(sample: dict[str, Any]) -> tuple[int, ...]:
    """The pixels of a sample's first view."""
    return tuple(sample["views"][0].flatten().tolist())


def test_a_substitute_brings_its_own_label(tmp_path: Path) -> None:
    """The control is the rule that would be wrong: the label of the image that it stands in for."""
    for name in "abc":
        (tmp_path / "images" / name).mkdir(parents=True)
    folder = draw_images(tmp_path / "images", [f"{'abc'[i % 3]}/{i:02d}.png" for i in range(18)])
    index = open_index(folder, cache=tmp_path / "cache")
    whole = Samples(index, np.arange(len(index)), views=(STILL,), seed=5)
    label_of = {shown(sample): sample["label"] for sample in (whole[0, position] for position in range(len(index)))}
    lost = 3
    (folder / index.path(lost)).unlink()
    harmed = Samples(index, np.arange(len(index)), views=(STILL,), seed=5)
    found = [harmed[epoch, lost] for epoch in range(12)]
    assert all(sample["replaced"] for sample in found)
    own = [label_of[shown(sample)] for sample in found]
    assert [sample["label"] for sample in found] == own
    assert set(own) - {int(index.labels[lost])}, "the control: another class than the lost image's is among them"


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_vanishes_is_one_sentence(own_index: Index, workers: int) -> None:
    for i in range(COUNT):
        (Path(own_index.root) / own_index.path(i)).unlink()
    with pytest.raises(DataError, match=r"9 images in a row can no longer be read \(images\)") as caught:
        take(batches_of(own_index, workers=workers).from_step(0), 1)
    assert not isinstance(caught.value, BadImage)
    assert "Traceback" not in str(caught.value)
    assert ".." not in str(caught.value)


def test_corrupt_files_change_no_bit(tmp_path: Path) -> None:
    """Metamorphic: a clean set, and the same set with 30 % of damaged files strewn in."""
    names = [f"{i:02d}.png" for i in range(20)]
    clean = draw_images(tmp_path / "clean", names)
    dirty = draw_images(tmp_path / "dirty", names)
    whole = (clean / names[0]).read_bytes()
    damages = [whole[: len(whole) // 2], b"", b"<html>not found</html>", whole[:60], b"\xff\xd8\xff" + whole[:99]]
    for i in range(9):
        (dirty / f"{2 * i:02d}-bad.png").write_bytes(damages[i % len(damages)])
    streams = []
    for folder in (clean, dirty):
        index = open_index(folder, cache=tmp_path / "cache")
        verdicts = check(index, workers=1, cache=tmp_path / "cache")
        ids = training_ids(index, verdicts.good)
        streams.append(take(batches_of(index, ids=ids, workers=1).from_step(0), 6))
    assert len(os.listdir(dirty)) == 29
    assert all(same(a, b) for a, b in zip(*streams, strict=True))
