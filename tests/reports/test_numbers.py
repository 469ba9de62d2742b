"""Numbers as people read them."""

import pytest

from vitlet.reports.numbers import SPACE, between, between_shares, duration, interval_in_points, percent, significant
from vitlet.text import points


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (59.7, "1 min 00 s"), (192.4, "3 min 12 s"), (7530, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds).replace(SPACE, " ") == text


def test_shares_and_intervals():
    assert percent(0.5919) == f"59.2{SPACE}%"
    assert between((0.5701, 0.613)) == f"57.0 to 61.3{SPACE}%"
    assert between((-0.0443, 0.3), form=points) == "−4.4 to +30.0"
    assert between_shares(-0.02, 1.1) == f"0.0 to 100.0{SPACE}%"
    assert interval_in_points(-0.0443, 0.3, confidence=0.9) == f"90{SPACE}% interval −4.4 to +30.0"


def test_three_significant_digits():
    assert [significant(value) for value in (0.12345, 1.0, 123.4, 98765.4)] == ["0.123", "1.00", "123", "98,765"]
