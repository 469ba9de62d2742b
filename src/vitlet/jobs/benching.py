"""Benchmarks from the command line: figures to the terminal and to a file."""

from pathlib import Path
from typing import Any, Literal

from vitlet.console import Teller
from vitlet.disk import write_json
from vitlet.run import environment
from vitlet.text import printable


def bench(
    what: Literal["step", "input", "features", "probe", "attention", "analyse", "detection", "export", "budget"],
    *,
    out: Path | None = None,
) -> dict[str, Any]:
    """Run one benchmark; see `vitlet.bench`.

    Returns:
        The figures, which are also written to `out` with the machine and the command.
    """
    if what == "step":
        from vitlet.bench.step import bench_step

        figures = bench_step()
    elif what == "features":
        from vitlet.bench.features import bench_features

        figures = bench_features()
    elif what == "probe":
        from vitlet.bench.probe import bench_probe

        figures = bench_probe()
    elif what == "attention":
        from vitlet.bench.attention import bench_attention

        figures = bench_attention()
    elif what == "analyse":
        from vitlet.bench.analyse import bench_analyse

        figures = bench_analyse()
    elif what == "detection":
        from vitlet.bench.detection import bench_detection

        figures = bench_detection()
    elif what == "export":
        from vitlet.bench.export import bench_export

        figures = bench_export()
    elif what == "budget":
        from vitlet.bench.budget import bench_budget
        from vitlet.recipes import by_name

        figures = bench_budget(by_name("mae_tiny_400e"))
    else:
        from vitlet.bench.input import bench_input

        figures = bench_input()
    teller = Teller()
    for name, value in figures.items():
        teller.say(f"{name:32} {value}")
    if out is not None:
        write_json(out, {"figures": figures, "machine": environment()})
        teller.say(f"written: {printable(out)}")
    return figures
