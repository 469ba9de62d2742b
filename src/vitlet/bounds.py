"""Bounded numbers for configs. A range or colour out of bounds is answered with the value that was probably meant."""

import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from vitlet.errors import UsageError

_BRIGHTEST = 255

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10**7)]
_Factor = Annotated[float, Field(ge=0.01, le=100)]
_Mean = Annotated[float, Field(ge=0, le=1e6)]
_Channels = tuple[float, float, float]


class OutOfBounds(UsageError):
    """A value of a config that is out of bounds. Its fix is a value alone: `config.explain` adds the key."""


def require_width(at: str, *, width: int, heads: int, sincos: bool) -> None:
    """Reject a width that its heads or 2-D sin-cos positions do not divide.

    Args:
        at: What stands before `width` and `heads` in the keys of their recipe.
        width: Number of features of a token.
        heads: Number of attention heads.
        sincos: Whether its positions are 2-D sin-cos.

    Raises:
        UsageError: suggesting a valid width or number of heads.
    """
    step = math.lcm(4, heads) if sincos else heads
    fix = f"{at}width={max(1, round(width / step)) * step}"
    if sincos and width % 4:
        raise UsageError(f"{at}width {width} is not a multiple of 4", why="2-D sin-cos positions need one", fix=fix)
    if width % heads:
        fewer = next(n for n in range(heads, 0, -1) if width % n == 0)
        raise UsageError(
            f"{at}width {width} is not a multiple of {at}heads {heads}",
            why="Each head has an equal part of it",
            fix=f"{fix}, or {at}heads={fewer}",
        )


def _ordered(values: tuple[float, float]) -> tuple[float, float]:
    low, high = values
    if low > high:
        raise OutOfBounds(
            f"a range from {low:g} down to {high:g}", why="The lower end comes first", fix=_shown((high, low))
        )
    return values


def _of_the_whole(values: tuple[float, float]) -> tuple[float, float]:
    low, high = values
    if max(values) > 1:
        in_percent = min(values) >= 1 and max(values) <= 100
        meant = (low / 100, high / 100) if in_percent else (min(low, 1), 1)
        raise OutOfBounds(
            f"{_shown(values)} is no range of shares", why="The whole area is 1", fix=_shown(sorted(meant))
        )
    return values


def _of_one(values: _Channels) -> _Channels:
    if max(values) > 1:
        meant = [value / _BRIGHTEST for value in values] if max(values) <= _BRIGHTEST else [0.5] * len(values)
        raise OutOfBounds(
            f"{_shown(values)} for pixels of 0 … 1", why=f"White is 1 here, and not {_BRIGHTEST}", fix=_shown(meant)
        )
    return values


def _shown(values: Iterable[float]) -> str:
    """Format as JSON without blanks, to paste after `--set KEY=`."""
    return f"[{','.join(f'{value:.3g}' for value in values)}]"


Factors = Annotated[tuple[_Factor, _Factor], AfterValidator(_ordered)]
"""A range to draw a ratio or a scale factor from, the lower end first."""
Shares = Annotated[tuple[Positive, Positive], AfterValidator(_of_the_whole), AfterValidator(_ordered)]
"""A range to draw a share from, the lower end first."""
Means = Annotated[tuple[_Mean, _Mean, _Mean], AfterValidator(_of_one)]
Deviations = Annotated[tuple[Positive, Positive, Positive], AfterValidator(_of_one)]
"""For the channels of an image whose pixels are 0 … 1."""
