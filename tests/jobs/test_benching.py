"""Benchmarks as a command: the figures of `tests/bench`, said and written."""

import functools
import json
from pathlib import Path

import pytest

from vitlet.benchmarks import input as module
from vitlet.jobs.benching import bench


def test_the_figures_go_to_the_terminal_and_to_a_file_with_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "bench", functools.partial(module.bench, repeats=1, num_images=4))
    figures = bench("input", out=tmp_path / "deep" / "figures.json")
    written = json.loads((tmp_path / "deep" / "figures.json").read_text())
    assert written["figures"] == json.loads(json.dumps(figures))
    assert {"processor", "cores", "packages", "command"} <= written["machine"].keys()
    told = capsys.readouterr().out
    assert all(name in told for name in figures)
