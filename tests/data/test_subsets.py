from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vitlet.data.choice import Subset
from vitlet.data.index import open_index
from vitlet.data.splits import HELD_OUT, SPLITS
from vitlet.data.subsets import balanced, divide, holdout, listed, long_tailed, share_of, training_ids
from vitlet.errors import DataError

LABELS = np.array([0, 1, 2, -1] * 25, dtype=np.int32)


def test_splits(tmp_path, tree):
    index = open_index(tree(tmp_path, "train/1.png", "train/2.png", "val/3.png", "test/4.png"))
    good = np.array([True, True, False, True])  # by path: test/4, train/1, train/2, val/3
    assert training_ids(index, good).tolist() == [1]
    assert [index.rows(split, good).tolist() for split in SPLITS] == [[1], [3], [0]]
    assert index.rows("train").tolist() == [1, 2]
    with pytest.raises(DataError, match="no images to train on"):
        training_ids(index, np.array([True, False, False, True]))


def test_only_what_may_be_used_is_divided(tmp_path, tree):
    root = tree(tmp_path, *(f"{i}.png" for i in range(10)))
    index, good = open_index(root), np.arange(10) != 3
    train, held, split = divide(index, good, labelled=False)
    assert (len(train), len(held), split) == (7, 2, HELD_OUT)
    assert 3 not in {*train, *held}
    assert [len(rows) for rows in divide(index, good)[:2]] == [0, 0], "none has a label"


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


UNEVEN = np.repeat(np.arange(3, dtype=np.int32), [100, 20, 4])


class TestShare:
    def test_classes_give_equally_as_far_as_they_can(self):
        def given(share: float) -> list[int]:
            return np.bincount(UNEVEN[share_of(UNEVEN, share=share, seed=0)], minlength=3).tolist()

        assert given(12 / 124) == [4, 4, 4]
        assert given(24 / 124) == [10, 10, 4]
        assert given(64 / 124) == [40, 20, 4]
        assert given(1) == [100, 20, 4]

    @pytest.mark.parametrize("num", [3, 31, 75])
    def test_it_is_balanced_where_all_classes_have_enough(self, num: int):
        known = LABELS[LABELS >= 0]
        np.testing.assert_array_equal(share_of(known, share=num / len(known), seed=5), balanced(known, num=num, seed=5))

    def test_the_smaller_is_in_the_larger(self):
        small, large = (set(share_of(UNEVEN, share=share / 124, seed=1)) for share in (24, 64))
        assert small < large
        assert small != set(share_of(UNEVEN, share=24 / 124, seed=2))

    def test_without_labels_it_is_a_plain_draw(self):
        ids = share_of(np.full(50, -1, np.int32), share=0.2, seed=0)
        assert len(ids) == len(set(ids)) == 10
        assert ids.tolist() == sorted(ids)

    def test_images_without_a_label_give_their_share(self):
        assert np.bincount(LABELS[share_of(LABELS, share=0.24, seed=0)] + 1).tolist() == [6, 6, 6, 6]

    def test_every_class_needs_one(self):
        with pytest.raises(DataError, match=r"share of 0.01 is 1 image of 124.*3 classes.*0\.024194 or more"):
            share_of(UNEVEN, share=0.01, seed=0)
        assert len(share_of(UNEVEN, share=0.024194, seed=0)) == 3
        with pytest.raises(DataError, match="0 images of 50"):
            share_of(np.full(50, -1, np.int32), share=0.001, seed=0)


def test_a_long_tail_has_the_published_sizes():
    """CIFAR-10-LT with imbalance 100, as Cui et al. 2019 define it: 12,406 images."""
    labels = np.repeat(np.arange(10, dtype=np.int32), 5000)
    ids = long_tailed(labels, imbalance=100, seed=0)
    assert np.bincount(labels[ids]).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert ids.tolist() != long_tailed(labels, imbalance=100, seed=1).tolist()
    assert long_tailed(labels, imbalance=1, seed=0).tolist() == list(range(50_000))
    assert np.bincount(UNEVEN[long_tailed(UNEVEN, imbalance=4, seed=0)]).tolist() == [100, 20, 4]


PATHS = ["train/n01/n01_1.JPEG", "train/n01/n01_2.JPEG", "train/n02/n02_1.JPEG", "train/n02/7 b.JPEG", "a/7", "b/7"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["n02_1.JPEG", "n01_1.JPEG"], [0, 2]),
        (["train/n01/n01_2.JPEG 0", "n02/n02_1.JPEG 17"], [1, 2]),
        (["7 b.JPEG"], [3]),
        (["a/7"], [4]),
    ],
)
def test_a_list_names_images_by_path_or_its_end(names: list[str], found: list[int]):
    assert listed(names, PATHS, where="list.txt").tolist() == found


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["n01_1.JPEG", "n09_1.JPEG"], r"1 of 2 listed names.*\(list.txt\).*n09_1.JPEG"),
        (["7"], r"2 training images are called 7.*a/7 and b/7"),
        (["n01_1.JPEG", "train/n01/n01_1.JPEG 0"], "listed twice"),
        (["1_1.JPEG"], "1 of 1 listed name"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(names: list[str], words: str):
    with pytest.raises(DataError, match=words):
        listed(names, PATHS, where="list.txt")


def test_the_published_lists_are_balanced(shared: Path):
    """Every class folder of ImageNet that the lists name, empty of pixels: 12,811 images, 12 or 13 a class."""
    names = Subset.parse(str(shared / "imagenet_lists" / "simclr_1percent.txt")).names()
    paths = [f"train/{name.split('_')[0]}/{name}" for name in names]
    others = [f"train/{name.split('_')[0]}/other_{name}" for name in names]
    chosen = listed(names, [*others, *paths], where="list")
    assert chosen.tolist() == list(range(len(names), 2 * len(names)))
    counts = Counter(Counter(name.split("_")[0] for name in names).values())
    assert (len(names), counts) == (12_811, {12: 189, 13: 811})
