"""The pages of the reference say what the code says: verbs and options, recipes, and the public names of Python.

`python tests/test_reference.py` brings them up to date. What stands above the mark in a page is written by hand.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import docstring_parser
import pytest
from cyclopts import App
from cyclopts.argument import Argument

import vitlet
from vitlet import choices
from vitlet.cli import app
from vitlet.recipe import ConvNetConfig, Recipe
from vitlet.recipes import all_recipes

PAGES = Path(__file__).resolve().parents[1] / "docs" / "reference"
MARK = "<!-- From here on written by tests/test_reference.py. -->\n"


def table(*head: str, rows: list[tuple[str, ...]]) -> str:
    """A table of Markdown; empty without rows."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines if rows)


def verbs(inside: App = app, *above: str) -> Iterator[tuple[str, App]]:
    """Every command that runs, `sweep keep-blocks` for one inside another."""
    for name in inside:
        if name.startswith("-"):
            continue
        if inside[name].default_command is None:
            yield from verbs(inside[name], *above, name)
        else:
            yield " ".join((*above, name)), inside[name]


def shown(command: App) -> list[Argument]:
    """Its arguments and options, groups resolved."""
    return [argument for argument in command.assemble_argument_collection(parse_docstring=True) if argument.show]


def type_of(argument: Argument) -> str:
    known = argument.get_choices()
    if known:
        return ", ".join(f"`{choice}`" for choice in known)
    names = {"Path": "path", "str": "text", "int": "whole number", "float": "number", "bool": "flag", "tuple": "text"}
    return next(word for name, word in names.items() if re.search(rf"\b{name}\b", str(argument.hint)))


def command_entry(name: str, command: App) -> str:
    positional, options, rows = [], [], []
    for argument in shown(command):
        is_option = argument.field_info.kind is inspect.Parameter.KEYWORD_ONLY
        is_many = argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL
        word = argument.names[0] if is_option else argument.field_info.name.upper()
        if is_option and argument.required:
            options.append(f"{word} {word.removeprefix('--').replace('-', '_').upper()}")
        elif not is_option:
            positional.append(f"{word} …" if is_many else word if argument.required else f"[{word}]")
        default = argument.field_info.default
        is_told = not argument.required and default not in (None, False, (), inspect.Parameter.empty)
        said = "required" if argument.required else f"`{default}`" if is_told else ""
        rows.append((f"`{word}`", type_of(argument), said, " ".join((argument.parameter.help or "").split())))
    usage = " ".join(["vitlet", name, *positional, *options, "[OPTIONS]" if len(rows) > len(positional) else ""])
    summary = inspect.getdoc(command.default_command).split("\n\n")[0]  # type: ignore[arg-type, union-attr]
    body = table("word", "type", "default", "what it is", rows=rows)
    return f"## {name}\n\n{summary}\n\n```text\n{usage.strip()}\n```\n\n{body}\n"


def values_of(recipe: Recipe) -> list[tuple[str, str]]:
    """What tells recipes apart, in a few words each."""
    encoder, budget = recipe.encoder, recipe.budget
    optimizer, objective = recipe.optimizer.to_json(), recipe.objective.to_json()
    rates = {k: optimizer.get(k) for k in ("base_lr", "lr_batch", "weight_decay", "layer_decay", "clip_norm")}
    if isinstance(encoder, ConvNetConfig):
        network = f"ConvNet `{encoder.architecture}`"
    else:
        blocks = f"{encoder.depth} blocks of width {encoder.width}, {encoder.heads} heads"
        network = f"ViT, {blocks}, patches of {encoder.patch_size}"

    def plain(values: dict[str, Any]) -> str:
        kept = {k: v for k, v in values.items() if k != "method" and v not in (None, "") and not isinstance(v, dict)}
        return ", ".join(f"`{key}` {value}" for key, value in kept.items())

    def lasting(duration: dict[str, Any]) -> str:
        number = f"{duration['n']:,g}" if duration["n"] % 1 else f"{duration['n']:,.0f}"
        return f"{number} {duration['unit'].replace('share', 'of the run')}"

    return [
        ("network", f"{network}; {encoder.image_size} pixels"),
        ("length", f"{lasting(budget.duration.to_json())}, {budget.batch_size} images in a step, {budget.precision}"),
        ("optimizer", f"{optimizer['kind']}: {plain(rates)}; warm-up {lasting(optimizer['warmup'])}"),
        ("objective", f"{objective['method']}: {plain(objective)}".removesuffix(": ")),
    ]


