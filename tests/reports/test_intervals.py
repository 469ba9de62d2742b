"""Curves with intervals: themed, repeating bytes, and the numbers they show."""

import re
from xml.etree import ElementTree

import pytest

from vitlet.reports.intervals import Level, Measured, Series, _apart, interval_curves

LOW, HIGH = Measured((0.2, 0.3, 0.25), 0.25, (0.13, 0.37)), Measured((0.5, 0.6, 0.55), 0.55, (0.43, 0.67))
ALONE = Measured((0.4,), 0.4, None)


def drawn(scale: str = "log", **changes) -> str:
    series = [Series((10, 100, 1000), (LOW, HIGH, HIGH), 0), Series((10, 100, 1000), (ALONE, ALONE, LOW), 2)]
    arguments = {"name": "c", "x_label": "labels", "ticks": [(10, "10"), (100, "100"), (1000, "1,000")]}
    return interval_curves(series, scale=scale, **arguments | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", ["log", "linear", "names"])
def test_a_figure_is_sound_themed_and_repeats(scale: str) -> None:
    svg = drawn(scale, levels=[Level(LOW, 1)])
    assert svg == drawn(scale, levels=[Level(LOW, 1)])
    assert ElementTree.fromstring(svg).tag == "svg"
    assert not re.findall(r"(?:fill|stroke): *(#\w+|rgb|black)", svg), "a colour that dark mode cannot change"
    assert not re.search(r"https?:|font-family|<style|<script|<metadata|nan", svg)
    assert ">1,000<" in svg


def lines(svg: str, variable: str) -> int:
    """Strokes in a colour, of any width."""
    return len(re.findall(rf"stroke: var\(--{variable}\)", svg))


def test_only_what_is_there_is_drawn() -> None:
    """A level adds strokes of its colour; single seeds without spread have neither bar nor hollow dot."""
    assert lines(drawn(), "series-2") == 0 < lines(drawn(levels=[Level(LOW, 1)]), "series-2")
    spread, alone = (
        interval_curves([Series((1.0,), (found,), 0)], name="c", x_label="x", scale="linear", ticks=[(1, "1")])
        for found in (HIGH, ALONE)
    )
    assert lines(spread, "series-1") > lines(alone, "series-1")


def test_places_between_names_are_not_joined() -> None:
    assert lines(drawn("linear"), "series-1") == lines(drawn("names"), "series-1") + 1


def test_places_lie_evenly_on_a_logarithmic_axis() -> None:
    """Dots of 10, 100, 1000: equal steps; on a linear axis the first two nearly touch, the control."""

    def steps(svg: str) -> float:
        ticks = {text: float(x) for x, text in re.findall(r'translate\(([\d.]+) [\d.]+\)">(1,?0+)<', svg)} or {
            text: float(x) for x, text in re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>(1,?0+)<', svg)
        }
        return (ticks["100"] - ticks["10"]) / (ticks["1,000"] - ticks["100"])

    assert steps(drawn("log")) == pytest.approx(1, abs=0.01)


def test_ticks_that_would_touch_are_left_out() -> None:
    assert _apart([(0, "10"), (1, "20"), (50, "30")], span=100, pixels=300) == ([0, 50], ["10", "30"])
    assert _apart([(0, "10"), (50, "30")], span=100, pixels=300)[1] == ["10", "30"]
