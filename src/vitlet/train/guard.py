"""Steps that cannot be taken: non-finite numbers and too little memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from vitlet.errors import NonFiniteError, ResourceError

_NO_MEMORY = ("out of memory", "can't allocate memory")


def require_finite(*, step: int, loss: float, grad_norm: float, record: str) -> None:
    """Reject a step whose loss or gradient norm is NaN or infinite, before anything has changed.

    Raises:
        NonFiniteError: naming which of the two it was and the file that lists the images of the batch.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {grad_norm}"
    raise NonFiniteError(
        f"{what} at step {step}",
        where=record,
        why="The step was not taken and the last checkpoint is intact",
        fix="a lower learning rate (--set optimizer.base_lr=…), optimizer.clip_norm=1.0, or --precision fp32",
    )


@contextmanager
def memory_errors(*, part: int, num_ranks: int = 1, couples: bool = False, pairs: bool = False) -> Iterator[None]:
    """Explain what to do when a step does not fit into memory, by an option that the same run accepts.

    Args:
        part: Images of a rank's forward pass.
        num_ranks: Number of ranks.
        couples: Whether the loss of an image depends on the rest of its batch, so that parts would change it.
        pairs: Whether images are mixed in pairs, which no part may separate.

    Raises:
        ResourceError: for a failed allocation on a GPU or the CPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(words in text for words in _NO_MEMORY):
            raise
        raise ResourceError(
            "not enough memory for a step",
            why=text.splitlines()[0] if text else "allocation failed",
            fix=_smaller_step(part, num_ranks, couples=couples, pairs=pairs),
        ) from error


def _smaller_step(part: int, num_ranks: int, *, couples: bool, pairs: bool) -> str:
    half = part // 2
    if pairs:
        half -= half % 2
    if half * num_ranks < (2 if couples else 1):
        return "smaller images or a smaller network, or --precision bf16: fewer images at once are impossible"
    if couples:
        return (
            f"more ranks (torchrun), which keep the global batch and its results, or --batch-size {half * num_ranks}, "
            "which trains otherwise; parts of a batch would change the loss"
        )
    return f"--micro-batch {half} keeps the global batch and its results, in smaller parts"
