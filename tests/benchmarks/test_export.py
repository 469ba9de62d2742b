"""The export benchmark: all contenders compute the same; times are not tested."""

from typing import Any

import pytest
import torch

from vitlet.benchmarks import export as module
from vitlet.benchmarks.export import TIMM, bench
from vitlet.nn.kernels import has_bf16
from vitlet.recipe import EncoderConfig

SMALL = EncoderConfig(image_size=16, patch_size=8, width=24, depth=1, heads=4)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return bench(repeats=1, batch_sizes=(1, 3), shape=SMALL)


def test_every_contender_is_there_or_said_to_be_left_out(result: dict[str, Any]) -> None:
    bf16 = has_bf16(torch.device("cpu"))
    expected = {TIMM, "vitlet eager fp32", "onnx fp32", "openvino fp32"} | ({"openvino bf16"} if bf16 else set())
    assert set(result["relative_error"]) == expected
    assert ("openvino bf16: not supported by this CPU" in result["notes"]) == (not bf16)
    for batch in result["batches"].values():
        assert set(batch["ratio"]) == expected
        assert batch["ratio"][TIMM] == 1.0
    assert set(result["batches"]) == set(result["bound"]) == {1, 3}
    assert result["ratio"]["3 × openvino fp32"] == result["batches"][3]["ratio"]["openvino fp32"]
    assert torch.get_num_threads() == 1


def test_another_computation_is_not_timed() -> None:
    images = torch.zeros(1, 3)
    with pytest.raises(AssertionError, match="not the same computation"):
        module._errors({TIMM: lambda x: x + 1, "onnx fp32": lambda x: x + 1.01}, images)
    module._errors({TIMM: lambda x: x + 1, "openvino bf16": lambda x: x + 1.01}, images)
