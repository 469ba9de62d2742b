"""Distance and entropy: the values that follow from the definition, and the plain formulas as oracle."""

import math

import pytest
import torch

from vitlet.analysis.attention import PUBLISHED_EPSILON, PUBLISHED_PITCH, AttentionStatistics, distances, statistics


def plain(logits: torch.Tensor, pitch: torch.Tensor, epsilon: float = 0.0) -> torch.Tensor:
    tokens = logits.shape[-1] - len(pitch)
    weights = logits[:, :, tokens:, tokens:].double().softmax(-1)
    distance = (weights * pitch).sum(-1).mean(-1)
    return torch.stack([distance, -torch.xlogy(weights, weights + epsilon).sum(-1).mean(-1)])


def random_logits(*shape: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_uniform_attention_on_the_papers_grid() -> None:
    found = AttentionStatistics(2, grid=(14, 14))
    logits = torch.zeros(3, 2, 197, 197)
    logits[:, :, 0], logits[:, :, :, 0] = 50.0, 50.0  # the class token would take everything, were it not removed
    found.update(logits)
    distance, entropy = found.result()
    assert torch.allclose(distance, torch.full((2,), 7.2808, dtype=torch.float64), atol=5e-5)
    assert torch.allclose(16 * distance, torch.full((2,), 116.49, dtype=torch.float64), atol=5e-3)
    assert torch.allclose(PUBLISHED_PITCH * distance, torch.full((2,), 101.93, dtype=torch.float64), atol=5e-3)
    assert torch.allclose(entropy, torch.full((2,), math.log(196), dtype=torch.float64), atol=1e-5)


def test_attention_to_itself_is_zero_and_zero() -> None:
    found = AttentionStatistics(1, grid=(14, 14))
    found.update(1e4 * torch.eye(197).expand(2, 1, 197, 197))
    assert [x.tolist() for x in found.result()] == [[0.0], [0.0]]


def test_the_published_constant_lowers_the_entropy_of_uniform_attention() -> None:
    found = AttentionStatistics(1, grid=(14, 14), epsilon=PUBLISHED_EPSILON)
    found.update(torch.zeros(1, 1, 197, 197))
    assert abs(found.result()[1].item() - 5.2779) < 5e-5


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (1, 5)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_any_grid_and_any_number_of_other_tokens(grid: tuple[int, int], prefix: int) -> None:
    tokens = prefix + grid[0] * grid[1]
    logits, pitch = random_logits(5, 3, tokens, tokens), distances(grid)
    for epsilon in (0.0, 1e-2):
        assert torch.allclose(statistics(logits, pitch, epsilon=epsilon), plain(logits, pitch, epsilon), atol=2e-6)


def test_windows_count_like_images() -> None:
    """Windowed attention arrives as B·windows × A × n × n with the window's grid."""
    logits = random_logits(8, 2, 9, 9)
    found = AttentionStatistics(2, grid=(3, 3))
    found.update(logits)
    assert torch.allclose(torch.stack(found.result()), plain(logits, distances((3, 3))).mean(1), atol=2e-6)


def test_sharp_logits_lose_no_digits() -> None:
    logits = random_logits(2, 2, 50, 50, scale=200.0)
    found = statistics(logits, distances((7, 7)))
    assert (found[1] >= -1e-4).all()
    assert torch.allclose(found, plain(logits, distances((7, 7))), atol=1e-4)


def test_order_and_chunks_do_not_matter() -> None:
    logits = random_logits(12, 2, 17, 17)
    whole, back = (AttentionStatistics(2, grid=(4, 4)) for _ in range(2))
    whole.update(logits)
    for i in reversed(range(12)):
        back.update(logits[i : i + 1])
    assert torch.allclose(torch.stack(back.result()), torch.stack(whole.result()), atol=1e-7)


def test_the_longest_distance_of_the_papers_grid() -> None:
    assert abs(distances((14, 14)).max().item() - 18.385) < 5e-4
