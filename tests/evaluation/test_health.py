"""Feature health and the verdict too early / learning / stalled / collapsed."""

import math

import numpy as np
import pytest
import torch

from vitlet.evaluation.health import Health, explain, feature_health, verdict

WELL = Health(feature_std=0.4, effective_rank=30.0)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _falling(n: int, *, noise: float = 0.02) -> list[float]:
    draw = np.random.Generator(np.random.Philox(key=5))
    return list(0.5 + 0.5 * np.exp(-np.arange(n) / n * 3) + noise * draw.normal(size=n))


def _flat(n: int, *, seed: int, level: float = 0.95, noise: float = 0.02) -> list[float]:
    return list(level + noise * np.random.Generator(np.random.Philox(key=seed)).normal(size=n))


def test_isotropic_features_have_std_one_and_full_rank() -> None:
    health = feature_health(_normal(20_000, 16))
    assert health.feature_std == pytest.approx(1.0, abs=0.01)
    assert health.effective_rank == pytest.approx(16.0, abs=0.05)


def test_effective_rank_is_the_naive_formula() -> None:
    features = _normal(50, 8) * torch.logspace(0, -2, 8) + 3
    unit = features.double().numpy() / np.linalg.norm(features.double().numpy(), axis=1, keepdims=True)
    singular = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    share = singular / singular.sum()
    health = feature_health(features)
    assert health.effective_rank == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-9)
    assert health.feature_std == pytest.approx(unit.std(axis=0).mean() * math.sqrt(8), rel=1e-9)


def test_k_equal_directions_have_rank_k() -> None:
    corners = torch.cat([torch.eye(6), -torch.eye(6)])[:, :6]
    assert feature_health(corners[[0, 1, 2, 6, 7, 8]]).effective_rank == pytest.approx(3.0, abs=1e-6)


def test_length_does_not_matter() -> None:
    features, lengths = _normal(100, 8), torch.logspace(-3, 3, 100)[:, None]
    assert feature_health(features * lengths).feature_std == pytest.approx(feature_health(features).feature_std)


def test_a_constant_plus_noise_is_seen_by_the_std_alone() -> None:
    health = feature_health(1 + 1e-3 * _normal(500, 32))
    assert health.feature_std < 0.01
    assert health.effective_rank > 20  # which is why one number is not enough
    assert verdict(_falling(40), [WELL, health]) == "collapsed"


def test_a_line_is_seen_by_the_rank_alone() -> None:
    direction = _normal(1, 32)
    health = feature_health(_normal(500, 1, seed=1) * direction + 1e-4 * _normal(500, 32, seed=2))
    assert health.effective_rank < 2
    assert health.feature_std > 0.1
    assert verdict(_falling(40), [health]) == "collapsed"


def test_equal_features_have_no_directions() -> None:
    for constant in (torch.zeros(5, 4), _normal(1, 4).expand(5, 4)):
        health = feature_health(constant)
        assert health.feature_std < 1e-12
        assert health.effective_rank == 0.0


@pytest.mark.parametrize("n", [8, 11, 40, 1000])
def test_a_falling_loss_is_learning(n: int) -> None:
    assert verdict(_falling(n), [WELL]) == "learning"


def test_a_slow_smooth_fall_is_learning() -> None:
    assert verdict(list(np.linspace(1.0, 0.9, 40)), []) == "learning"


@pytest.mark.parametrize("n", [20, 400])
def test_a_flat_loss_is_stalled(n: int) -> None:
    """Noise alone passes for learning in at most one of forty (two standard errors, one side)."""
    verdicts = [verdict(_flat(n, seed=seed, noise=0.1), [WELL]) for seed in range(200)]
    assert verdicts.count("learning") <= 12
    assert set(verdicts) <= {"learning", "stalled"}


def test_ln_k_and_a_rising_loss_are_stalled() -> None:
    assert verdict([math.log(4096)] * 30, [WELL]) == "stalled"
    assert verdict(_falling(40)[::-1], [WELL]) == "stalled"


@pytest.mark.parametrize("losses", [[0.9] * 7, list(np.linspace(1, 0.1, 7)), list(np.linspace(0.1, 1, 7))])
def test_too_little_to_judge_is_called_neither_good_nor_bad(losses: list[float]) -> None:
    assert verdict(losses, [WELL]) == "too early"
    assert verdict([*losses, 0.9], [WELL]) != "too early"


def test_a_collapse_is_seen_before_there_is_a_trend() -> None:
    assert verdict([0.9], [Health(feature_std=0.001, effective_rank=1.0)]) == "collapsed"


def test_too_early_says_what_is_missing() -> None:
    assert explain([], []) == "too early: nothing measured yet."
    assert explain([0.9], []) == "too early: loss 0.9, 1 logged and 8 needed for a trend."
    assert explain([], [WELL]) == "too early: feature std 0.4, effective rank 30.0."


def test_only_the_latest_features_count() -> None:
    assert verdict(_falling(40), [Health(feature_std=0.001, effective_rank=1.0), WELL]) == "learning"


def test_the_line_names_numbers_and_the_knob() -> None:
    flat = explain([0.95] * 40, [WELL])
    assert flat.startswith("stalled: loss 0.95 at first, 0.95 now (noise); feature std 0.4, effective rank 30.0. ")
    assert "optimizer.base_lr" in flat
    constant = explain([0.95] * 40, [Health(feature_std=0.002, effective_rank=20.0)])
    assert constant.startswith("collapsed: all images get nearly the same features (feature std 0.002, below 0.01). ")
    assert "optimizer.base_lr" in constant
    line = explain([0.95] * 40, [Health(feature_std=0.5, effective_rank=1.2)])
    assert "lie on a line (effective rank 1.2, below 2)" in line
    good = explain(list(np.linspace(1.0, 0.5, 40)), [WELL])
    assert good == "learning: loss 0.9423 at first, 0.5577 now (-40.8 %); feature std 0.4, effective rank 30.0."
    assert "optimizer" not in good
    assert all("\n" not in text for text in (flat, constant, line, good))
