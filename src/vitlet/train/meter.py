"""Training throughput, and the share of the training time spent waiting for images."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, final


@final
class Meter:
    """Images per second and the share of time spent waiting for data, since the last row and without pauses."""

    def __init__(self) -> None:
        """Start counting now."""
        self.images, self.waited, self.since = 0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside this block as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside this block out."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def add(self, images: int) -> None:
        """Count `images` more, over all ranks."""
        self.images += images

    def row(self, step: int, epoch: float, loss: float, lr: float, grad_norm: float) -> dict[str, Any]:
        """Return one row of metrics and reset the counters."""
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        speed, wait = self.images / elapsed, self.waited / elapsed
        self.images, self.waited, self.since = 0, 0.0, time.perf_counter()
        return {
            "step": step,
            "epoch": epoch,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "images_per_second": round(speed, 1),
            "data_wait": round(wait, 4),
        }
