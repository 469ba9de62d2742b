"""What CONTRIBUTING.md promises of sizes and of broad excepts holds, and a breach would be seen."""

import ast
import re
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


def unexplained(source: str) -> list[int]:
    """Lines with a broad except and no comment on it or just above it."""
    lines = ["", *source.splitlines()]
    broad = (n for n, line in enumerate(lines) if re.match(r"\s*except Exception\b", line))
    return [n for n in broad if "  # " not in lines[n] and not lines[n - 1].lstrip().startswith("#")]


def test_a_broad_except_says_why() -> None:
    assert not {str(path): found for path in SOURCE.rglob("*.py") if (found := unexplained(path.read_text()))}
    bare = "try:\n    f()\nexcept Exception as error:\n    pass\n"
    assert unexplained(bare) == [3]
    assert not unexplained(bare.replace("error:", "error:  # as it raises anything"))


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
