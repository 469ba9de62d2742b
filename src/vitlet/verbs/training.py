"""Commands that train."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from vitlet.arguments import (
    AtLeastOne,
    Device,
    Log,
    Looking,
    Share,
    Shared,
    Whole,
    chosen_recipe,
    existing_data,
    existing_source,
    subset_words,
)
from vitlet.console import Terminal
from vitlet.text import printable, quoted
from vitlet.verbs.files import require_free
from vitlet.verbs.images import require_images, require_learnable


def demo(
    *,
    data: Path | None = None,
    out: Path = Path("demo-run"),
    seeds: AtLeastOne = 3,
    num_labels: AtLeastOne | None = None,
    looking: Looking | None = None,
) -> None:
    """Show the whole job: pre-train on images, fine-tune with few labels from there and from scratch, write a page.

    Args:
        data: Your images; by default 5,000 scanned digits from a Python package.
        out: Folder for the runs and the page.
        seeds: Repetitions of the comparison.
        num_labels: Training labels of the comparison; by default twenty per class.
    """
    options = (looking or Looking()).options()
    if data is not None:
        require_images(existing_data(data), follow_outside=options.follow_outside)
    from vitlet.jobs.demo import demo as job

    job(data=data, out=out, seeds=seeds, num_labels=num_labels, options=options)


def pretrain(
    recipe: str,
    *,
    data: Path,
    out: Path,
    init: str | None = None,
    subset: str | None = None,
    shared: Shared | None = None,
) -> None:
    """Pre-train an encoder on images without using labels; an interrupted run in --out is resumed.

    Args:
        recipe: A recipe name (see `vitlet recipes`) or a recipe.json.
        data: Folder, CSV or Parquet manifest, or Hugging Face Parquet.
        out: The run directory.
        init: A run or model folder to start from, or timm:NAME@FILE.
        subset: Use only part of the training images: a share like 0.01 or 1%, tail:100, or a file of names.
    """
    shared = shared or Shared()
    chosen = chosen_recipe(recipe, shared, verb="pretrain")
    existing_data(data)
    start = None if init is None else existing_source(init)
    part = subset_words(subset)
    _require_place(out, shared, chosen, subset=part)
    require_learnable(data, chosen, follow_outside=shared.follow_outside)
    from vitlet.jobs.training import pretrain as job

    run = job(chosen, data=data, out=out, init=start, subset=part, options=shared.options())
    _done(run.path)


def finetune(
    recipe: str,
    *,
    init: str,
    data: Path,
    out: Path,
    num_labels: AtLeastOne | None = None,
    keep_blocks: Whole | None = None,
    subset: str | None = None,
    hold_out: Annotated[bool, Parameter(negative="")] = False,
    shared: Shared | None = None,
) -> None:
    """Train a classifier on labelled images, from an encoder or from scratch.

    Args:
        recipe: A supervised recipe, or a recipe.json.
        init: A run or model folder, timm:NAME@FILE, or `none` for random weights.
        data: Labelled images.
        out: The run directory.
        num_labels: Use only this many training labels, balanced over classes.
        keep_blocks: Take only the patch embedding, the tokens and this many of the lowest blocks from --init; the rest
            is initialised as --init was before its training. With 0, everything is.
        subset: As for pretrain; --num-labels are then drawn from it.
        hold_out: Evaluate on held-out training images instead of the test images, to choose among settings.
    """
    shared = shared or Shared()
    chosen = chosen_recipe(recipe, shared, verb="finetune")
    existing_data(data)
    start = None if init == "none" else existing_source(init)
    part = subset_words(subset)
    from vitlet.jobs.options import require_start

    require_start(start, keep_blocks)
    labels = {"num_labels": num_labels, "subset": part, "hold_out": hold_out}
    _require_place(out, shared, chosen, keep_blocks=keep_blocks, **labels)
    require_learnable(data, chosen, follow_outside=shared.follow_outside)
    from vitlet.jobs.training import finetune as job

    run = job(
        chosen,
        init=start,
        data=data,
        out=out,
        num_labels=num_labels,
        keep_blocks=keep_blocks,
        subset=part,
        hold_out=hold_out,
        options=shared.options(),
    )
    _done(run.path)


def resume(
    run: Path,
    *,
    data: Path | None = None,
    workers: Whole | None = None,
    device: Device = "auto",
    micro_batch: Whole | None = None,
    compile: Annotated[bool, Parameter(negative="")] = False,
    log: Log = (),
    max_bad: Share = 0.0,
    accept_data_change: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Resume an interrupted run from its latest valid checkpoint; what is not given is as at its last start.

    Args:
        run: The run directory.
        data: The data that the run was started on; needed only for an address like s3://…, or a copy elsewhere.
        workers: Loader processes.
        device: Where to compute.
        micro_batch: Images per forward pass, if the batch does not fit into memory.
        compile: Use torch.compile: a minute at the start, then faster: by 4 % (fp32) or 15 % (bf16) for MAE on a CPU.
        log: Copy the metrics there too; may be repeated.
        max_bad: Accepted share of unreadable images, if larger than when the run was started.
        accept_data_change: Resume even if images were added, removed or changed.
    """
    from vitlet.run import Run

    Run.open(run)
    if data is not None:
        existing_data(data)
    from vitlet.jobs.options import Options
    from vitlet.jobs.training import resume as job

    given = {"workers": workers, "device": device, "micro_batch": micro_batch, "compile": compile, "log": log}
    options = Options(**given, max_bad=max_bad, accept_data_change=accept_data_change)
    finished = job(run, data=data, options=options)
    _done(finished.path)


