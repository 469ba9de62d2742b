"""Heat-maps and boxes: both themes, grey, bytes that repeat, and the numbers they show."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from vitlet.reports import charts


def heat() -> str:
    return charts.heat_map(np.array([[0.0, 0.5], [1.2, np.nan]]), name="heat", x_label="layer", y_label="layer")


def box() -> str:
    groups = [np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.full(5, 2.0)]
    return charts.boxes(groups, name="box", high=10.0, x_label="block", y_label="nats")


@pytest.mark.parametrize("draw", [heat, box])
def test_a_chart_is_sound_themed_and_repeats(draw) -> None:
    svg = draw()
    assert svg == draw()
    assert ElementTree.fromstring(svg).tag == "svg"
    assert not re.findall(r"(?:fill|stroke): *(#\w+|rgb|black)", svg), "a colour that dark mode cannot change"
    assert not re.search(r"https?:|font-family|<style|<script|<metadata|nan", svg)


def test_shades_say_the_numbers() -> None:
    """One colour from absent to full: that also is what makes the map readable in grey."""
    shades = re.findall(r"fill: var\(--series-1\); opacity: ([\d.]+)", heat())
    solid = heat().count("fill: var(--series-1)") - len(shades)
    assert "0.5" in shades
    assert solid >= 1, "1.2 is shown as 1"


def test_labels_carry_their_units() -> None:
    assert ">nats<" in box()
    assert ">layer<" in heat()
    assert ">0.5<" in heat(), "the scale"
