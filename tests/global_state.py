"""What no benchmark may leave changed. Not a test itself."""

from collections.abc import Callable
from typing import Any

import torch


def global_state() -> tuple[Any, ...]:
    """Threads, precision of products and torch's generator."""
    return torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_rng_state().tolist()


def with_global_state(measure: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """What `measure` returns, and whether the global state is as it was before."""
    before = global_state()
    found = measure()
    return found, global_state() == before