def learn(
    *,
    data: Path,
    out: Path,
    views: AtLeastOne | None = None,
    num_labels: AtLeastOne = 1_000,
    seeds: AtLeastOne = 3,
    seed: Whole = 0,
    methods: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    json: Path | None = None,
    looking: Looking | None = None,
) -> None:
    """Pre-train with every method on the same budget of image views, and compare each with random weights.

    Args:
        data: Labelled images of about 32 pixels.
        out: Folder for the runs; finished ones are reused.
        views: Image views per method; with the default, all methods take half an hour to an hour on two cores.
        num_labels: Training labels for the probes and for fine-tuning.
        seeds: Repetitions of fine-tuning; probes are repeated ten times.
        seed: Seed of pre-training and of the first repetition; the others count on from it.
        methods: Micro recipes; by default one per method.
        json: Also write the table to this file.
    """
    from vitlet.recipes import by_name

    existing_data(data)
    for name in methods:
        by_name(name)
    require_free("figures", json, option="--json")
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside, labelled=True)
    from vitlet.jobs.learning import METHODS, VIEWS
    from vitlet.jobs.learning import learn as job

    job(
        data=data,
        out=out,
        views=views or VIEWS,
        num_labels=num_labels,
        seeds=seeds,
        seed=seed,
        methods=methods or METHODS,
        options=options,
        json=json,
    )


def overfit(
    *,
    data: Path,
    out: Path,
    images: AtLeastOne = 8,
    steps: AtLeastOne | None = None,
    init: str | None = None,
    seeds: AtLeastOne = 1,
    json: Path | None = None,
    looking: Looking | None = None,
) -> None:
    """Overfit a small detector to a few images: the quickest check that boxes and masks are right.

    Args:
        data: Images with boxes and outlines.
        out: Folder for the small data set and the runs; finished ones are reused.
        images: Number of images.
        steps: Steps of each run; the default takes 10 to 20 minutes on two cores.
        init: An encoder; the steps to the same training loss are then counted from it and from random weights.
        seeds: Runs from each start.
        json: Also write the result to this file.
    """
    existing_data(data)
    start = None if init is None else existing_source(init)
    require_free("figures", json, option="--json")
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside)
    from vitlet.jobs.overfitting import STEPS
    from vitlet.jobs.overfitting import overfit as job

    job(
        data=data,
        out=out,
        images=images,
        steps=steps or STEPS,
        init=start,
        seeds=seeds,
        json=json,
        options=options,
    )


def _require_place(out: Path, shared: Shared, recipe: Any, **launch: Any) -> None:
    """Refuse an --out that holds something else, or a run that was started on other values and is not to be replaced.

    Raises:
        UsageError: naming what is there.
    """
    from vitlet.run import Run

    Run(out).require_place()
    if not shared.fresh:
        asked = {"recipe": recipe.fingerprint(), **launch}
        Run(out).require_same(asked, there=Run(out).environment.launch, recipe=recipe.to_json())


def _done(path: Path) -> None:
    then = f"vitlet report {quoted(path)} --out {quoted(path / 'report.html')}"
    Terminal().print(f"finished: {printable(path)}   next: {then}", markup=False)
