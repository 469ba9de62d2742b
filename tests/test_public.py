"""The public names in Python: each takes what its command takes, under the same names, and nothing else."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

import vitlet
from vitlet.cli import app
from vitlet.errors import UsageError
from vitlet.jobs.options import Options

COMMANDS = {
    "check_data": "check",
    "score": "evaluate",
    "sweep_keep_blocks": "sweep keep-blocks",
    "sweep_distill_layers": "sweep distill-layers",
}
"""Of names that are not their command's."""
FUNCTIONS = [name for name in vitlet.__all__ if name not in ("Options", "write_page")]


def words_of(command: str) -> set[str]:
    """What a command takes, the members of its groups one by one."""
    found = app
    for word in command.split():
        found = found[word]
    words: set[str] = set()
    for name, parameter in inspect.signature(found.default_command).parameters.items():
        groups = [kind for kind in get_args(parameter.annotation) if isinstance(kind, type) and is_dataclass(kind)]
        words |= {member.name for group in groups for member in fields(group)} or {name}
    return words


def parameters_of(function: Callable[..., Any]) -> set[str]:
    """What a function takes, with the members of `Options` and of the TypedDict behind `**`."""
    found: set[str] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= set(get_args(parameter.annotation)[0].__annotations__)
        else:
            found |= set(Options.model_fields) if name == "options" else {name}
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_its_command_takes(name: str) -> None:
    assert words_of(COMMANDS.get(name, name)) <= parameters_of(getattr(vitlet, name))


def test_another_name_would_be_seen() -> None:
    def compare(runs: list[str], *, data: Path, out: Path, fractions: list[float], supervised: str) -> None: ...

    assert words_of("compare") - parameters_of(compare) == {
        "label_fractions", "recipe", "seeds", "epochs", "batch_size", "set", "workers", "device", "max_bad",
        "follow_outside",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda at: vitlet.pretrain("debug", data=at, out=at / "o", epoch=3), "'epoch'.*Did you mean epochs"),
        (lambda at: vitlet.finetune("debug_supervised", init=None, data=at, out=at / "o", lr=1), "'lr'.*Known: batch"),
        (lambda at: vitlet.compare([at], data=at, out=at / "o", seed=3), "'seed'.*Did you mean seeds"),
        (lambda at: vitlet.sweep_keep_blocks([at], data=at, out=at / "o", batchsize=3), "'batchsize'.*batch_size"),
        (
            lambda at: vitlet.sweep_distill_layers(
                "debug_distill", data=at, teacher=str(at), layers=[((1, 1),)], out=at / "o", finetuning="x"
            ),
            "'finetuning'.*finetune",
        ),
        (lambda at: vitlet.transfer([at], suite="paper", out=at / "o", roots=at), "'roots'.*Did you mean root"),
    ],
)
def test_a_name_that_is_none_is_refused(call: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    """Python itself checks only what stands in a signature."""
    with pytest.raises(UsageError, match=f"no argument {words}"):
        call(tmp_path)
    assert not any(tmp_path.iterdir())
