"""What a ledger file keeps of earlier findings, on documents as small as they can be."""

from typing import Any

from vitlet.replication.merge import merged


def run(name: str, finished: str) -> dict[str, str]:
    return {"name": name, "finished": finished}


def document(runs: dict[str, str], *cells: list[str], waiting: tuple[str, ...] = ()) -> dict[str, Any]:
    """A table of one row with the runs of each cell, a figure with those of the first, and a claim with them."""

    def measured(names: list[str]) -> dict[str, Any] | None:
        return {"runs": names, "seeds": list(range(len(names)))} if names else None

    row = {"title": "MAE", "cells": [{"measured": measured(names), "not_run": None} for names in cells]}
    parts = [{"title": "more", "unit": "points", "margin": 0.0, "runs": cells[0]}]
    answer = "supported" if len(cells[0]) == 2 else "not run"
    return {
        "items": [
            {"name": "table-1", "columns": [str(i) for i in range(len(cells))], "rows": [row]},
            {"name": "figure-1", "drawing": "similarity", "measured": measured(cells[0])},
        ],
        "claims": [{"number": 1, "answer": answer, "why": "", "parts": parts, "beside": []}],
        "runs": [run(name, finished) for name, finished in runs.items()],
        "waiting": list(waiting),
    }


def kept(found: dict[str, Any]) -> list[list[str]]:
    """The runs behind the cells, the figure and the claim."""
    table, figure = found["items"]
    numbers = [cell["measured"] for cell in table["rows"][0]["cells"]] + [figure["measured"]]
    return [(one or {"runs": []})["runs"] for one in numbers] + [found["claims"][0]["parts"][0]["runs"]]


def test_a_number_of_more_seeds_stays_and_one_of_as_many_is_replaced():
    before = document({"a0": "Monday", "a1": "Monday", "b0": "Monday"}, ["a0", "a1"], ["b0"])
    now = document({"a0": "Tuesday", "b0": "Tuesday"}, ["a0"], ["b0"], waiting=("a1",))
    assert kept(now) == [["a0"], ["b0"], ["a0"], ["a0"]], "the control"
    grown = merged(now, before)
    assert kept(grown) == [["a0", "a1"], ["b0"], ["a0", "a1"], ["a0", "a1"]]
    assert grown["claims"][0]["answer"] == "supported"
    assert grown["waiting"] == []


def test_a_run_that_was_made_twice_is_listed_twice_and_one_that_nothing_needs_is_not():
    before = document({"a0": "Monday", "a1": "Monday", "start": "Monday", "lost": "Monday"}, ["a0", "a1"])
    now = document({"a0": "Tuesday"}, ["a0"], waiting=("a1", "start"))
    days = [run("a0", "Monday"), run("a1", "Monday"), run("start", "Monday"), run("a0", "Tuesday")]
    assert merged(now, before)["runs"] == days


def test_numbers_of_runs_that_would_be_others_today_are_not_kept():
    before = document({"old0": "Monday", "old1": "Monday"}, ["old0", "old1"])
    now = document({"new0": "Tuesday"}, ["new0"], waiting=("new1",))
    assert kept(merged(now, before)) == kept(now)
    same = document({"new0": "Monday", "new1": "Monday"}, ["new0", "new1"])
    assert kept(merged(now, same)) == kept(same), "the control"
