"""Probes: equal to scikit-learn, chosen on training images only, and refusing what they cannot measure."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitlet.errors import DataError
from vitlet.evaluation import logistic, probe
from vitlet.evaluation.knn import knn_predict


def _task(n: int, *, seed: int, classes: int = 4, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.Generator(np.random.Philox(key=seed))
    centres = np.random.Generator(np.random.Philox(key=99)).normal(size=(classes, width))
    labels = draw.integers(0, classes, n)
    scale = np.logspace(-3, 3, width)  # features of very different size, so that standardising matters
    return torch.tensor((centres[labels] + 2 * draw.normal(size=(n, width))) * scale).float(), torch.tensor(labels)


TRAIN, TEST = _task(400, seed=1), _task(250, seed=2)


def test_logistic_equals_scikit_learn_at_the_chosen_c() -> None:
    result = logistic.logistic_probe(*TRAIN, *TEST, seed=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=result.settings["C"], max_iter=5000))
    model.fit(TRAIN[0].double().numpy(), TRAIN[1].numpy())
    expected = model.predict(TEST[0].double().numpy()) == TEST[1].numpy()
    assert np.array_equal(result.correct, expected)
    assert result.top1 == pytest.approx(expected.mean())
    assert result.n == 250
    assert result.settings["converged"]
    assert result.settings["chosen_on"] == "5 parts of the training images, each held out once"
    assert 0.35 < result.top1 < 0.95


@pytest.mark.parametrize("num_parts", [5, 1])
def test_c_is_the_best_on_the_held_out_training_images(monkeypatch: pytest.MonkeyPatch, num_parts: int) -> None:
    """Five parts with few images; one with many, which is each case's control."""
    if num_parts == 1:
        monkeypatch.setattr(logistic, "_ONE_PART_FROM", len(TRAIN[1]))
    x, y = TRAIN[0].double().numpy(), TRAIN[1].numpy()
    scores = dict.fromkeys(logistic.GRID, 0.0)
    for held in (probe.held_out(y, seed=0, part=part) for part in range(num_parts)):
        for c in logistic.GRID:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000)).fit(x[~held], y[~held])
            scores[c] += model.score(x[held], y[held]) / num_parts
    settings = logistic.logistic_probe(*TRAIN, *TEST, seed=0).settings
    assert settings["held_out_top1"] == {str(c): pytest.approx(s, abs=1 / held.sum()) for c, s in scores.items()}
    shown = settings["held_out_top1"]
    assert shown[str(settings["C"])] == max(shown.values())
    assert settings["chosen_on"].startswith({5: "5 parts", 1: "80 held-out"}[num_parts])


def test_the_test_labels_choose_nothing() -> None:
    shuffled = TEST[1][torch.randperm(250, generator=torch.Generator().manual_seed(0))]
    honest = logistic.logistic_probe(*TRAIN, *TEST, seed=0)
    blind = logistic.logistic_probe(*TRAIN, TEST[0], shuffled, seed=0)
    assert blind.settings == honest.settings
    assert blind.top1 < honest.top1 - 0.1


def test_the_split_is_stratified_and_depends_on_the_seed() -> None:
    y = np.repeat([0, 1, 2, 5], [100, 10, 2, 1])
    held = probe.held_out(y, seed=0)
    assert [int(held[y == c].sum()) for c in (0, 1, 2, 5)] == [20, 2, 1, 0]
    assert np.array_equal(held, probe.held_out(y, seed=0))
    assert not np.array_equal(held, probe.held_out(y, seed=1))
    np.random.seed(1)
    assert np.array_equal(held, probe.held_out(y, seed=0))
    parts = np.array([probe.held_out(y, seed=0, part=part) for part in range(probe.PARTS)])
    assert (parts.sum(axis=0)[y < 2] == 1).all(), "each is held out once"
    assert [parts[:, y == c].any() for c in (2, 5)] == [True, False]
    assert not parts[:, y == 2].all(axis=1).any(), "never the last"


def test_one_image_a_class_needs_no_split() -> None:
    x, y = torch.eye(3), torch.arange(3)
    result = logistic.logistic_probe(x, y, x, y, seed=0)
    assert result.top1 == 1.0
    assert result.settings["C"] == logistic.FALLBACK
    assert result.settings["chosen_on"] == "nothing: one image a class"


def test_a_dead_feature_does_no_harm() -> None:
    dead = [torch.cat([x, torch.full((len(x), 1), 7.0)], dim=1) for x in (TRAIN[0], TEST[0])]
    with_dead = logistic.logistic_probe(dead[0], TRAIN[1], dead[1], TEST[1], seed=0)
    assert np.array_equal(with_dead.correct, logistic.logistic_probe(*TRAIN, *TEST, seed=0).correct)


def test_knn_probe_counts_what_knn_predicts() -> None:
    labels = TRAIN[1].clone()
    labels[::3] = -1
    result = probe.knn_probe(TRAIN[0], labels, *TEST, k=7, temperature=None)
    known = labels >= 0
    predicted = knn_predict(TRAIN[0][known], labels[known], TEST[0], num_classes=4, k=7, temperature=None)
    assert np.array_equal(result.correct, (predicted == TEST[1]).numpy())
    assert (result.protocol, result.n, result.settings) == ("knn", 250, {"k": 7, "temperature": None})


@pytest.mark.parametrize("labels", [torch.full((400,), -1), torch.zeros(400, dtype=torch.int64)])
def test_refusals_reach_the_caller(labels: torch.Tensor) -> None:
    with pytest.raises(DataError):
        logistic.logistic_probe(TRAIN[0], labels, *TEST, seed=0)
    with pytest.raises(DataError):
        probe.knn_probe(TRAIN[0], labels, *TEST)


def test_small_products_are_not_shared_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is the same problem where the threshold is below it."""
    asked, limits = [], logistic.threadpool_limits
    monkeypatch.setattr(logistic, "threadpool_limits", lambda count, **k: asked.append(count) or limits(count, **k))
    x, y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    first = logistic.logistic_probe(x, y, x, y, seed=0)
    assert asked == [1], "once for all fits"
    asked.clear()
    monkeypatch.setattr(logistic, "_THREADS_FROM", 40)
    assert logistic.logistic_probe(x, y, x, y, seed=0).settings == first.settings
    assert asked == [None]
