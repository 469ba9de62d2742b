import math

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
    with (
        pytest.raises(ResourceError, match=r"not enough memory.*--micro-batch 32") as caught,
        memory_errors(batch_size=64),
    ):
        raise MemoryError
    assert caught.value.exit_code == 5
    with pytest.raises(ResourceError, match="--micro-batch 1 "), memory_errors(batch_size=1):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(batch_size=1):
        raise RuntimeError("shapes do not match")
