import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitlet import errors
from vitlet.errors import StoppedError, VitletError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VitletError)]

SOURCE = Path(errors.__file__).parent
ANSWERED_ELSEWHERE = {"train/checkpoint.py"}
"""One bad checkpoint is a warning, and an earlier one is taken; an error follows only where there is none."""


def without_fix(source: str) -> Iterator[int]:
    """Lines of the errors that do not say what to do."""
    names = {kind.__name__ for kind in KINDS} - {"StoppedError"}
    for node in ast.walk(ast.parse(source)):
        is_error = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
        if is_error and not any(keyword.arg == "fix" for keyword in node.keywords):
            yield node.lineno


def test_every_error_says_what_to_do() -> None:
    found = {p.relative_to(SOURCE).as_posix(): list(without_fix(p.read_text())) for p in SOURCE.rglob("*.py")}
    assert {name for name, lines in found.items() if lines} == ANSWERED_ELSEWHERE, found


def test_control_an_error_without_a_fix_is_seen() -> None:
    assert list(without_fix('raise DataError("bad")\nraise DataError("bad", fix="good")')) == [1]


def test_a_message_has_what_where_why_and_fix() -> None:
    error = VitletError("no room", where="disk", why="It is full", fix="free some")
    assert str(error) == "no room (disk). It is full. Fix: free some"
    assert str(VitletError("no room")) == "no room."
    assert (error.what, error.where, error.why, error.fix) == ("no room", "disk", "It is full", "free some")


def test_every_kind_is_a_value_error_with_its_exit_code() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert codes == {
        "VitletError": 2,
        "UsageError": 2,
        "DataError": 3,
        "CheckpointError": 4,
        "ResourceError": 5,
        "NonFiniteError": 6,
        "WorkerError": 7,
        "StoppedError": codes["StoppedError"],
    }
    assert all(issubclass(kind, ValueError) for kind in KINDS)


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143), (10, 138)])
def test_a_stop_has_the_status_of_its_signal(number: int, status: int) -> None:
    error = StoppedError(number, step=7, run="runs/one")
    assert error.exit_status == status
    assert "after step 7" in str(error)
    assert error.fix == "vitlet resume runs/one"


def unquoted(source: str) -> list[str]:
    """The literals of commands in which a path stands as it is: with a blank in it, the command takes two."""
    return re.findall(r"\bvitlet (?:resume|import|export|report|push) [^\";\n]*?\{(?!quoted|shlex)[^}\n]*\}", source)


def test_a_command_that_is_suggested_can_be_pasted() -> None:
    assert StoppedError(15, step=7, run="My runs/one").fix == "vitlet resume 'My runs/one'"
    found = {p.relative_to(SOURCE).as_posix(): unquoted(p.read_text()) for p in SOURCE.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_control_a_path_without_quotes_is_seen() -> None:
    assert unquoted('f"vitlet resume {printable(run)}"') == ["vitlet resume {printable(run)}"]
    assert unquoted('f"vitlet resume {quoted(run)} --data {there}"') == ["vitlet resume {quoted(run)} --data {there}"]
    assert unquoted('f"vitlet resume {quoted(run)} --data {quoted(there)}, if you trust it"') == []


def test_pickling_keeps_the_parts() -> None:
    error = pickle.loads(pickle.dumps(errors.DataError("bad", where="a", why="b", fix="c")))
    assert (error.what, error.where, error.why, error.fix) == ("bad", "a", "b", "c")
    stop = pickle.loads(pickle.dumps(StoppedError(15, step=7, run="runs/one")))
    assert (stop.exit_status, str(stop)) == (143, str(StoppedError(15, step=7, run="runs/one")))
