"""The sizes that CONTRIBUTING.md promises hold, and a file or function above them would be seen."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "vitlet"
LINES, FUNCTION_LINES, PARAMETERS = 350, 90, 8
COMMANDS = ("verbs/", "jobs/training.py", "jobs/overfitting.py", "jobs/learning.py", "jobs/studying.py")
"""A command and the function behind it have a parameter for each flag."""


def too_large(source: str, *, name: str) -> Iterator[str]:
    """What of a file is above the limits."""
    if (count := len(source.splitlines())) > LINES:
        yield f"{name}: {count} lines"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef):
            continue
        if (count := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
            yield f"{name}: {node.name} has {count} lines"
        given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len(given) - (given[:1] in (["self"], ["cls"]))
        if count > PARAMETERS and not name.startswith(COMMANDS):
            yield f"{name}: {node.name} has {count} parameters"


def test_files_and_functions_are_small() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert files
    assert not [
        found for path in files for found in too_large(path.read_text(), name=path.relative_to(SOURCE).as_posix())
    ]


def test_control_what_is_too_large_is_seen() -> None:
    many = ", ".join("abcdefghi")
    long = "def f():\n" + "    pass\n" * 90
    assert list(too_large(f"def f({many}): ...\n", name="x.py")) == ["x.py: f has 9 parameters"]
    assert not list(too_large(f"def f({many}): ...\n", name="verbs/x.py"))
    assert list(too_large(long, name="x.py")) == ["x.py: f has 91 lines"]
    assert list(too_large("\n" * 351, name="x.py")) == ["x.py: 351 lines"]
