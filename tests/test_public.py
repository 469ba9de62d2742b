"""The public names in Python: each takes what its command takes, under the same names, and nothing else."""

import importlib
import inspect
import os
import pickle
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Unpack, get_args

import pytest

import vitlet
from vitlet.cli import app
from vitlet.errors import UsageError
from vitlet.jobs.calling import checked
from vitlet.jobs.options import Flags, Options
from vitlet.run import Run

COMMANDS = {
    "sweep_keep_blocks": "sweep keep-blocks",
    "sweep_distill_layers": "sweep distill-layers",
    "import_weights": "import",
}
"""Of names that are not their command's."""
FUNCTIONS = [name for name in vitlet.__all__ if name != "Options"]


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


def test_no_name_is_that_of_a_module_which_would_take_its_place() -> None:
    """What `import vitlet.reports.page` leaves behind `vitlet.reports` is the package, whatever was there before."""
    assert not {module.name for module in pkgutil.iter_modules(vitlet.__path__)} & set(vitlet.__all__)
    importlib.import_module("vitlet.reports.page")
    assert inspect.ismodule(vitlet.reports), "the control"


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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda at: vitlet.probe(at, data=at, protocol="kn"), r"protocol='kn' in vitlet\.probe\(\)\. Did you mean knn"),
        (lambda at: vitlet.probe(at, data=at, pool="max"), "pool='max'.*Known: class, mean"),
        (lambda at: vitlet.export(at, out=at / "o", to="onx"), "to='onx'.*Did you mean onnx"),
        (lambda at: vitlet.evaluate(at, data=at, protocol="test"), "protocol='test'.*Known: real, v2, val"),
        (lambda at: vitlet.pretrain(5, data=at, out=at / "o"), "recipe=5 in vitlet.pretrain.*valid string"),
        (lambda at: vitlet.pretrain("debug", data=at, out=None), "out=None in"),
        (lambda at: vitlet.pretrain("debug", data=at, out=at / "o", epochs="two"), "epochs='two' in.*valid number"),
        (lambda at: vitlet.pretrain("debug", data=at, out=at / "o", set=[1]), r"set=\[1\] in.*valid dictionary"),
        (lambda at: vitlet.pretrain("debug", data=at, out=at / "o", options={"workers": -1}), "^workers = -1"),
        (lambda at: vitlet.pretrain("debug", data=at, out=at / "o", options=5), "options=5.*instance of Options"),
        (
            lambda at: vitlet.finetune("debug_supervised", init=None, data=at, out=at / "o", num_labels="x"),
            "num_labels='x' in vitlet.finetune.*valid integer",
        ),
        (lambda at: vitlet.compare(at, data=at, out=at / "o"), r"runs=.*Fix: runs=\[…\]"),
        (lambda at: vitlet.compare([at], data=at, out=at / "o", label_fractions=["a"]), "label_fractions=.*number"),
        (lambda at: vitlet.compare([at], data=at, out=at / "o", seeds="x"), "seeds='x' in vitlet.compare"),
        (lambda at: vitlet.report("run", out=at / "o.html"), r"runs='run' in.*Fix: runs=\[…\]"),
        (lambda at: vitlet.report([], out=at / "o.html"), "no run given"),
        (lambda at: vitlet.resume(["\x1b[2J"]), r"run=\['\\x1b\[2J'\] in vitlet.resume"),
        (lambda _: vitlet.Options(device="gpu"), r"device = 'gpu': input should be 'auto'.*\(Options\)"),
        (lambda _: vitlet.Options(wokers=2), "unknown key 'wokers'. Did you mean workers"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_as_on_the_command_line(
    call: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        call(tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_reads_as_the_kind_that_is_asked_for_is_accepted(tmp_path: Path) -> None:
    taken: dict[str, Any] = {}

    def look(runs: Sequence[str | os.PathLike[str]], *, out: Path, seeds: int = 3, **flags: Unpack[Flags]) -> None:
        taken.update(runs=runs, out=out, seeds=seeds, flags=flags)

    checked(look, "look")([Run(tmp_path), "b"], out=str(tmp_path), seeds="2", seed=None, epochs=2)
    assert taken == {"runs": [Run(tmp_path), "b"], "out": tmp_path, "seeds": 2, "flags": {"seed": None, "epochs": 2.0}}
    checked(look, "look")((), out=Run(tmp_path))
    assert taken["out"] == tmp_path
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'out'"):
        checked(look, "look")([])


def test_a_public_function_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(vitlet.embed)) is vitlet.embed
