"""`make` installs once for each state of pyproject.toml: a second call re-uses the environment.

A program that only notes how it is called stands for the interpreter of the environment.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAMPS = (".venv/.demo", ".venv/.dev")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The Makefile beside an environment into which nothing was installed yet."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >>calls\n')
    python.chmod(0o755)
    age(tmp_path / "pyproject.toml", seconds=60)
    return tmp_path


def age(path: Path, *, seconds: int) -> None:
    """Let `path` have been changed so long ago."""
    then = os.stat(path.parent).st_mtime - seconds
    os.utime(path, (then, then))


def make(folder: Path, *words: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", *words], cwd=folder, env=plain, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def installed(folder: Path) -> list[str]:
    """What was installed so far, in order."""
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return [call.split()[-1] for call in calls if call.startswith("-m pip install ")]


@pytest.mark.parametrize("verb", ["demo", "test", "check"])
def test_with_stamps_newer_than_the_dependencies_nothing_is_installed(verb: str, clone: Path) -> None:
    for stamp in STAMPS:
        (clone / stamp).touch()
    assert "pip install" not in make(clone, "-n", verb)
    for stamp in STAMPS:
        age(clone / stamp, seconds=120)
    assert "pip install" in make(clone, "-n", verb)


def test_each_stamp_is_left_by_its_installation(clone: Path) -> None:
    for _ in range(2):
        make(clone, ".venv/.demo")
    assert installed(clone) == [".[demo]"]
    for _ in range(2):
        make(clone, ".venv/.dev")
        make(clone, ".venv/.demo")
    assert installed(clone) == [".[demo]", ".[dev]"]


def test_the_larger_environment_serves_for_the_smaller(clone: Path) -> None:
    make(clone, ".venv/.dev")
    (clone / ".venv/.demo").unlink()
    for _ in range(2):
        make(clone, ".venv/.demo")
    assert installed(clone) == [".[dev]"]


def test_other_dependencies_are_installed_again(clone: Path) -> None:
    make(clone, ".venv/.dev")
    for stamp in STAMPS:
        age(clone / stamp, seconds=120)
    make(clone, ".venv/.dev")
    assert installed(clone) == [".[dev]", ".[dev]"]


def test_a_failed_installation_leaves_no_stamp(clone: Path) -> None:
    (clone / ".venv/bin/python").write_text("#!/bin/sh\nexit 1\n")
    for stamp in STAMPS:
        with pytest.raises(subprocess.CalledProcessError):
            make(clone, stamp)
        assert not (clone / stamp).exists()


@pytest.mark.parametrize("stamp", STAMPS)
def test_control_without_stamps_every_call_installs(stamp: str, clone: Path) -> None:
    text = (clone / "Makefile").read_text()
    (clone / "Makefile").write_text(text.replace(" && touch $@", " && true"))
    assert (clone / "Makefile").read_text() != text
    for _ in range(2):
        make(clone, stamp)
    assert len(installed(clone)) == 2
