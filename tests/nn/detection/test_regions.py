"""Sampling and losses: no global generator, nothing that depends on how a batch is cut."""

import numpy as np
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from vitlet.nn.detection.regions import KeyedSampler

LABELS = torch.tensor([1] * 10 + [0] * 50 + [-1] * 5)


def sampled(key: int, slots: list[int], *, count: int = 16) -> list[tuple[list[int], list[int]]]:
    sampler = KeyedSampler(count, positive_share=0.25, purpose="test")
    sampler.begin(key, torch.tensor(slots))
    positive, negative = sampler([LABELS] * len(slots))
    return [(torch.where(p)[0].tolist(), torch.where(n)[0].tolist()) for p, n in zip(positive, negative, strict=True)]


def test_shares_are_torchvisions() -> None:
    positive, negative = BalancedPositiveNegativeSampler(16, 0.25)([LABELS])
    for mine, (p, n) in zip(sampled(3, [0, 1]), [(positive, negative)] * 2, strict=True):
        assert (len(mine[0]), len(mine[1])) == (int(p[0].sum()), int(n[0].sum())) == (4, 12)
        assert set(mine[0]) <= set(range(10))
        assert set(mine[1]) <= set(range(10, 60))


def test_too_few_of_one_kind() -> None:
    few = sampled(0, [0], count=100)[0]
    assert few == (list(range(10)), list(range(10, 60)))


def test_draws_depend_on_key_and_slot_alone() -> None:
    torch.manual_seed(1)
    whole = sampled(5, [0, 1, 2, 3])
    torch.manual_seed(2)
    assert sampled(5, [2, 3]) == whole[2:]
    assert sampled(6, [0]) != whole[:1]
    assert len({str(image) for image in whole}) == 4


def test_every_negative_has_its_turn() -> None:
    counts = np.zeros(len(LABELS))
    for key in range(200):
        counts[sampled(key, [0])[0][1]] += 1
    assert counts[:10].sum() == counts[60:].sum() == 0
    expected = 200 * 12 / 50
    assert abs(counts[10:60] - expected).max() < 5 * expected**0.5
