import numpy as np
import pytest

from vitlet.data.index import open_index
from vitlet.data.subsets import balanced, holdout, split_ids, training_ids
from vitlet.errors import DataError

LABELS = np.array([0, 1, 2, -1] * 25, dtype=np.int32)


def test_splits(tmp_path, tree):
    index = open_index(tree(tmp_path, "train/1.png", "train/2.png", "val/3.png", "test/4.png"))
    good = np.array([True, True, False, True])  # by path: test/4, train/1, train/2, val/3
    assert training_ids(index, good).tolist() == [1]
    assert split_ids(index, good, "val").tolist() == [3]
    assert split_ids(index, good, "test").tolist() == [0]
    with pytest.raises(DataError, match="no images to train on"):
        training_ids(index, np.array([True, False, False, True]))


@pytest.mark.parametrize("num", [3, 30, 31, 32, 75])
def test_balanced_has_equally_many_of_each(num):
    ids = balanced(LABELS, num=num, seed=5)
    counts = np.bincount(LABELS[ids], minlength=3)
    assert len(ids) == len(set(ids)) == num
    assert counts.max() - counts.min() <= (1 if num % 3 else 0)
    np.testing.assert_array_equal(ids, np.sort(ids))
    np.testing.assert_array_equal(ids, balanced(LABELS, num=num, seed=5))


def test_balanced_depends_on_the_seed_and_grows():
    small, large = set(balanced(LABELS, num=30, seed=5)), set(balanced(LABELS, num=60, seed=5))
    assert small < large
    assert small != set(balanced(LABELS, num=30, seed=6))


def test_balanced_does_not_depend_on_images_without_labels():
    labelled = LABELS[LABELS >= 0]
    places = np.flatnonzero(LABELS >= 0)
    np.testing.assert_array_equal(places[balanced(labelled, num=30, seed=1)], balanced(LABELS, num=30, seed=1))


def test_balanced_refuses_what_cannot_be():
    with pytest.raises(DataError, match=r"has 25 images, 26 are wanted.*--num-labels 75"):
        balanced(LABELS, num=78, seed=0)
    with pytest.raises(DataError, match="--num-labels 3"):
        balanced(LABELS, num=2, seed=0)
    with pytest.raises(DataError, match="labels of 1 classes"):
        balanced(np.zeros(5, np.int32), num=2, seed=0)
    with pytest.raises(DataError, match="labels of 0 classes"):
        balanced(np.full(5, -1, np.int32), num=2, seed=0)


def test_holdout_divides_each_class():
    learn, held = holdout(LABELS, share=0.2, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([learn, held])), np.arange(100))
    assert np.bincount(LABELS[held] + 1).tolist() == [5, 5, 5, 5]
    np.testing.assert_array_equal(held, holdout(LABELS, share=0.2, seed=3)[1])
    assert held.tolist() != holdout(LABELS, share=0.2, seed=4)[1].tolist()


def test_holdout_keeps_small_classes_on_both_sides():
    learn, held = holdout(np.array([0, 0, 1, 1, 2]), share=0.1, seed=0)
    assert sorted(np.array([0, 0, 1, 1, 2])[held].tolist()) == [0, 1]
    assert len(learn) == 3
