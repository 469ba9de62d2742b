"""Whatever one command takes as --data, every command that reads images takes: names and addresses are no paths."""

from pathlib import Path

import pytest

from vitlet.cli import main
from vitlet.run import Run

COMMANDS = (
    "pretrain debug",
    "finetune debug_supervised --init none",
    "probe {run}",
    "evaluate {tuned}",
    "compare {run}",
    "sweep keep-blocks {run}",
    "sweep distill-layers debug_distill --teacher {run} --layers [[1,1]]",
    "study {run} {run}",
    "reproduce claim-1 --plan",
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.split()[:2]))
@pytest.mark.parametrize("name", ["torchvision:pets@{here}", "memory://nothing-here"])
def test_a_name_or_an_address_is_looked_up_and_not_taken_for_a_path(
    pretrained: Run, tuned: Run, command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3, there are no images, says that it was looked for; 2 is what a path that is not there gives."""

    def code(place: str) -> int:
        words = [word.format(run=pretrained.path, tuned=tuned.path) for word in command.split()]
        out = [] if words[0] in ("probe", "evaluate") else ["--out", str(tmp_path / "out")]
        return main([*words, "--data", place, *out])

    assert code(name.format(here=tmp_path)) == 3, capsys.readouterr().err
    assert code(str(tmp_path / "nowhere")) == 2
