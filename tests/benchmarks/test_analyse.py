import pytest
import torch

from global_state import with_global_state
from vitlet.benchmarks.analyse import bench, plain_cka
from vitlet.recipe import EncoderConfig

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3)


@pytest.fixture(scope="module")
def measured() -> tuple[dict, bool]:
    return with_global_state(lambda: bench(repeats=1, batch_size=8, encoder=SMALL))


@pytest.fixture(scope="module")
def result(measured: tuple[dict, bool]) -> dict:
    return measured[0]


@pytest.mark.parametrize("pair", ["hsic", "attention", "whole"])
def test_both_compute_the_same(result: dict, pair: str) -> None:
    # The published entropy adds 1e-6 inside the logarithm; ours does too where it is compared as a whole.
    found = result["pairs"][pair]
    assert found["difference"] < (1e-3 if pair == "attention" else 1e-4)
    assert result["ratio"][pair] == found["plain_ms"] / found["ours_ms"]


def test_the_conditions_are_told_and_nothing_global_is_left_changed(measured: tuple[dict, bool]) -> None:
    result, is_unchanged = measured
    assert (result["threads"], result["batch_size"], result["repeats"]) == (1, 8, 1)
    assert is_unchanged


def test_the_plain_loop_gives_one_on_the_diagonal() -> None:
    layers = [torch.randn(8, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    assert torch.allclose(plain_cka(layers, layers).diagonal(), torch.ones(3), atol=1e-5)
