"""Figures: the numbers they show, both themes, and bytes that repeat."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from vitlet.reports import figures
from vitlet.reports.canvas import swatch
from vitlet.reports.figures import Curve, Strip

SCALE = figures.scale([0.29, 0.6], chance=0.1)


def curve(*, points: int = 200, name: str = "loss") -> str:
    line = Curve(list(range(points)), [1 / (1 + i) for i in range(points)])
    return figures.curves([line], name=name, size=(720, 320), x_label="epoch", y_label="nats", smooth=True)


def drawings() -> dict[str, str]:
    row = Strip((0.58, 0.6, 0.59), 0.59, (0.57, 0.61), style=1)
    return {
        "curves": curve(),
        "strip": figures.strip(row, SCALE, name="strip"),
        "axis": figures.axis(SCALE, name="axis"),
        "difference": figures.difference(0.3, (0.27, 0.33), name="difference"),
        "swatch": swatch(3),
    }


@pytest.mark.parametrize("kind", ["curves", "strip", "axis", "difference", "swatch"])
def test_a_drawing_is_sound_themed_and_repeats(kind):
    svg = drawings()[kind]

    assert svg == drawings()[kind]
    tree = ElementTree.fromstring(svg)
    assert tree.tag == "svg"
    assert not re.findall(r"(?:fill|stroke): *(#\w+|rgb|black)", svg), "a colour that dark mode cannot change"
    assert "var(--" in svg
    assert not re.search(r"https?:|font-family|<style|<script|<metadata|nan", svg)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_no_tick_of_a_share_lies_outside_0_to_100(level: float):
    line = Curve([0, 1], [level, level])
    shares, numbers = (
        figures.curves([line], name="level", size=(320, 200), x_label="x", y_label="y", percent=percent)
        for percent in (True, False)
    )

    def outside(svg: str) -> set[str]:
        return {text for text in re.findall(r">([−\d.]+)</text>", svg) if not 0 <= float(text.replace("−", "-")) <= 100}

    assert not outside(shares)
    assert "102" in numbers or "−" in numbers or "1.02" in numbers, "a number may lie anywhere"


def test_a_drawing_does_not_depend_on_others_drawn_before():
    first = curve()
    figures.strip(Strip((0.5,), 0.5, None), SCALE, name="between")
    assert curve() == first


def test_ids_of_two_drawings_differ_and_references_hold():
    a, b = curve(name="a"), curve(name="b")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (a, b)]

    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, known in zip((a, b), ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= known


def test_values_that_are_not_finite_leave_a_gap_and_none_at_all_no_figure():
    def path(y: list[float | None]) -> str:
        return figures.curves([Curve([0, 1, 2, 3, 4], y)], name="g", size=(350, 200), x_label="x", y_label="y")

    line = re.compile(r'd="([^"]*)" style="fill: none; stroke: var\(--series-1\)')
    assert line.search(path([1, 2, 3, 4, 5]))[1].count("M") == 1
    assert line.search(path([1, 2, None, 4, 5]))[1].count("M") == 2
    assert path([None, None, float("nan"), None, None]) == ""
    assert figures.curves([], name="g", size=(350, 200), x_label="x", y_label="y") == ""


def test_a_million_steps_make_a_small_figure():
    assert len(curve(points=1_000_000)) < 80_000


def test_smoothing_is_a_mean_over_near_values():
    values = np.random.Generator(np.random.Philox(key=5)).normal(size=100)
    half = figures.smoothing_window(100) // 2
    naive = [values[max(0, i - half) : i + half + 1].mean() for i in range(100)]

    np.testing.assert_allclose(figures.smoothed(values), naive)
    with_gap = np.where(np.arange(100) == 50, np.nan, values)
    assert np.flatnonzero(np.isnan(figures.smoothed(with_gap))).tolist() == [50]
    np.testing.assert_allclose(figures.smoothed(values[:5]), values[:5], err_msg="few values are shown as they are")


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0], [0.501, 0.502], [0.29, 0.59]])
def test_the_scale_holds_its_values(values):
    scale = figures.scale(values, chance=0.1)
    assert scale.low <= min(0.1, *values)
    assert scale.high >= max(values)
    assert 0 <= scale.low < scale.high <= 1
    assert len(scale.ticks) >= 3


def test_marks_stand_where_their_numbers_are():
    svg = figures.strip(Strip((0.2, 0.4), 0.3, (0.1, 0.5)), figures.Scale(0, 1, (0.0, 1.0)), name="s")
    left, width = 10, 300
    circles = [float(x) for x in re.findall(r'<use href="[^"]*" x="([\d.]+)" y="[\d.]+" style="fill-opacity: 0', svg)]
    strokes = {float(x) for x in re.findall(r'd="M ([\d.]+) [\d.]+\s+L \1 [\d.]+', svg)}

    np.testing.assert_allclose(circles, [left + width * 0.2, left + width * 0.4])
    assert {left + width * v for v in (0.1, 0.3, 0.5)} <= strokes


def test_a_difference_always_shows_zero():
    for mean, interval in ((0.3, (0.27, 0.33)), (-0.04, (-0.06, -0.02)), (0.001, (-0.01, 0.02)), (0.2, None)):
        svg = figures.difference(mean, interval, name="d")
        assert "no difference" in svg
        assert ">0</text>" in svg


def test_an_image_row_holds_the_pixels_and_nothing_else():
    images = np.random.Generator(np.random.Philox(key=3)).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    row = Image.open(io.BytesIO(base64.b64decode(figures.image_row(images).removeprefix("data:image/png;base64,"))))
    pixels = np.asarray(row)

    assert row.size == (3 * 32 + 2 * 2, 32)
    assert not row.info
    np.testing.assert_array_equal(pixels[:, 34:66, :3], images[1])
    assert (pixels[:, 32:34, 3] == 0).all(), "the gap shows the page"
    large = figures.image_row(np.zeros((2, 300, 600, 3), np.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(large.partition(",")[2]))).size == (2 * 128 + 8, 64)


@pytest.mark.parametrize(("value", "text"), [(0.9, "0.900"), (31.04, "31.0"), (1234.5, "1,234"), (312.0, "312")])
def test_three_digits_count(value, text):
    assert figures.significant(value) == text
