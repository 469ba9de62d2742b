"""Numbers as a page shows them: no line breaks between a number and its unit."""

from collections.abc import Callable

from vitlet import text
from vitlet.text import points

SPACE = "\N{NO-BREAK SPACE}"


def percent(share: float) -> str:
    """`59.2 %`."""
    return text.percent(share).replace(" ", SPACE)


def between(interval: tuple[float, float], *, form: Callable[[float], str] = percent) -> str:
    """`57.0 to 61.3 %`; the unit only once."""
    low, high = (form(end) for end in interval)
    return f"{low.removesuffix(SPACE + '%')} to {high}"


def between_shares(low: float, high: float) -> str:
    """`between` for an accuracy, clipped to 0 … 1, which an interval over few seeds may exceed."""
    return between((max(0.0, low), min(1.0, high)))


def interval_in_points(low: float, high: float, *, confidence: float) -> str:
    """`95 % interval +27.5 to +32.3`, of a difference of shares."""
    return f"{100 * confidence:g}{SPACE}% interval {between((low, high), form=points)}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 12 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{SPACE}min{SPACE}{whole % 60:02d}{SPACE}s"
    return f"{whole // 3600}{SPACE}h{SPACE}{whole % 3600 // 60:02d}{SPACE}min"


def significant(value: float) -> str:
    """Three significant digits, without an exponent for large numbers."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
