import math
from typing import Any

import pytest

from vitlet.errors import NonFiniteError, ResourceError
from vitlet.train.guard import memory_errors, require_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    require_finite(step=1, loss=0.0, grad_norm=1e30, record="r.json")
    with pytest.raises(NonFiniteError, match=rf"loss {bad} at step 7 \(r\.json\).*not taken"):
        require_finite(step=7, loss=bad, grad_norm=1.0, record="r.json")
    with pytest.raises(NonFiniteError, match=f"gradient norm {bad} at step 7"):
        require_finite(step=7, loss=1.0, grad_norm=bad, record="r.json")


def test_memory_errors() -> None:
    with pytest.raises(ResourceError, match=r"not enough memory.*--micro-batch 32") as caught, memory_errors(part=64):
        raise MemoryError
    assert caught.value.exit_code == 5
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(part=1):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(
    ("part", "batch", "fix"),
    [
        (64, {}, "--micro-batch 32 keeps"),
        (64, {"num_ranks": 2}, "--micro-batch 32 keeps"),
        (2, {}, "--micro-batch 1 keeps"),
        (1, {}, "smaller images"),
        (10, {"pairs": True}, "--micro-batch 4 keeps"),
        (2, {"pairs": True}, "smaller images"),
        (64, {"couples": True}, "more ranks.*--batch-size 32,"),
        (64, {"couples": True, "num_ranks": 4}, "more ranks.*--batch-size 128,"),
        (6, {"couples": True, "pairs": True}, "more ranks.*--batch-size 2,"),
        (2, {"couples": True}, "smaller images"),
        (2, {"couples": True, "num_ranks": 2}, "more ranks.*--batch-size 2,"),
    ],
)
def test_what_is_proposed_for_too_little_memory_is_possible(part: int, batch: dict[str, Any], fix: str) -> None:
    """A part of one image cannot be halved, one of pairs remains even, and a coupled batch is not split."""
    with pytest.raises(ResourceError, match=f"Fix: {fix}") as caught, memory_errors(part=part, **batch):
        raise RuntimeError("CUDA out of memory")
    assert ("--micro-batch" in str(caught.value)) == fix.startswith("--micro-batch")