def recipe_entries() -> Iterator[str]:
    group = ""
    for name, function in all_recipes().items():
        if function.__module__ != group:
            group = function.__module__
            yield f"## Recipes: {group.rpartition('.')[2]}\n"
        said = inspect.getdoc(function)
        yield f"### {name}\n\n{said}\n\n{table('', '', rows=values_of(function()))}\n"


def definition(thing: Callable[..., Any]) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def spelled(annotation: ast.AST) -> str:
    """An annotation or a parameter as it stands in the source, with the words in place of the names of choices."""

    def words(name: re.Match[str]) -> str:
        found = getattr(choices, name[0], None)
        return f"Literal[{', '.join(map(repr, get_args(found)))}]" if get_origin(found) is Literal else name[0]

    return re.sub(r"\w+", words, ast.unparse(annotation))


def signature(function: ast.FunctionDef, name: str) -> str:
    """As it stands in the source, one parameter a line."""
    given = function.args

    def one(argument: ast.arg, default: ast.expr | None) -> str:
        return spelled(argument) + (f" = {ast.unparse(default)}" if default is not None else "")

    defaults = [None] * (len(given.args) - len(given.defaults)) + given.defaults
    parts = [one(*pair) for pair in zip(given.args, defaults, strict=True)]
    parts += [f"*{one(given.vararg, None)}"] if given.vararg else ["*"] if given.kwonlyargs else []
    parts += [one(*pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    parts += [f"**{one(given.kwarg, None)}"] if given.kwarg else []
    inside = "".join(f"    {part},\n" for part in parts)
    return f"{name}(\n{inside}) -> {ast.unparse(function.returns) if function.returns else 'None'}"


def python_entry(name: str) -> str:
    thing = getattr(vitlet, name)
    if inspect.isclass(thing):
        fields = table("field", "type", "default", "what it is", rows=fields_of(thing))
        return f"## {name}\n\n{inspect.getdoc(thing)}\n\n{fields}\n"
    said = docstring_parser.parse(inspect.getdoc(thing) or "", docstring_parser.DocstringStyle.GOOGLE)
    parts = [said.short_description, said.long_description, f"```text\n{signature(definition(thing), name)}\n```"]
    rows = [(f"`{p.arg_name}`", " ".join((p.description or "").split())) for p in said.params]
    parts.append(table("takes", "", rows=rows))
    if said.returns and said.returns.description:
        parts.append(f"**Returns:** {' '.join(said.returns.description.split())}")
    parts += [f"**Raises** `{r.type_name}` {' '.join((r.description or '').split())}" for r in said.raises]
    return f"## {name}\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def fields_of(thing: type) -> list[tuple[str, ...]]:
    """(name, type, default, docstring) of each field of a class, from its source."""
    body, rows = definition(thing).body, []
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default = f"`{ast.unparse(field.value)}`" if field.value else "required"
            kind = re.sub(r"Annotated\[(\w+), .*?\)\]", r"\1", spelled(field.annotation))
            rows.append((f"`{ast.unparse(field.target)}`", f"`{kind}`", default, " ".join(said.split())))
    return rows


WRITERS: dict[str, Callable[[], Iterator[str]]] = {
    "commands.md": lambda: (command_entry(*verb) for verb in verbs()),
    "recipes.md": recipe_entries,
    "python.md": lambda: (python_entry(name) for name in vitlet.__all__),
}


def rendered(page: str) -> str:
    """The page as it has to be."""
    by_hand = (PAGES / page).read_text().partition(MARK)[0]
    return f"{by_hand}{MARK}\n" + "\n".join(WRITERS[page]())


@pytest.mark.parametrize("page", WRITERS)
def test_a_page_is_true(page: str):
    assert (PAGES / page).read_text() == rendered(page), "python tests/test_reference.py brings it up to date"


def test_every_option_says_what_it_is():
    silent = [(name, a.names) for name, command in verbs() for a in shown(command) if not a.parameter.help]
    assert silent == []


def test_a_silent_option_would_be_found():
    quiet = App(result_action="return_value")

    @quiet.command
    def look(*, image: Path) -> None:
        """Look.

        Parameters
        ----------
        image: Not how cyclopts reads it.
        """

    assert [argument.parameter.help for argument in shown(quiet["look"])] == [None]


if __name__ == "__main__":
    for name in WRITERS:
        (PAGES / name).write_text(rendered(name))
