"""Pre-training, fine-tuning and resuming: find the run, and check that it may be resumed."""

import dataclasses
import os
from pathlib import Path
from typing import Unpack

from vitlet.console import Teller
from vitlet.data.choice import Subset
from vitlet.data.index import open_index
from vitlet.data.names import absolute_data
from vitlet.data.stores import is_remote
from vitlet.errors import UsageError
from vitlet.jobs.assembly import execute
from vitlet.jobs.launch import Launch
from vitlet.jobs.material import pick_device, start_content
from vitlet.jobs.options import Flags, Options, overrides, require_start, require_verb
from vitlet.nn.kernels import has_bf16
from vitlet.recipe import Recipe
from vitlet.recipes import by_name, from_json, with_overrides
from vitlet.run import Run
from vitlet.text import printable, quoted
from vitlet.train import checkpoint
from vitlet.weights.content import teacher_content
from vitlet.weights.names import Source


def pretrain(
    recipe: str | Recipe,
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    init: str | os.PathLike[str] | None = None,
    subset: str | None = None,
    options: Options = Options(),
    **flags: Unpack[Flags],
) -> Run:
    """Pre-train an encoder on images without using labels.

    Args:
        recipe: A recipe name (see `vitlet recipes`), or a `Recipe`.
        data: Folder, manifest or Parquet.
        out: The run directory; an unfinished run of the same recipe in it is resumed.
        init: A run or model folder to start from; None starts from random weights.
        subset: Use only part of the training images, see `vitlet.data.choice`; the seed decides which.
        options: Settings that do not change the numbers.
        **flags: `epochs`, `batch_size`, `seed`, `precision`, and `set` for dotted keys.

    Returns:
        The finished run.

    Raises:
        VitletError: of the kinds that `vitlet.errors` lists.
    """
    asked = resolved(recipe, flags)
    require_verb(asked, "pretrain")
    launch = _launch("pretrain", asked, init=init, data=data, subset=subset, options=options)
    return _start(asked, launch, Run(Path(out)), options)


def finetune(
    recipe: str | Recipe,
    *,
    init: str | os.PathLike[str] | None,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    num_labels: int | None = None,
    keep_blocks: int | None = None,
    subset: str | None = None,
    hold_out: bool = False,
    options: Options = Options(),
    **flags: Unpack[Flags],
) -> Run:
    """Train a classifier on labelled images, or a detector on images with boxes, from an encoder or random weights.

    Args:
        recipe: A recipe of supervised training or of detection.
        init: A run or model folder whose encoder is the start; None trains from scratch.
        data: Folder, manifest or Parquet with labels; for a detector COCO's or Roboflow's annotations.
        out: The run directory.
        num_labels: Use only this many training labels, balanced over classes; the seed decides which.
        keep_blocks: Take only the patch embedding, the tokens and this many of the lowest blocks from `init`; the rest
            is initialised as `init` was before its training. With 0, everything is.
        subset: As for `pretrain`; `num_labels` are then drawn from it.
        hold_out: Evaluate on held-out training images instead of the test images, to choose among settings.
        options: Settings that do not change the numbers.
        **flags: As for `pretrain`.

    Returns:
        The finished run, with its accuracy or its APs in `results/`.
    """
    asked = resolved(recipe, flags)
    require_verb(asked, "finetune")
    require_start(init, keep_blocks)
    launch = _launch("finetune", asked, init=init, data=data, subset=subset, options=options, keep_blocks=keep_blocks)
    launch = dataclasses.replace(launch, num_labels=num_labels, hold_out=hold_out)
    return _start(asked, launch, Run(Path(out)), options)


def resume(
    run: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None, options: Options = Options()
) -> Run:
    """Resume an interrupted run from its latest valid checkpoint; a finished run is left as it is.

    Args:
        run: The run directory.
        data: The data that the run was started on, or a copy with the same fingerprint elsewhere. Needed only for
            that, and for an address: one that is only read from a file, which may be somebody else's, is not connected
            to.
        options: Settings that do not change the numbers. The run accepts as many bad images as when it was started,
            and more with a larger `max_bad`. Where `micro_batch`, `compile` and `log` have their defaults, they are as
            at its last start.

    Returns:
        The finished run.

    Raises:
        UsageError: for an address that is not given again, or for other data.
        VitletError: of the other kinds that `vitlet.errors` lists.
    """
    found = Run.open(run)
    recipe = from_json(found.recipe_json(), where=printable(found.recipe_file))
    launch = _require_repeated(found, Launch.of(found), None if data is None else absolute_data(data))
    options = options.over(found.environment.options, where=printable(found.environment.file))
    max_bad = max(options.max_bad, launch.max_bad)
    return execute(recipe, launch, found, options.changed(max_bad=max_bad, follow_outside=launch.follow_outside))


