"""The benchmark of features: all contenders give the same ones; times are not tested."""

from typing import Any

import pytest
import torch

from vitlet.benchmarks import features as module
from vitlet.benchmarks.features import TIMM, bench
from vitlet.nn.kernels import has_bf16
from vitlet.recipe import EncoderConfig

SMALL = EncoderConfig(image_size=16, patch_size=8, width=24, depth=1, heads=4)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return bench(repeats=1, batch_size=3, shape=SMALL)


def test_every_contender_is_there_or_said_to_be_left_out(result: dict[str, Any]) -> None:
    bf16 = has_bf16(torch.device("cpu"))
    assert set(result["relative_error"]) == {TIMM, "vitlet fp32"} | ({"vitlet bf16"} if bf16 else set())
    assert result["relative_error"]["vitlet fp32"] < 1e-4
    assert ("vitlet bf16: not supported by this CPU" in result["notes"]) == (not bf16)
    assert result["ratio"]["vitlet fp32"] == pytest.approx(result["cpu_ms"][TIMM] / result["cpu_ms"]["vitlet fp32"])


def test_another_computation_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.extract
    monkeypatch.setattr(module, "extract", lambda *a, **k: (1.01 * real(*a, **k)[0], None))
    with pytest.raises(AssertionError, match="not the same computation"):
        bench(repeats=1, batch_size=3, shape=SMALL)
