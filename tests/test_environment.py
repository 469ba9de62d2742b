"""What a run says about itself and its machine, and that one module alone knows how."""

import json
from pathlib import Path

import pytest

import vitlet
from vitlet import environment as module
from vitlet.environment import Environment, environment, write_begun, write_finished, write_started_again
from vitlet.errors import CheckpointError
from vitlet.run import Run

SPENT = {"wall_seconds": 3.0, "cpu_seconds": 5.0}


def test_the_environment_tells_of_the_machine_and_not_of_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/home/somebody/bin/vitlet", "pretrain", "a b"])
    found = environment()
    assert found["command"] == "vitlet pretrain 'a b'"
    assert found["packages"]["torch"].startswith("2.")
    assert found["cores"] >= 1
    assert "somebody" not in json.dumps(found)
    assert module._version("no-such-package") == "not installed"


def test_a_run_says_what_it_was_started_on_or_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.environment.launch == {}
    for written, said in (
        ("{}", {}),
        ('{"launch": 3}', {}),
        ('{"launch": {"recipe": "aa"}}', {"recipe": "aa"}),
    ):
        (tmp_path / "environment.json").write_text(written)
        assert run.environment.launch == said
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"environment\.json holds no JSON object"):
        _ = run.environment.launch


def test_it_is_written_when_a_run_begins_goes_on_and_ends(tmp_path: Path) -> None:
    write_begun(tmp_path, command=["vitlet", "a b"], launch={"verb": "pretrain"}, options={"workers": 1}, init=None)
    begun = Environment.of(tmp_path)
    assert (begun.command, begun.launch, begun.options) == ("vitlet 'a b'", {"verb": "pretrain"}, {"workers": 1})
    assert (begun.init, begun.is_finished, len(begun.id)) == (None, False, 16)
    with pytest.raises(CheckpointError, match=r"environment\.json lacks cpu_seconds"):
        _ = begun.cpu_seconds
    before = begun.file.stat().st_mtime_ns
    write_started_again(tmp_path, options={"workers": 1})
    assert begun.file.stat().st_mtime_ns == before, "nothing is new"
    write_started_again(tmp_path, options={"workers": 2})
    write_finished(tmp_path, data="ab", spent=SPENT)
    ended = Environment.of(tmp_path)
    assert (ended.id, ended.started, ended.options) == (begun.id, begun.started, {"workers": 2})
    assert (ended.is_finished, ended.data, ended.wall_seconds, ended.cpu_seconds) == (True, "ab", 3.0, 5.0)


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    nothing = Environment.of(tmp_path)
    assert (nothing.is_there, nothing.is_finished, nothing.id, nothing.launch) == (False, False, "", {})
    assert set(nothing.machine.values()) == {None}


def test_no_other_module_opens_it() -> None:
    (package,) = vitlet.__path__
    opening = [file for file in Path(package).rglob("*.py") if '"environment.json"' in file.read_text()]
    assert [file.name for file in opening] == ["environment.py"]
