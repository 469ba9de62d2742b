"""Options that change no number of a run: where it computes, how fast, how tolerant it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import pydantic
from pydantic import Field

from vitlet.choices import Device, Layers, ProbeName, TrackerName
from vitlet.config import Config, explain, parse_value
from vitlet.errors import UsageError
from vitlet.host import available_cores, ranks_here
from vitlet.recipe import BudgetConfig, Recipe
from vitlet.run import Run
from vitlet.text import did_you_mean, printable
from vitlet.units import Epochs


class Options(Config):
    """Settings of the machine and of one invocation."""

    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Loader processes of each rank; None: none for small images, else one fewer than a rank's share of the cores.
    As many check the images, at least one; None: one a core.
    """
    device: Device = "auto"
    """Where to compute."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Images per forward and backward pass, if the batch does not fit into memory."""
    compile: bool = False
    """torch.compile: about a minute at the start, then faster: by 4 % (fp32) or 15 % (bf16) for MAE on a CPU."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Accepted share of unreadable images."""
    follow_outside: bool = False
    """Also read files outside the data folder that links and tables in it lead to."""
    fresh: bool = False
    """Empty the output folder and start anew."""
    accept_data_change: bool = False
    """Resume even if images were added, removed or changed."""
    log: tuple[TrackerName, ...] = ()
    """Trackers for metrics, in addition to metrics.jsonl and TensorBoard."""
    quiet: bool = False
    """Print nothing to the terminal."""

    if not TYPE_CHECKING:  # it would hide the fields

        def __init__(self, **values: Any) -> None:
            """Raise a `UsageError` for an unknown name or a wrong value."""
            try:
                super().__init__(**values)
            except pydantic.ValidationError as error:
                raise explain(error, Options, where="Options") from None

    def kept(self) -> dict[str, Any]:
        """What a run writes down at each start, as the defaults of resuming: it may not fit into memory without."""
        return {name: value for name, value in self.to_json().items() if name in _KEPT}

    def over(self, kept: Mapping[str, Any], *, where: str) -> "Options":
        """Return these options, with what `kept` says in place of defaults.

        Raises:
            UsageError: for values that no options have, naming `where` they stand.
        """
        usual = Options().kept()
        known = Options.from_json(dict(kept), where=where).kept()
        return self.changed(**{name: known[name] for name, value in self.kept().items() if value == usual[name]})

    def words(self) -> list[str]:
        """The command-line words for what differs from the defaults, of what every command that reads images takes."""
        found: list[str] = []
        for name in ("workers", "device", "max_bad", "follow_outside"):
            value, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            if value != type(self).model_fields[name].default:
                found += [flag] if value is True else [flag, str(value)]
        return found

    def num_decoders(self) -> int:
        """Return how many processes or threads decode images that are not trained on."""
        return available_cores() if self.workers is None else max(1, self.workers)

    def num_workers(self, *, image_size: int) -> int:
        """Return the number of loader processes of one rank for images of this size."""
        if self.workers is not None:
            return self.workers
        return 0 if image_size <= 64 else min(16, max(1, available_cores() // ranks_here() - 1))


_KEPT = ("micro_batch", "compile", "log")


class Flags(TypedDict, total=False):
    """The recipe values that are changed most often."""

    epochs: float
    batch_size: int
    seed: int
    precision: str
    set: Mapping[str, Any]
    """Any other value, by dotted key."""


def require_known(given: Mapping[str, Any], known: type) -> None:
    """Refuse keywords that the TypedDict `known` does not list: Python itself accepts any for a `**` parameter.

    Raises:
        UsageError: with a suggestion.
    """
    names = known.__annotations__
    for name in given:
        if name not in names:
            apart = f"options=Options({name}=…)" if name in Options.model_fields else ""
            other = "set={'a.b': value} for any key of the recipe" if "set" in names else ""
            raise UsageError(f"no argument {name!r}", why=did_you_mean(name, names), fix=apart or other)


def overrides(flags: Flags) -> dict[str, Any]:
    """Convert flags to dotted keys of a recipe.

    Raises:
        UsageError: for an unknown keyword, or a value that the recipe would not take.
    """
    require_known(flags, Flags)
    changes: dict[str, Any] = dict(flags.get("set") or {})
    for flag, (config, field, key) in _FLAGS.items():
        value = flags.get(flag)
        if value is not None:
            value = _flag_value(flag, value, config.model_fields[field].rebuild_annotation())
            changes[key] = value if flag != "epochs" else {"unit": "epochs", "n": value}
    return changes


_FLAGS: dict[str, tuple[type[Config], str, str]] = {
    "epochs": (Epochs, "n", "budget.duration"),
    "batch_size": (BudgetConfig, "batch_size", "budget.batch_size"),
    "seed": (BudgetConfig, "seed", "budget.seed"),
    "precision": (BudgetConfig, "precision", "budget.precision"),
}
"""Flag → config class and field with its bounds, and dotted key."""


def _flag_value(flag: str, value: Any, kind: Any) -> Any:
    """Return the value as the recipe takes it; an error names the flag rather than the key."""
    try:
        return pydantic.TypeAdapter(kind, config=Config.model_config).validate_python(value)
    except pydantic.ValidationError as error:
        option = f"--{flag.replace('_', '-')}"
        shown = f"{value:g}" if isinstance(value, float) else printable(str(value))
        why = error.errors()[0]["msg"]
        raise UsageError(f"{option} {shown}", why=why, fix=f"give {option} another value") from None


def require_verb(recipe: Recipe, verb: Literal["pretrain", "finetune"]) -> None:
    """Refuse to pre-train with a recipe that learns labels, and to fine-tune with one that does not.

    Raises:
        UsageError: naming the other verb.
    """
    right = "finetune" if recipe.objective.learns_labels else "pretrain"
    if verb != right:
        start = " --init RUN (or none)" if right == "finetune" else ""
        raise UsageError(
            f"{recipe.name} is not a recipe to {verb} with",
            why="It learns from labels" if recipe.objective.learns_labels else "It learns without labels",
            fix=f"vitlet {right} {recipe.name}{start} --data DATA --out RUN, or another recipe of vitlet recipes",
        )


def require_detector(recipe: Recipe, run: Run) -> None:
    """Refuse a run of a recipe that learns no objects.

    Raises:
        UsageError: naming the command that trains a detector.
    """
    if recipe.objective.learns_objects() is None:
        raise UsageError(
            f"{printable(run.path)} is a run of {recipe.name}, which finds no objects",
            fix="vitlet finetune detection_micro --init RUN --data COCO --out NEW, then detect with NEW",
        )


def require_uncut(recipe: Recipe, options: Options, *, num_ranks: int = 1) -> None:
    """Refuse to split a batch over ranks or for gradient accumulation if that would change the loss.

    Raises:
        UsageError: naming what to do instead.
    """
    if recipe.couples_samples and options.micro_batch is not None:
        raise UsageError(
            f"--micro-batch with {recipe.name}",
            why="Its loss or its batch normalisation depends on all images of the batch, and would be another in parts",
            fix="leave --micro-batch out; where memory is short, lower --batch-size or start more ranks with torchrun",
        )
    if recipe.objective.pairs_samples:
        _require_whole_pairs(recipe.budget.batch_size, options.micro_batch, num_ranks)


def _require_whole_pairs(batch_size: int, micro_batch: int | None, num_ranks: int) -> None:
    share, rest = divmod(batch_size, num_ranks)
    if not rest and share % 2:
        over = f" over {num_ranks} ranks" if num_ranks > 1 else ""
        near = [size for size in (batch_size - num_ranks, batch_size + num_ranks) if size > 0]
        raise UsageError(
            f"--batch-size {batch_size}{over} with mixup or CutMix",
            why=f"Images are mixed in pairs, and {share} leave one without a partner",
            fix=f"--batch-size {' or '.join(map(str, near))}, or objective.mixup=0 and objective.cutmix=0",
        )
    if micro_batch is not None and micro_batch % 2 and micro_batch < share:
        near = [size for size in (micro_batch - 1, micro_batch + 1) if size > 0]
        raise UsageError(
            f"--micro-batch {micro_batch} with mixup or CutMix",
            why="Images are mixed in pairs, and a part of the batch would end within one",
            fix=f"--micro-batch {' or '.join(map(str, near))}",
        )


def require_layers(protocol: ProbeName, layers: Layers) -> None:
    """Refuse `layers="all"` for a protocol that does not choose among blocks.

    Raises:
        UsageError: naming the protocol that does.
    """
    if layers == "all" and protocol != "linear":
        raise UsageError(
            f"--layers all with --protocol {protocol}",
            why="Only the linear probe trains all blocks in one pass and chooses among them",
            fix="--protocol linear, or vitlet analyse for a curve over layers",
        )


def require_start(init: object | None, keep_blocks: int | None) -> None:
    """Refuse `keep_blocks` without an initial encoder, or below 0.

    Raises:
        UsageError: naming what to give.
    """
    if keep_blocks is not None and (init is None or keep_blocks < 0):
        what = "without an initial encoder" if init is None else f"{keep_blocks}"
        raise UsageError(f"--keep-blocks {what}", fix="--init RUN with --keep-blocks 0 or more, or leave it out")


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Convert `("optimizer.base_lr=1e-3", …)` to a mapping.

    Raises:
        UsageError: for a word without `=`.
    """
    pairs: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(
                f"--set {setting!r} has no value", fix="--set key=value, for example optimizer.base_lr=1e-3"
            )
        pairs[key.strip()] = parse_value(value)
    return pairs
