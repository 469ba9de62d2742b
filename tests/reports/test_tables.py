"""Rows that may be compared, and their intervals."""

import pytest
from scipy.stats import binomtest, t

from vitlet.environment import Environment
from vitlet.reports import tables
from vitlet.reports.contents import Contents


def contents(name: str, results: list[dict]) -> Contents:
    return Contents(name, {}, Environment.of(name), [], results, None, None)


def measured(value: float, **changes: object) -> dict:
    result = {"metric": "top1", "value": value, "n": 100, "seed": 0, "split": "test", "protocol": "kNN"}
    return result | {"data": {"name": "digits", "fingerprint": "aa"}} | changes


@pytest.mark.parametrize(("share", "n"), [(0.71, 1000), (0.0, 20), (1.0, 20)])
def test_wilson_interval_is_scipys(share, n):
    expected = binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
    assert tables.wilson_interval(share, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_arm_that_was_measured_once_says_so_and_its_interval_is_over_images():
    arms = [
        {"name": "mae", "title": "mae", "values": [0.55], "seeds": [0], "once": True},
        {"name": "random", "title": "random", "values": [0.29, 0.3, 0.28], "seeds": [0, 1, 2], "once": False},
    ]
    (group,) = tables.groups_of_comparison({"protocols": [{"title": "kNN", "metric": "top1", "n": 1000, "arms": arms}]})
    once, random = group.rows
    assert (once.title, once.seeds) == ("mae (one draw: all labels)", ())
    assert once.interval == tables.wilson_interval(0.55, 1000)
    assert (random.title, random.seeds) == ("random", (0, 1, 2))
    assert group.note.endswith("; intervals over images or seeds")


def test_a_row_has_the_interval_its_values_allow():
    seeds = tables.row("a", [0.5, 0.6, 0.7], seeds=[0, 1, 2], n=100, style=0)
    reach = t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert seeds.interval == pytest.approx((0.6 - reach, 0.6 + reach))
    assert tables.row("a", [0.5], seeds=[0], n=100, style=0).interval == tables.wilson_interval(0.5, 100)
    assert tables.row("a", [0.5], seeds=[0], n=0, style=0).interval is None


def test_what_was_measured_differently_is_not_put_side_by_side():
    runs = [
        contents("a", [measured(0.7), measured(0.5, seed=1, split="val")]),
        contents("b", [measured(0.6), measured(0.8, n=1000), measured(2.3, metric="loss"), measured(None)]),
        contents("c", [measured(0.9, data={"name": "digits", "fingerprint": "bb"})]),
    ]
    groups = tables.groups_of_results(runs)
    assert sorted([row.title for row in group.rows] for group in groups) == [["a"], ["a", "b"], ["b"], ["c"]]


def test_two_seeds_of_one_run_are_one_row():
    (group,) = tables.groups_of_results([contents("a", [measured(0.7), measured(0.72, seed=1)])])
    assert group.rows[0].values == (0.7, 0.72)
    assert group.note.endswith("intervals over seeds")
