"""The step benchmark: all contenders compute the same; times are not tested."""

import pytest
import torch

from vitlet.bench.step import bench_step, loss_differences, make_contenders
from vitlet.recipe import EncoderConfig

SMALL = EncoderConfig(
    image_size=32, patch_size=8, width=24, depth=2, heads=4, position="sincos", init="xavier", final_norm=True
)


@pytest.fixture(scope="module")
def result() -> dict:
    return bench_step(repeats=1, batch_size=4, precisions=("fp32", "bf16"), encoder=SMALL)


def test_the_result_has_every_contender_and_the_conditions(result: dict) -> None:
    assert result["ratio"]["published"] == 1
    for name, ratio in result["ratio"].items():
        assert ratio == result["cpu_ms"]["published"] / result["cpu_ms"][name]
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert ("vitlet bf16" in result["cpu_ms"]) == bf16
    assert ("vitlet bf16: not supported by this CPU" in result["notes"]) == (not bf16)
    assert {"published", "vitlet fp32"} <= set(result["cpu_ms"])
    assert (result["threads"], result["batch_size"], result["repeats"]) == (1, 4, 1)
    assert result["vector_extensions"] == torch.backends.cpu.get_cpu_capability()
    assert result["foreign_cores"] is None or result["foreign_cores"] >= 0


def test_losses_are_equal_before_and_after_a_step_of_each() -> None:
    contenders, _ = make_contenders(batch_size=4, precisions=("fp32",), encoder=SMALL)
    assert max(loss_differences(contenders).values()) <= 1e-5
    before = contenders["published"].value()
    for contender in contenders.values():
        contender.step()
    after = {name: contender.value() for name, contender in contenders.items()}
    assert after["published"] < before
    assert after["vitlet fp32"] == pytest.approx(after["published"], rel=1e-4)


def test_another_computation_is_not_timed() -> None:
    contenders, _ = make_contenders(batch_size=4, precisions=("fp32",), encoder=SMALL)
    contenders["vitlet fp32"].step()
    with pytest.raises(AssertionError, match="not the same computation"):
        loss_differences(contenders)


def test_nothing_global_is_left_changed(result: dict) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    bench_step(repeats=1, batch_size=2, encoder=SMALL)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_float32_matmul_precision() == "highest"
