"""Linear probes: the grid equals its members alone, nothing is chosen on the test set, the published ones learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from vitlet.errors import DataError
from vitlet.evaluation import linear
from vitlet.evaluation.probe import held_out


def _task(n: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three layers of features: noise, a weak signal, a strong one, of very different size and with a dead feature."""
    draw = np.random.Generator(np.random.Philox(key=seed))
    centres = np.random.Generator(np.random.Philox(key=9)).normal(size=(4, 6))
    y = draw.integers(0, 4, n)
    layers = [k * centres[y] + draw.normal(size=(n, 6)) for k in (0.0, 0.7, 1.5)]
    x = np.stack(layers, axis=1) * np.logspace(-2, 2, 6)
    x[:, :, 0] = 7.0
    return torch.tensor(x).float(), torch.tensor(y)


TRAIN, TEST = _task(300, seed=1), _task(200, seed=2)
RATES = linear.GRID[3::4]
LAST = tuple((x[:, 2:], y) for x, y in (TRAIN, TEST))


def test_the_grid_has_thirteen_rates_over_four_decades() -> None:
    assert len(linear.GRID) >= 13
    assert (linear.GRID[0], linear.GRID[-1]) == (pytest.approx(0.001), pytest.approx(10.0))


def test_members_do_not_disturb_each_other() -> None:
    rates = [0.01, 1.0]
    together = linear._fit(*TRAIN, rates=rates, num_classes=4, seed=0).logits(TEST[0])
    for layer in (0, 2):
        for member, rate in enumerate(rates):
            alone = linear._fit(TRAIN[0][:, layer : layer + 1], TRAIN[1], rates=[rate], num_classes=4, seed=0)
            logits = alone.logits(TEST[0][:, layer : layer + 1])[0, :, 0]
            assert torch.allclose(logits, together[layer, :, member], atol=1e-3, rtol=1e-3)


def test_the_written_gradient_is_that_of_cross_entropy() -> None:
    """One member beside torch's own layer, loss and optimizer."""
    x, y = LAST[0]
    rows = x[:, 0]
    spread = rows.std(dim=0, correction=0)
    standard = torch.where(spread > 0, (rows - rows.mean(dim=0)) / spread, 0.0)
    head = torch.nn.Linear(6, 4)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    sgd = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    steps = 1000
    for step, chosen in enumerate(linear._order(300, batch=256, steps=steps, seed=0)):
        sgd.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + np.cos(np.pi * step / steps))
        sgd.zero_grad()
        F.cross_entropy(head(standard[chosen]), y[chosen]).backward()
        sgd.step()
    found = linear._fit(x, y, rates=[0.1], num_classes=4, seed=0)
    assert torch.allclose(found.logits(x)[0, :, 0], head(standard).detach(), atol=1e-3)


def test_it_is_as_good_as_logistic_regression() -> None:
    result = linear.linear_probe(*LAST[0], *LAST[1], seed=0)
    x, y = LAST[0]
    scale = x[:, 0, 1:].std(dim=0)
    model = LogisticRegression(max_iter=5000).fit((x[:, 0, 1:] / scale).numpy(), y.numpy())
    expected = model.score((LAST[1][0][:, 0, 1:] / scale).numpy(), LAST[1][1].numpy())
    assert result.top1 == pytest.approx(expected, abs=0.03)
    assert result.n == 200


def test_rate_and_layer_are_chosen_on_held_out_training_images() -> None:
    settings = linear.linear_probe(*TRAIN, *TEST, seed=0).settings
    assert settings["layer"] == 2
    held = torch.from_numpy(held_out(TRAIN[1].numpy(), seed=0))
    x, y = TRAIN[0], TRAIN[1]
    grid = linear._fit(x[~held], y[~held], rates=linear.GRID, num_classes=4, seed=0)
    scores = linear._accuracy(grid, x[held], y[held])
    assert settings["held_out_top1_by_layer"] == scores.max(axis=1).tolist()
    assert settings["held_out_top1"][f"{settings['rate']:.4g}"] == scores.max()
    assert settings["chosen_on"] == f"{int(held.sum())} held-out training images"


def test_the_test_labels_choose_nothing() -> None:
    shuffled = TEST[1][torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    honest = linear.linear_probe(*TRAIN, *TEST, seed=0, rates=RATES)
    blind = linear.linear_probe(*TRAIN, TEST[0], shuffled, seed=0, rates=RATES)
    assert blind.settings == honest.settings
    assert blind.top1 < honest.top1 - 0.1


def test_one_image_a_class_needs_no_split() -> None:
    x, y = torch.eye(3)[:, None], torch.arange(3)
    result = linear.linear_probe(x, y, x, y, seed=0)
    assert result.top1 == 1.0
    assert result.settings["rate"] == linear.FALLBACK
    assert result.settings["chosen_on"] == "nothing: one image a class"


@pytest.mark.parametrize("protocol", ["linear-mae", "linear-moco"])
def test_published_probes_learn_and_repeat(protocol: str) -> None:
    few = [(x[:, 0, 1:] / torch.tensor(np.logspace(-2, 2, 6)).float()[1:], y) for x, y in LAST]
    first = linear.published_probe(*few[0], *few[1], protocol=protocol, seed=0)
    torch.manual_seed(5)
    again = linear.published_probe(*few[0], *few[1], protocol=protocol, seed=0)
    assert np.array_equal(first.correct, again.correct)
    assert first.top1 > 0.7
    assert first.settings["batch"] == 300
    assert first.settings["lr"] == pytest.approx({"linear-mae": 6.4, "linear-moco": 12.0}[protocol])


@pytest.mark.parametrize("probe", ["grid", "linear-mae", "linear-moco"])
@pytest.mark.parametrize("y", [torch.full((300,), -1), torch.zeros(300, dtype=torch.int64)])
def test_refusals_reach_the_caller(probe: str, y: torch.Tensor) -> None:
    if probe == "grid":
        with pytest.raises(DataError):
            linear.linear_probe(TRAIN[0], y, *TEST, seed=0)
    else:
        with pytest.raises(DataError):
            linear.published_probe(TRAIN[0][:, 0], y, TEST[0][:, 0], TEST[1], protocol=probe, seed=0)
