"""Sampling: balanced, seeded, mixed; and batches of one size."""

import numpy as np
import pytest

from vitlet.analysis.sample import choose, even_batches
from vitlet.errors import DataError

LABELS = np.repeat([0, 1, 2], [100, 50, 4])


def test_every_class_gives_equally_many_while_it_has_some() -> None:
    assert np.bincount(LABELS[choose(LABELS, num=12, seed=0)]).tolist() == [4, 4, 4]
    assert np.bincount(LABELS[choose(LABELS, num=34, seed=0)]).tolist() == [15, 15, 4]


def test_the_seed_decides_and_nobody_comes_twice() -> None:
    first, again, other = (choose(LABELS, num=60, seed=s) for s in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert set(first) != set(other)
    assert len(set(first)) == 60


def test_a_batch_holds_a_mixture() -> None:
    labels = LABELS[choose(LABELS, num=90, seed=0)]
    assert all(len(np.unique(labels[i : i + 30])) >= 2 for i in (0, 30, 60))


def test_folder_order_takes_the_first_as_the_paper_did() -> None:
    assert choose(LABELS, num=20, seed=5, folder_order=True).tolist() == list(range(20))


def test_images_without_labels_and_too_few_of_them() -> None:
    unlabelled = np.full(9, -1)
    assert sorted(choose(unlabelled, num=50, seed=0)) == list(range(9))


@pytest.mark.parametrize(("images", "expected"), [(1024, (1024, 64)), (1000, (990, 66)), (63, (63, 63)), (4, (4, 4))])
def test_batches_are_equally_large(images: int, expected: tuple[int, int]) -> None:
    used, size = even_batches(images, batch_size=64)
    assert (used, size) == expected
    assert used % size == 0
    assert images - used < max(1, images // 64)


def test_three_images_are_too_few() -> None:
    with pytest.raises(DataError, match="3 images to analyse"):
        even_batches(3, batch_size=64)
