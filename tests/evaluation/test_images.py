"""An evaluation judges each image once, and no image in another's place."""

import pytest
import torch

from vitlet.data.batch import Batch
from vitlet.errors import DataError
from vitlet.evaluation.images import each_once


def _batch(positions: list[int], *, replaced: tuple[tuple[int, str], ...] = ()) -> Batch:
    n = len(positions)
    at = torch.tensor(positions)
    return Batch((torch.zeros(n, 3, 2, 2, dtype=torch.uint8),), torch.zeros(n, dtype=torch.int64), at, at, replaced)


def test_batches_pass_as_they_are() -> None:
    batches = [_batch([0, 1]), _batch([4])]
    assert list(each_once(batches)) == batches


@pytest.mark.parametrize("batches", [[_batch([0, 0])], [_batch([0, 1]), _batch([1])]])
def test_an_image_given_twice_is_noticed(batches: list[Batch]) -> None:
    with pytest.raises(AssertionError, match="twice"):
        list(each_once(batches))


def test_a_substitute_is_not_counted() -> None:
    with pytest.raises(DataError, match=r"can no longer be read \(cat/a\\x1b\.png: no such file\)"):
        list(each_once([_batch([0, 1], replaced=((1, "cat/a\x1b.png: no such file"),))]))


def test_no_images() -> None:
    with pytest.raises(DataError, match="no images to evaluate"):
        list(each_once([]))
