"""What the commands for data sets and recipes print."""

import pytest

from vitlet.recipes import all_recipes
from vitlet.verbs.data import recipes

INDENT = max(map(len, all_recipes())) + 2


def entries(lines: list[str]) -> dict[str, str]:
    """Name and text of each recipe, wherever its lines are broken."""
    found: dict[str, str] = {}
    for line in lines:
        name, text = line[:INDENT].strip(), line[INDENT:]
        if name:
            found[name] = text
        else:
            last = next(reversed(found))
            found[last] += " " * (not found[last].endswith("-")) + text
    return found


@pytest.fixture
def promised() -> dict[str, str]:
    return {name: (function.__doc__ or "").splitlines()[0] for name, function in all_recipes().items()}


@pytest.mark.parametrize("columns", [80, 120])
def test_recipes_break_their_lines_within_the_second_column(
    columns: int, promised: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    recipes()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) > len(promised)
    assert entries(lines) == promised


def test_recipes_are_one_line_each_where_no_terminal_reads(
    promised: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipes()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name:{INDENT}}{text}" for name, text in promised.items()]
