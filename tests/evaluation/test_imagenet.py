"""Classes are brought together by name; ReaL scores by hand; folders 0 … 999 are numbers and not words."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from timm.data.real_labels import RealLabelsImagenet

from vitlet.data.batch import Batch
from vitlet.errors import DataError, NonFiniteError
from vitlet.evaluation.imagenet import (
    count_right,
    head_positions,
    real_answers,
    real_labels,
    synsets,
    validation_number,
)

NUMBERS = tuple(str(i) for i in range(1000))


def batches(count: int, *, size: int = 4) -> Iterator[Batch]:
    """Images whose first pixel is their position; no labels, which nobody asks for."""
    positions = torch.arange(count)
    images = positions.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    for i in range(0, count, size):
        at = slice(i, i + size)
        yield Batch((images[at],), torch.full((len(positions[at]),), -1), positions[at], positions[at])


def oracle(scores: torch.Tensor):
    return lambda images: scores[images[:, 0, 0, 0].long()]


def test_the_synsets_are_the_thousand_in_their_order() -> None:
    names = synsets()
    assert (len(names), names[0], names[1], names[999]) == (1000, "n01440764", "n01443537", "n15075141")
    assert sorted(names) == list(names)


def test_the_real_labels_are_those_of_fifty_thousand_images() -> None:
    labels = real_labels()
    assert len(labels) == 50_000
    assert sum(not known for known in labels) == 3_163  # 46,837 count: Beyer et al. 2020
    assert {place for known in labels for place in known} <= set(range(1000))


def test_classes_meet_by_name_whatever_their_order() -> None:
    shuffled = list(synsets())
    random.Random(0).shuffle(shuffled)
    outputs, how = head_positions(synsets(), shuffled)
    assert [shuffled[output] for output in outputs] == list(synsets())
    assert how == "classes by name"
    assert head_positions(["cat", "dog"], ["dog", "bird", "cat"])[0].tolist() == [2, 0]


def test_numbers_are_places_in_the_sorted_synsets_on_either_side() -> None:
    outputs, how = head_positions(synsets()[:3], NUMBERS)
    assert outputs.tolist() == [0, 1, 2]
    assert "taken as places" in how
    as_listed = sorted(NUMBERS)  # 0, 1, 10, 100, 101 …: as a file listing has them
    outputs, _ = head_positions(as_listed, synsets())
    assert outputs.tolist() == [int(name) for name in as_listed]
    assert outputs.tolist() != list(range(1000)), "the control: taken in the order of the listing"
    reversed_head = tuple(reversed(synsets()))
    assert head_positions(["0", "999"], reversed_head)[0].tolist() == [999, 0]


@pytest.mark.parametrize(
    ("data", "head", "answer"),
    [
        (["cat", "dgo"], ["cat", "dog"], "dgo.*Did you mean dog"),
        (["n01440764"], ["cat", "dog"], "1 class of the data unknown to the head: n01440764"),
        (["1000"], NUMBERS, "1000"),
        (["0"], ["cat", "dog"], "unknown to the head"),
    ],
)
def test_a_class_that_the_head_does_not_know_is_refused(data: list[str], head: list[str], answer: str) -> None:
    with pytest.raises(DataError, match=answer):
        head_positions(data, head)


def test_images_without_a_label_are_left_out_and_others_count_once() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    right = [(0,), (), (0,), (0, 1), (1,)]
    for size in (1, 2, 4, 5):
        assert count_right(oracle(scores), batches(5, size=size), right) == (4, 2, 4)


def test_a_nan_is_refused() -> None:
    with pytest.raises(NonFiniteError):
        count_right(oracle(torch.full((3, 2), float("nan"))), batches(3), [(0,)] * 3)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_real_scores_are_timms(order: str) -> None:
    """timm's scorer beside ours on the first 200 images, with random logits in the order of the head."""
    head = list(synsets())
    if order == "shuffled":
        random.Random(1).shuffle(head)
    logits = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))
    logits[:, :20] += 1.5 * torch.rand(200, 20, generator=torch.Generator().manual_seed(1))
    for i, known in enumerate(real_labels()[:200:2]):  # some right answers
        if known:
            logits[2 * i, head.index(synsets()[known[-1]])] += 9
    right, _ = real_answers(range(1, 201), head)
    found = count_right(oracle(logits), batches(200, size=64), right)
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 50_001)]
    theirs = RealLabelsImagenet(names)
    columns = [head.index(name) for name in synsets()]
    theirs.add_result(logits[:, columns])
    n, first, fifth = found
    assert n == sum(bool(known) for known in real_labels()[:200])
    assert 100 * first / n == pytest.approx(theirs.get_accuracy(1))
    assert 100 * fifth / n == pytest.approx(theirs.get_accuracy(5))
    assert first > 50


def test_real_wants_a_head_of_imagenet() -> None:
    with pytest.raises(DataError, match="2 classes"):
        real_answers([1], ["cat", "dog"])
    with pytest.raises(DataError, match="unknown to the head"):
        real_answers([1], [f"class {i}" for i in range(1000)])


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("val/n01440764/ILSVRC2012_val_00000293.JPEG", 293),
        ("ILSVRC2012_val_00050000.JPEG", 50_000),
        ("x.parquet/00000001/ILSVRC2012_val_00000001_n01440764.JPEG", 1),
        ("ILSVRC2012_val_00000000.JPEG", None),
        ("ILSVRC2012_val_00050001.JPEG", None),
        ("n01440764_10026.JPEG", None),
    ],
)
def test_validation_images_go_by_their_number(path: str, number: int | None) -> None:
    assert validation_number(path) == number


def test_outputs_are_whole_numbers_of_the_head() -> None:
    outputs, _ = head_positions(synsets(), NUMBERS)
    assert np.array_equal(outputs, np.arange(1000))
