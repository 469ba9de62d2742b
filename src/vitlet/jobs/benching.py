"""Benchmarks from the command line: figures to the terminal and to a file."""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from vitlet.console import Teller
from vitlet.disk import write_json
from vitlet.environment import environment
from vitlet.text import printable

Benchmark = Literal["step", "input", "features", "probe", "attention", "analyse", "detection", "export", "budget"]
"""The modules of `vitlet.benchmarks` with a function `bench`."""


def bench(what: Benchmark, *, out: Path | None = None) -> dict[str, Any]:
    """Run one benchmark; see `vitlet.benchmarks`.

    Returns:
        The figures, which are also written to `out` with the machine and the command.
    """
    figures = import_module(f"vitlet.benchmarks.{what}").bench()  # only this one: each imports what it compares with
    teller = Teller()
    for name, value in figures.items():
        teller.say(f"{name:32} {value}")
    if out is not None:
        write_json(out, {"figures": figures, "machine": environment()})
        teller.say(f"written: {printable(out)}")
    return figures
