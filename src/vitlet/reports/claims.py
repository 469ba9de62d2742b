"""Findings on the paper's claims, in words: for the page, the terminal and the ledger."""

from collections.abc import Mapping, Sequence
from typing import Any

from vitlet.reports.numbers import between
from vitlet.text import counted, decimal

ANSWERS = ("supported", "not supported", "undecided", "not run")


def headline(claims: Sequence[Mapping[str, Any]]) -> str:
    """`5 of 18 claims supported, 1 not supported, 4 undecided, 8 not run`; "" without claims."""
    counts = {answer: sum(claim["answer"] == answer for claim in claims) for answer in ANSWERS}
    first, *others = (f"{counts[answer]} {answer}" for answer in ANSWERS if counts[answer]) if claims else ("",)
    number, _, word = first.partition(" ")
    return ", ".join([f"{number} of {len(claims)} claims {word}", *others]) if claims else ""


def effect(part: Mapping[str, Any]) -> tuple[str, str]:
    """The effect with its unit and its interval, formatted for readers; "not run" and "" without a value."""
    if part["mean"] is None:
        return "not run", ""
    scale, digits = (100, 1) if part["unit"] == "points" else (1, 3)

    def scaled(value: float) -> str:
        return decimal(scale * value, digits)

    margin = f", margin {scale * part['margin']:g}" if part["margin"] else ""
    interval = "none, one seed" if part["low"] is None else between((part["low"], part["high"]), form=scaled)
    return f"{scaled(part['mean'])} {part['unit']}", f"{interval}{margin}"


def runs_behind(claim: Mapping[str, Any]) -> list[str]:
    """The names of all runs behind the parts of a claim and behind those beside it."""
    return list(dict.fromkeys(run for part in (*claim["parts"], *claim["beside"]) for run in part["runs"]))


def sample(part: Mapping[str, Any]) -> str:
    """`3 seeds, 5,000 images`; "" without a value."""
    return counted(part["n_seeds"], part["n"]) if part["n_seeds"] else ""
