"""Durations with units, and schedules as pure functions of the step.

After assembly only integer steps exist: `to_steps` is the only place that converts epochs, images and shares to steps.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from vitlet.config import Config
from vitlet.errors import UsageError


class Epochs(Config):
    """Passes over the training images; an epoch is floor(images / global batch) steps, the rest is dropped."""

    unit: Literal["epochs"] = "epochs"
    n: Annotated[float, Field(ge=0, le=1e6)]


class Steps(Config):
    """Optimizer steps."""

    unit: Literal["steps"] = "steps"
    n: Annotated[int, Field(ge=0, le=10**9)]


class Images(Config):
    """Images seen, counting repetitions."""

    unit: Literal["images"] = "images"
    n: Annotated[int, Field(ge=0, le=10**13)]


class Share(Config):
    """A share of the whole run, whatever its length."""

    unit: Literal["share"] = "share"
    n: Annotated[float, Field(ge=0, le=1)]


Duration = Annotated[Epochs | Steps | Images, Field(discriminator="unit")]
Span = Annotated[Epochs | Steps | Images | Share, Field(discriminator="unit")]
"""A span within a run: a warm-up, or the interval between two measurements."""


def steps_per_epoch(*, num_images: int, batch_size: int) -> int:
    """Number of steps per epoch; the last partial batch is dropped, as in the published recipes."""
    if num_images < batch_size:
        raise UsageError(
            f"batch size {batch_size} is larger than the {num_images} training images",
            why="Incomplete batches are dropped, so there would be no step at all",
            fix=f"--batch-size {max(1, num_images)} or less",
        )
    return num_images // batch_size


def to_steps(
    duration: Epochs | Steps | Images | Share, *, num_images: int, batch_size: int, total: int | None = None
) -> int:
    """Convert a duration to optimizer steps for this data and global batch; shares are of `total` steps."""
    if isinstance(duration, Share):
        assert total is not None, "a run cannot be as long as a share of itself"
        return round(duration.n * total)
    if isinstance(duration, Steps):
        return duration.n
    if isinstance(duration, Images):
        return math.ceil(duration.n / batch_size)
    return round(duration.n * steps_per_epoch(num_images=num_images, batch_size=batch_size))


def warmup_cosine(step: int, *, total: int, warmup: int, start: float, peak: float, end: float) -> float:
    """Linear from `start` at step 0 to `peak` at step `warmup`, then half a cosine to `end` at step `total`.

    Source: Loshchilov and Hutter 2017 (SGDR) with the linear warm-up of Goyal et al. 2017, per step.
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    if step >= total:
        return end
    progress = (step - warmup) / max(1, total - warmup)
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))


def cosine(step: int, *, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `total` (for a teacher's momentum or weight decay)."""
    return warmup_cosine(step, total=total, warmup=0, start=start, peak=start, end=end)


def warmup_step_decay(
    step: int, *, total: int, warmup: int, start: float, peak: float, falls: Sequence[float]
) -> float:
    """Linear from `start` at step 0 to `peak` at step `warmup`; drops to a tenth after each share in `falls`.

    Source: the schedule of Mask R-CNN (He et al. 2017), with its drops as shares of the run.
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    return peak * 0.1 ** sum(step >= round(share * total) for share in falls)
