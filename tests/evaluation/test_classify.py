"""Top-k by hand, and an evaluation that counts every labelled image once."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from vitlet.data.batch import Batch
from vitlet.errors import DataError, NonFiniteError
from vitlet.evaluation.classify import any_right, evaluate_classifier, topk


def _batches(labels: torch.Tensor, *, size: int = 4) -> Iterator[Batch]:
    """Images whose first pixel is their position, the last batch as short as it comes."""
    positions = torch.arange(len(labels))
    images = positions.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    for i in range(0, len(labels), size):
        at = slice(i, i + size)
        yield Batch((images[at],), labels[at], positions[at], positions[at])


def _oracle(scores: torch.Tensor):
    """A classifier that looks up its answer by the image's first pixel."""
    return lambda images: scores[images[:, 0, 0, 0].long()]


def test_topk_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    labels = torch.tensor([2, 2, 0])
    assert topk(logits, labels, 1).tolist() == [False, False, True]
    assert topk(logits, labels, 2).tolist() == [True, False, True]
    assert topk(logits, labels, 3).tolist() == [True, True, True]


def test_any_right_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.1, 0.9, 0.5, 0.2], [0.7, 0.7, 0.7, 0.7], [0.1, 0.9, 0.5, 0.2]])
    right = [(1,), (0, 2), (1, 2), (0, 3)]
    assert any_right(logits, right, 1).tolist() == [True, False, False, False]
    assert any_right(logits, right, 2).tolist() == [True, True, True, False]
    assert any_right(logits, right, 3).tolist() == [True, True, True, True]


def test_topk_agrees_with_scikit_learn_and_argmax() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 9, generator=draw), torch.randint(0, 9, (500,), generator=draw)
    assert torch.equal(topk(logits, labels, 1), logits.argmax(dim=1) == labels)
    for k in (1, 3, 5):
        expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=k, labels=range(9))
        assert topk(logits, labels, k).double().mean().item() == pytest.approx(expected)


def test_equal_logits_are_chance_and_not_a_triumph() -> None:
    flat, labels = torch.zeros(10, 10), torch.arange(10)
    assert topk(flat, labels, 1).sum() == 1
    assert topk(flat, labels, 5).sum() == 5


def test_a_nan_is_never_right() -> None:
    assert not topk(torch.full((3, 2), float("nan")), torch.tensor([0, 1, 0]), 1).any()


@pytest.mark.parametrize("size", [1, 4, 5, 11, 100])
def test_every_image_counts_once_whatever_the_batch(size: int) -> None:
    labels = torch.randint(0, 7, (11,), generator=torch.Generator().manual_seed(1))
    scores = torch.randn(11, 7, generator=torch.Generator().manual_seed(2))
    found = evaluate_classifier(_oracle(scores), _batches(labels, size=size))
    assert found["n"] == 11
    assert found["correct"].dtype == np.bool_
    assert np.array_equal(found["correct"], (scores.argmax(dim=1) == labels).numpy())
    assert found["top1"] == pytest.approx(found["correct"].mean())
    assert found["top5"] == pytest.approx(topk(scores, labels, 5).double().mean().item())


def test_a_mean_of_batch_means_would_be_wrong() -> None:
    """The control: the short last batch must not weigh as much as a full one."""
    labels = torch.zeros(9, dtype=torch.int64)
    scores = torch.eye(2)[torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 0])]
    found = evaluate_classifier(_oracle(scores), _batches(labels, size=4))
    of_batches = np.mean([1.0, 0.0, 1.0])
    assert found["top1"] == pytest.approx(5 / 9)
    assert found["top1"] != pytest.approx(of_batches)


def test_images_without_a_label_are_not_counted() -> None:
    labels = torch.tensor([0, -1, 1, -1, -1])
    found = evaluate_classifier(_oracle(torch.eye(2)[[0, 0, 0, 0, 0]]), _batches(labels, size=3))
    assert (found["n"], found["top1"], found["top5"]) == (2, 0.5, None)


def test_an_image_given_twice_is_noticed() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(AssertionError, match="twice"):
        evaluate_classifier(_oracle(torch.eye(2)), [*_batches(labels), *_batches(labels)])


def test_no_gradient_is_kept() -> None:
    weight = torch.nn.Parameter(torch.eye(2))
    seen = []

    def forward(images: torch.Tensor) -> torch.Tensor:
        logits = weight[images[:, 0, 0, 0].long()]
        seen.append(logits.requires_grad)
        return logits

    evaluate_classifier(forward, _batches(torch.tensor([0, 1])))
    assert seen == [False]


def test_refusals() -> None:
    forward = _oracle(torch.eye(3))
    with pytest.raises(DataError, match="no images to evaluate"):
        evaluate_classifier(forward, [])
    with pytest.raises(DataError, match="none of the images to evaluate has a label"):
        evaluate_classifier(forward, _batches(torch.tensor([-1, -1])))
    with pytest.raises(DataError, match="class number 3, the head knows 3 classes"):
        evaluate_classifier(forward, _batches(torch.tensor([0, 3])))
    with pytest.raises(NonFiniteError):
        evaluate_classifier(_oracle(torch.full((2, 2), float("nan"))), _batches(torch.tensor([0, 1])))
