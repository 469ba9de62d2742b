"""k nearest neighbours: equal to scikit-learn, exact about ties, bounded in memory."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sklearn.neighbors import KNeighborsClassifier

from vitlet.evaluation import knn


def _clusters(n: int, *, seed: int, classes: int = 5, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes, so that votes are divided."""
    draw = np.random.Generator(np.random.Philox(key=seed))
    centres = np.random.Generator(np.random.Philox(key=99)).normal(size=(classes, width))
    labels = draw.integers(0, classes, n)
    points = 3 + centres[labels] + 1.5 * draw.normal(size=(n, width))
    return torch.tensor(points, dtype=torch.float32), torch.tensor(labels)


def _sklearn(train, labels, test, *, k: int, temperature: float | None) -> np.ndarray:
    weights = "uniform" if temperature is None else (lambda distance: np.exp((1 - distance) / temperature))
    model = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute", weights=weights)
    return model.fit(train.double().numpy(), labels.numpy()).predict(test.double().numpy())


@pytest.mark.parametrize("k", [1, 2, 10, 20])
@pytest.mark.parametrize("temperature", [None, 0.07, 1.0])
def test_equals_scikit_learn(k: int, temperature: float | None) -> None:
    train, labels = _clusters(700, seed=1)
    test, truth = _clusters(333, seed=2)
    predicted = knn.knn_predict(train, labels, test, num_classes=5, k=k, temperature=temperature, chunk=128)
    expected = _sklearn(train, labels, test, k=k, temperature=temperature)
    assert np.array_equal(predicted.numpy(), expected)
    assert knn.top1(predicted, truth) == pytest.approx((expected == truth.numpy()).mean(), abs=1e-12)
    assert 0.4 < knn.top1(predicted, truth) < 0.99  # a task that is neither trivial nor lost


def test_the_temperature_matters_here() -> None:
    train, labels = _clusters(700, seed=1)
    test, _ = _clusters(333, seed=2)
    plain = knn.knn_predict(train, labels, test, num_classes=5, temperature=None)
    assert not torch.equal(plain, knn.knn_predict(train, labels, test, num_classes=5, temperature=0.07))


@settings(max_examples=12)
@given(chunk=st.integers(1, 90), k=st.integers(1, 100), seed=st.integers(0, 10))
def test_chunks_do_not_matter(chunk: int, k: int, seed: int) -> None:
    # Small whole numbers: similarities are exact, so ties are many and the same in every chunk.
    draw = torch.Generator().manual_seed(seed)
    train = torch.eye(4)[torch.randint(0, 4, (70,), generator=draw)]
    labels = torch.randint(0, 3, (70,), generator=draw)
    test = torch.eye(4)[torch.randint(0, 4, (31,), generator=draw)] * 2
    whole = knn.knn_predict(train, labels, test, num_classes=3, k=k, chunk=1000)
    assert torch.equal(knn.knn_predict(train, labels, test, num_classes=3, k=k, chunk=chunk), whole)


def test_among_equal_neighbours_the_earlier_row_is_nearer() -> None:
    train = torch.ones(6, 2)
    labels = torch.tensor([4, 4, 1, 1, 1, 0])
    predict = {
        k: knn.knn_predict(train, labels, torch.ones(1, 2), num_classes=5, k=k, chunk=2).item() for k in (1, 3, 5, 6)
    }
    assert predict == {1: 4, 3: 4, 5: 1, 6: 1}


def test_among_equal_votes_the_smaller_class_wins() -> None:
    train, labels = torch.ones(4, 2), torch.tensor([3, 2, 3, 2])
    assert knn.knn_predict(train, labels, torch.ones(1, 2), num_classes=4, k=4).item() == 2


def test_opposite_and_zero_features() -> None:
    train = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
    labels = torch.tensor([0, 1, 2])
    # Similarities to (1, 0): -1, 0, -0.0. Zero and minus zero are equal, so the earlier row is nearer.
    assert knn.knn_predict(train, labels, torch.tensor([[1.0, 0.0]]), num_classes=3, k=1).item() == 1
    order = knn._nearest(train, torch.tensor([[1.0, 0.0]]), k=3, chunk=2)
    assert order[1].tolist() == [[1, 2, 0]]
    assert order[0].tolist() == [[0.0, 0.0, -1.0]]


def test_fewer_rows_than_neighbours() -> None:
    assert knn.knn_predict(torch.eye(2), torch.tensor([1, 1]), torch.eye(2), num_classes=2, k=20).tolist() == [1, 1]


def test_a_tiny_temperature_is_the_nearest_neighbour() -> None:
    train, labels = _clusters(300, seed=1)
    test, _ = _clusters(100, seed=2)
    sharp = knn.knn_predict(train, labels, test, num_classes=5, k=20, temperature=1e-6)
    assert torch.equal(sharp, knn.knn_predict(train, labels, test, num_classes=5, k=1))


def test_memory_is_bounded_by_the_chunk() -> None:
    """The largest tensor made is chunk × (chunk + k); the control makes the full matrix."""
    draw = torch.Generator().manual_seed(0)
    train, test = torch.randn(3000, 8, generator=draw), torch.randn(2000, 8, generator=draw)
    labels = torch.zeros(3000, dtype=torch.int64)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, torch.Tensor) and tensor._base is None:
                    self.numel = max(self.numel, tensor.numel())
            return result

    with Largest() as bounded:
        knn.knn_predict(train, labels, test, num_classes=2, k=20, chunk=256)
    assert bounded.numel <= 256 * (256 + 20)
    with Largest() as control:
        knn.knn_predict(train, labels, test, num_classes=2, k=20, chunk=4000)
    assert control.numel >= 2000 * 3000
