"""Arguments of the commands, and their early validation.

Whatever can be rejected from the words alone is rejected here, in a fraction of a second; importing torch takes
seconds.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import CycloptsError, Parameter, Token, UnknownCommandError, UnknownOptionError
from cyclopts.validators import Number

from vitlet.choices import Device, Precision, TrackerName
from vitlet.disk import existing, read_json
from vitlet.errors import CheckpointError, UsageError
from vitlet.text import did_you_mean, printable


def _whole(_: type, tokens: Sequence[Token]) -> int:
    """Parse an integer as Python does; cyclopts would round 1.5."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{printable(text)} is not a whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]
AtLeastOne = Annotated[int, Parameter(converter=_whole, validator=Number(gte=1))]
Share = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
Log = Annotated[tuple[TrackerName, ...], Parameter(negative="")]
_GENERAL = ("--help", "--version", "--debug")
_TABLES = ("", ".csv", ".tsv", ".txt", ".parquet", ".json", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst")
"""Files that hold data sets by their names, and tars that are told how to be read."""
_LINES = (".csv", ".tsv", ".txt", ".parquet")
"""Those of them that name an image in each line, or hold one."""


def _options(given: object, *names: str) -> Any:
    """The attributes `names` as `Options`."""
    from vitlet.jobs.options import Options

    return Options.from_json({name: getattr(given, name) for name in names}, where="command line")


@Parameter(name="*")
@dataclass(frozen=True)
class Shared:
    """Options of every training command."""

    epochs: float | None = None
    """Passes over the training images, instead of the recipe's duration."""
    batch_size: Whole | None = None
    """Images per optimizer step, over all ranks."""
    seed: Whole | None = None
    """Seed of all random draws."""
    precision: Precision | None = None
    """Precision of the matrix products."""
    set: Annotated[tuple[str, ...], Parameter(negative="")] = field(default=())
    """Any other value of the recipe, as key=value; may be repeated."""
    workers: Whole | None = None
    """Loader processes; by default as many as help."""
    device: Device = "auto"
    """Device to compute on."""
    micro_batch: Whole | None = None
    """Images per forward pass, if the batch does not fit into memory."""
    compile: Annotated[bool, Parameter(negative="")] = False
    """Use torch.compile: a minute at the start, then faster: by 4 % (fp32) or 15 % (bf16) for MAE on a CPU."""
    log: Log = field(default=())
    """Copy the metrics there too, locally unless WANDB_MODE or MLFLOW_TRACKING_URI say otherwise; may be repeated."""
    max_bad: Share = 0.01
    """Accepted share of unreadable images."""
    follow_outside: Annotated[bool, Parameter(negative="")] = False
    """Also read files outside the data folder that links and tables in it lead to."""
    fresh: Annotated[bool, Parameter(negative="")] = False
    """Replace the existing run in --out."""
    accept_data_change: Annotated[bool, Parameter(negative="")] = False
    """Continue although images were added, removed or changed."""

    def flags(self) -> dict[str, Any]:
        """The values that change the recipe."""
        from vitlet.jobs.options import parse_settings

        values = {k: getattr(self, k) for k in ("epochs", "batch_size", "seed", "precision")}
        return {**values, "set": parse_settings(self.set)}

    def words(self) -> list[str]:
        """The command-line words that reproduce these values."""
        found: list[str] = []
        for field_ in fields(self):
            flag, value = f"--{field_.name.replace('_', '-')}", getattr(self, field_.name)
            if isinstance(value, tuple):
                found += [word for item in value for word in (flag, item)]
            elif value is True:
                found.append(flag)
            elif value is not None and value is not False and value != field_.default:
                found += [flag, str(value)]
        return found

    def options(self) -> Any:
        """The values that do not affect results."""
        return _options(
            self,
            *("workers", "device", "micro_batch", "compile", "log"),
            *("max_bad", "follow_outside", "fresh", "accept_data_change"),
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """Options of every command that reads images, on any device."""

    workers: Whole | None = None
    """Loader processes; by default as many as help."""
    max_bad: Share = 0.01
    """Accepted share of unreadable images."""
    follow_outside: Annotated[bool, Parameter(negative="")] = False
    """Also read files outside the data folder that links and tables in it lead to."""

    def options(self) -> Any:
        """The values as `Options`."""
        return _options(self, *(value.name for value in fields(self)))


@Parameter(name="*")
@dataclass(frozen=True)
class Looking(Reading):
    """Options of every command that passes images through a network and has no `Shared`."""

    device: Device = "auto"
    """Device to compute on."""


@Parameter(name="*")
@dataclass(frozen=True)
class Tuning:
    """Options of every command that fine-tunes from several starts."""

    recipe: str = "finetune_micro"
    """Name of the fine-tuning recipe."""
    seeds: AtLeastOne = 3
    """Number of repetitions."""
    epochs: float | None = None
    """Passes over the labelled images, instead of the recipe's duration."""
    batch_size: AtLeastOne | None = None
    """Images per optimizer step."""
    set: Annotated[tuple[str, ...], Parameter(negative="")] = field(default=())
    """Any other value of the recipe, as key=value; may be repeated."""

    def flags(self) -> dict[str, Any]:
        """The values by name, as passed to the jobs.

        Raises:
            UsageError: for a recipe that does not fine-tune, or an unknown key or value.
        """
        from vitlet.jobs.options import overrides, parse_settings, require_verb
        from vitlet.recipes import by_name, with_overrides

        changes = {"epochs": self.epochs, "batch_size": self.batch_size, "set": parse_settings(self.set)}
        require_verb(with_overrides(by_name(self.recipe), overrides(changes)), "finetune")  # type: ignore[arg-type]
        return {"recipe": self.recipe, "seeds": self.seeds, **changes}


def chosen_recipe(name: str, shared: Shared, *, verb: Literal["pretrain", "finetune"] | None = None) -> Any:
    """Load a recipe by name or from a recipe.json, and apply the flags.

    Raises:
        UsageError: for an unknown name, key or value, or a recipe that does not fit this verb.
    """
    from vitlet.jobs.options import overrides, require_verb
    from vitlet.recipes import by_name, from_json, with_overrides

    base = from_json(_recipe_file(Path(name)), where=printable(name)) if name.endswith(".json") else by_name(name)
    shared.options()
    recipe = with_overrides(base, overrides(shared.flags()))  # type: ignore[arg-type]
    if verb is not None:
        require_verb(recipe, verb)
    return recipe


def _recipe_file(path: Path) -> Any:
    try:
        return read_json(existing(path))
    except CheckpointError as error:
        raise UsageError(error.what, why=error.why, fix="give the recipe.json of a run") from None


def existing_data(data: Path) -> Path:
    """`data`, if something is there (of `torchvision:NAME@ROOT`, at its root), or it is an address in an object store.

    Raises:
        UsageError: else, and for a file of a kind that holds no data set.
        DataError: for a table without the columns of one.
    """
    if os.fspath(data).startswith("torchvision:"):
        from vitlet.data.names import PublicData

        named = PublicData.parse(data)
        existing(named.root if named else data)
        return data
    if re.match(r"[a-z0-9]+:/", os.fspath(data)) and not os.path.exists(data):
        from vitlet.data.stores import remote_address

        if remote_address(data) is not None:
            return data
    if existing(data).is_file() and data.suffix.lower() not in _TABLES:
        from vitlet.data.folders import SUFFIXES

        is_image = os.fsencode(data.suffix.lower()) in SUFFIXES
        fix = f"give the folder: {printable(data.parent)}" if is_image else "give a folder, .csv, .parquet or .tar file"
        raise UsageError(f"{printable(data)} is {'one image' if is_image else 'no data set'}", fix=fix)
    if data.is_file() and data.suffix.lower() in _LINES:
        from vitlet.data.manifest import require_columns

        require_columns(data)
    return data


def existing_source(text: str) -> str:
    """`text`, if it names something to start from that is there.

    Raises:
        UsageError, CheckpointError: else.
    """
    from vitlet.weights.names import Source

    source = Source.parse(text)
    source.require_model()
    return str(source)


def subset_words(text: str | None) -> str | None:
    """Return `text` if it names a subset of the training images.

    Raises:
        UsageError: otherwise.
    """
    from vitlet.data.choice import Subset

    return None if text is None else str(Subset.parse(text))


def numbers(option: str, text: str, *, low: float, high: float, whole: bool = False) -> list[float]:
    """Parse numbers like `0.01,0.1,1`, sorted in ascending order.

    Raises:
        UsageError: naming the option, for non-numbers, numbers out of range and repetitions.
    """
    example = "0,1,2" if whole else "0.01,0.1,1"
    found: list[float] = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (whole and value != int(value)):
            kind = "whole number" if whole else "number"
            raise UsageError(
                f"{option}: {printable(word)!r} is not a {kind} from {low:g} to {high:g}", fix=f"{option} {example}"
            )
        if value in found:
            raise UsageError(f"{option}: {value:g} is given twice", fix=f"{option} {example}")
        found.append(value)
    return sorted(found)


def layer_lists(text: str) -> list[tuple[tuple[int, int], ...]]:
    """Parse lists like `[[12,12]];[[6,6],[12,12]]`: (student block, teacher block), from 1.

    Raises:
        UsageError: for anything else.
    """
    try:
        lists = [tuple((int(s), int(t)) for s, t in json.loads(word)) for word in text.split(";")]
        if all(pairs and min(map(min, pairs)) >= 1 for pairs in lists) and "." not in text:
            return lists
    except (ValueError, TypeError):
        pass
    raise UsageError(
        f"--layers {printable(text)!r} are no lists of layers",
        why="Each is a list of [student block, teacher block], from 1, with semicolons between",
        fix="--layers '[[4,4]];[[2,2],[4,4]]'",
    )


def refuse_empty(words: list[str]) -> None:
    """Reject an empty word: usually an unset shell variable, it would mean the current folder as a path.

    Raises:
        UsageError: naming the option it belongs to.
    """
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            raise UsageError(f"empty value after {printable(option or before or 'vitlet')}", fix="give a value")


def refuse_alone(words: list[str], *, together: set[str]) -> None:
    """Reject torchrun for commands that do not share their work, since all ranks would do it on the same files.

    Raises:
        UsageError: under torchrun with more than one process, for a verb that is not in `together`.
    """
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb not in together:
        require_alone(verb)


def require_alone(command: str) -> None:
    """Reject torchrun for a command that works in one process.

    Args:
        command: Its words after `vitlet`.

    Raises:
        UsageError: under torchrun with more than one process.
    """
    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            f"vitlet {printable(command)} under torchrun",
            why="It works in one process, or starts its own",
            fix=f"vitlet {printable(command)} … without torchrun",
        )


def usage_message(error: CycloptsError, *, verbs: tuple[str, ...]) -> str:
    """Format a usage error on one line, with the nearest valid word and the way to help."""
    words = error.root_input_tokens or []
    command = next((word for word in words if word in verbs), "")
    message = " ".join(printable(line.strip()) for line in str(error).splitlines())
    if isinstance(error, UnknownOptionError):
        wrong = error.token.keyword or error.token.value
        if not wrong.startswith("--"):  # cyclopts reads -seed as -s -e -e -d
            known = [name for argument in error.argument_collection for name in argument.names]
            message = f"Unknown option: {printable(wrong)}. {did_you_mean(f'-{wrong}', known)}"
    elif isinstance(error, UnknownCommandError) and words[:1] and words[0].startswith("-"):
        message = f"Unknown option: {printable(words[0])}. {did_you_mean(words[0], _GENERAL)}"
    stop = "" if message.endswith((".", "?")) else "."
    return f"{message}{stop} Fix: {' '.join(filter(None, ('vitlet', command, '--help')))}"