def resolved(recipe: str | Recipe, flags: Flags) -> Recipe:
    """Return the recipe with the flags applied."""
    base = by_name(recipe) if isinstance(recipe, str) else recipe
    return with_overrides(base, overrides(flags))


def _launch(
    verb: str,
    asked: Recipe,
    *,
    init: str | os.PathLike[str] | None,
    data: str | os.PathLike[str],
    subset: str | None,
    options: Options,
    keep_blocks: int | None = None,
) -> Launch:
    """Describe what a run is started on: paths as absolute ones, weights by content."""
    return Launch(
        verb=verb,
        recipe=asked.fingerprint(),
        data=absolute_data(data),
        init=_place_of(init),
        keep_blocks=keep_blocks,
        subset=None if subset is None else str(Subset.parse(subset)),
        start=start_content(init, keep_blocks),
        teacher=teacher_content(asked.objective),
        max_bad=options.max_bad,
        follow_outside=options.follow_outside,
    )


def _place_of(init: str | os.PathLike[str] | None) -> str | None:
    return None if init is None else str(Source.parse(init).absolute())


def _start(recipe: Recipe, launch: Launch, run: Run, options: Options) -> Run:
    """Start a run, or resume the one in its folder."""
    run.require_place()
    if run.recipe_file.is_file() and not options.fresh:
        _require_same(run, launch, recipe)
        recipe = from_json(run.recipe_json(), where=printable(run.recipe_file))  # in the precision that it began in
    else:
        recipe = _possible_here(recipe, options)
    return execute(recipe, launch, run, options, fresh=options.fresh)


def _require_repeated(run: Run, launch: Launch, given: str | None) -> Launch:
    """Return `launch` with the data at the place that is given.

    Refuse data other than the run's, and an address that is only named in the run's own file.
    """
    there = launch.data
    if given is not None and given != there:
        moved = dataclasses.replace(launch, data=given)
        if _is_same_data(run, moved):
            return moved
        raise UsageError(
            f"{printable(run.path)} was begun on other data",
            why=f"{printable(there)} there",
            fix="leave --data out, or give the command of the run again with another --out",
        )
    if given is None and is_remote(there):
        raise UsageError(
            f"{printable(run.path)} would connect to {printable(there)}",
            why="The address stands in a file of the run, which may come from others",
            fix=f"vitlet resume {quoted(run.path)} --data {quoted(there)}, if you trust it",
        )
    return launch


def _is_same_data(run: Run, moved: Launch) -> bool:
    """Whether the data of `moved` has the fingerprint of what the run was trained on, such as shards of its folder."""
    made = run.environment
    recorded = made.data if made.is_finished else None
    if recorded is None and (found := checkpoint.latest(run)[0]) is not None:
        recorded = found.manifest["data"]
    return recorded is not None and open_index(moved.data, follow_outside=moved.follow_outside).fingerprint == recorded


def _require_same(run: Run, launch: Launch, recipe: Recipe) -> None:
    here, there = dataclasses.asdict(launch), dataclasses.asdict(Launch.of(run))
    changed = [key for key in here if key != "max_bad" and there[key] != here[key]]
    if not there["teacher"] and "teacher" in changed:
        changed.remove("teacher")  # started before it was recorded
    if changed == ["data"] and _is_same_data(run, launch):
        return
    named = [key for key in changed if key not in ("start", "teacher")]  # they follow from the others
    if changed and not named:
        begun, which = (
            ("was started from", f"encoder at {printable(launch.init or '')}")
            if "start" in changed
            else ("was taught by", "teacher that the recipe names")
        )
        raise UsageError(
            f"{printable(run.path)} {begun} other weights",
            why=f"The {which} was trained again or replaced since",
            fix="--fresh to train from the new ones, or another --out to keep both",
        )
    run.require_same({key: here[key] for key in named}, there=there, recipe=recipe.to_json())


def _possible_here(recipe: Recipe, options: Options) -> Recipe:
    """Return the recipe in a precision that the device supports in hardware; a change is reported."""
    device = pick_device(options)
    precision = recipe.budget.precision
    if (precision == "bf16" and not has_bf16(device)) or (precision == "fp16" and device.type != "cuda"):
        Teller(quiet=options.quiet).say(f"note: this {device.type} has no fast {precision}; training in fp32 instead.")
        return recipe.changed(budget=recipe.budget.changed(precision="fp32"))
    return recipe
