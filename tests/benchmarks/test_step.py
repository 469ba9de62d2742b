"""The step benchmark: all contenders of a method compute the same; times are not tested."""

from typing import get_args

import pytest
import torch

from global_state import with_global_state
from vitlet.benchmarks.contenders import PLAIN, Method, Shapes, contenders
from vitlet.benchmarks.step import bench, loss_differences
from vitlet.nn.kernels import has_bf16
from vitlet.recipe import EncoderConfig

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=2, heads=4)
SHAPES = Shapes(SMALL, SMALL.changed(width=36, depth=3, heads=6), batch_size=4)
METHODS: tuple[Method, ...] = get_args(Method)


@pytest.fixture(scope="module")
def measured() -> tuple[dict, bool]:
    shapes = dict.fromkeys(METHODS, SHAPES)
    return with_global_state(lambda: bench(repeats=1, precisions=("fp32", "bf16"), shapes=shapes))


@pytest.fixture(scope="module")
def result(measured: tuple[dict, bool]) -> dict:
    return measured[0]


@pytest.mark.parametrize("method", METHODS)
def test_the_result_has_every_contender_and_the_conditions(result: dict, method: Method) -> None:
    step, bf16 = result["steps"][method], has_bf16(torch.device("cpu"))
    for name, ratio in step["ratio"].items():
        assert ratio == step["cpu_ms"][PLAIN] / step["cpu_ms"][name]
        assert name == PLAIN or result["ratio"][f"{method} {name}"] == ratio
    assert ("vitlet bf16" in step["cpu_ms"]) == bf16
    assert ("vitlet bf16: not supported by this CPU" in step["notes"]) == (not bf16)
    assert {PLAIN, "vitlet fp32"} <= set(step["cpu_ms"])
    assert set(step["bound"]) == ({"fp32", "bf16"} if bf16 else {"fp32"})
    assert step["bound"]["fp32"] > 0
    assert step["foreign_cores"] is None or step["foreign_cores"] >= 0
    assert (result["threads"], result["repeats"], step["batch_size"]) == (1, 1, 4)


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_equal_before_and_after_a_step_of_each(method: Method) -> None:
    present, _ = contenders(method, SHAPES, ("fp32",))
    assert max(loss_differences(present).values()) <= 1e-5
    before = present[PLAIN].value()
    for contender in present.values():
        contender.step()
    after = {name: contender.value() for name, contender in present.items()}
    assert after[PLAIN] < before
    assert after["vitlet fp32"] == pytest.approx(after[PLAIN], rel=1e-4)


def test_another_computation_is_not_timed() -> None:
    present, _ = contenders("mae", SHAPES, ("fp32",))
    present["vitlet fp32"].step()
    with pytest.raises(AssertionError, match="not the same computation"):
        loss_differences(present)


def test_nothing_global_is_left_changed(measured: tuple[dict, bool]) -> None:
    assert measured[1]
