"""What the commands that train say at their end."""

import shlex
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "jobs"))

from small_runs import write_images

from vitlet.cli import main
from vitlet.jobs import training
from vitlet.run import Run


@pytest.mark.parametrize("verb", ["pretrain", "finetune", "resume"])
def test_the_command_proposed_next_is_one_about_the_run(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read by a shell, though its name has a blank; nothing is trained."""
    run = Run(tmp_path / "My run")
    monkeypatch.setattr(training, verb, lambda *_, **__: run)
    write_images(tmp_path / "images", train=1)
    there = ["--data", str(tmp_path / "images"), "--out", str(run.path)]
    words = {"pretrain": ["debug", *there], "finetune": ["debug_supervised", "--init", "none", *there]}
    if verb == "resume":
        run.path.mkdir()
        run.recipe_file.write_text("{}")
    assert main([verb, *words.get(verb, [str(run.path)])]) == 0
    said = capsys.readouterr().out.strip()
    finished, _, command = said.partition("   next: ")
    assert finished == f"finished: {run.path}"
    assert shlex.split(command) == ["vitlet", "report", str(run.path), "--out", str(run.path / "report.html")]
