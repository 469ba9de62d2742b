"""Labels that no probe can use get a message of their own."""

import pytest
import torch

from vitlet.data.splits import HELD_OUT
from vitlet.errors import DataError
from vitlet.evaluation import labels

NONE = torch.tensor([-1, -1])
TWO = torch.tensor([0, 1, -1])
EMPTY = torch.empty(0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (EMPTY, TWO, "the training split is empty"),
        (TWO, EMPTY, "the test split is empty"),
        (NONE, TWO, "none of the 2 training images has a label"),
        (TWO, NONE, "none of the 2 test images has a label"),
        (torch.tensor([1, 1, -1]), torch.tensor([1]), "2 labelled training images of a single class, 'dog'"),
        (TWO, torch.tensor([0, 1, 2, 3]), "2 classes in the test split only: 'ro\\x1bse', 3"),
    ],
)
def test_each_case_has_its_message(train: torch.Tensor, test: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError) as caught:
        labels.require(train, test, classes=["cat", "dog", "ro\x1bse"])
    assert str(caught.value).startswith(message)
    assert "Fix: " in str(caught.value)
    assert caught.value.exit_code == 3


def test_the_split_and_the_data_are_named() -> None:
    with pytest.raises(DataError, match=r"1 class in the val split only: 2 \(pets\).*out of the val split"):
        labels.require(TWO, torch.tensor([0, 2]), split="val", where="pets")


def test_a_held_out_part_that_is_empty_has_another_remedy() -> None:
    with pytest.raises(DataError, match="two images or more of a class, or a test split"):
        labels.require(TWO, EMPTY, split=HELD_OUT)


def test_what_can_be_used_passes() -> None:
    labels.require(TWO, torch.tensor([1, 1, -1]))  # a class missing from the test split is no error


def test_rows_without_a_label_are_left_out() -> None:
    x, y, x_test, y_test = labels.usable(torch.arange(6.0).reshape(3, 2), TWO, torch.ones(2, 2), torch.tensor([-1, 1]))
    assert x.tolist() == [[0, 1], [2, 3]]
    assert y.tolist() == [0, 1]
    assert (len(x_test), y_test.tolist()) == (1, [1])
    with pytest.raises(DataError, match="the test split is empty"):
        labels.usable(torch.ones(3, 2), TWO, torch.ones(0, 2), EMPTY)
