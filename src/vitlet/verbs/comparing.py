"""Commands that fine-tune many times and compare."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from vitlet.arguments import AtLeastOne, Looking, Tuning, existing_data, existing_source, layer_lists, numbers
from vitlet.errors import UsageError
from vitlet.verbs.images import require_images

Settings = Annotated[tuple[str, ...], Parameter(negative="")]


def compare(
    *runs: str,
    data: Path,
    out: Path,
    label_fractions: str = "0.01,0.1,1",
    supervised: str | None = None,
    tuning: Tuning | None = None,
    looking: Looking | None = None,
) -> None:
    """Did pre-training help? Compare runs, random weights and a supervised encoder on growing shares of the labels.

    Args:
        runs: Runs, model folders or timm:NAME@FILE.
        data: Labelled images.
        out: Folder for the page, its numbers and the fine-tuning runs; finished runs are reused.
        label_fractions: Shares of the training labels, separated by commas.
        supervised: An encoder trained with labels, as a run, model folder or timm:NAME@FILE.
    """
    if not runs:
        raise UsageError("no run given", fix="vitlet compare RUN --data DATA --out DIR")
    sources = [existing_source(run) for run in runs]
    taught = None if supervised is None else existing_source(supervised)
    existing_data(data)
    fractions = numbers("--label-fractions", label_fractions, low=1e-9, high=1)
    flags, options = (tuning or Tuning()).flags(), (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside, labelled=True)
    from vitlet.jobs.comparing import compare as job

    job(sources, data=data, out=out, label_fractions=fractions, supervised=taught, options=options, **flags)


sweep = App(name="sweep", help="Vary one thing, fine-tune from each, and draw the curve.", help_format="plaintext")


@sweep.command(name="keep-blocks")
def keep_blocks(
    *runs: str,
    data: Path,
    out: Path,
    blocks: str | None = None,
    num_labels: AtLeastOne | None = None,
    tuning: Tuning | None = None,
    looking: Looking | None = None,
) -> None:
    """How many pre-trained blocks are worth keeping? Keep the lowest, re-initialise the others, and fine-tune.

    Args:
        runs: Runs, model folders or timm:NAME@FILE, all of the same shape; one curve each.
        data: Labelled images.
        out: Folder for the page, its numbers and the fine-tuning runs; finished runs are reused.
        blocks: Numbers of blocks to keep, separated by commas; by default every number.
        num_labels: Use only this many training labels, balanced over classes.
    """
    if not runs:
        raise UsageError("no run given", fix="vitlet sweep keep-blocks RUN --data DATA --out DIR")
    sources = [existing_source(run) for run in runs]
    existing_data(data)
    counts = None if blocks is None else [int(n) for n in numbers("--blocks", blocks, low=0, high=64, whole=True)]
    flags, options = (tuning or Tuning()).flags(), (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside, labelled=True)
    from vitlet.jobs.sweeping import sweep_keep_blocks as job

    job(sources, data=data, out=out, blocks=counts, num_labels=num_labels, options=options, **flags)


@sweep.command(name="distill-layers")
def distill_layers(
    recipe: str,
    *,
    data: Path,
    teacher: str,
    layers: str,
    out: Path,
    num_labels: AtLeastOne | None = None,
    seeds: AtLeastOne = 3,
    set: Settings = (),
    finetune: str = "finetune_micro",
    finetune_set: Settings = (),
    looking: Looking | None = None,
) -> None:
    """Which layers are worth distilling? Pre-train once per list, then evaluate by probes and fine-tuning.

    Args:
        recipe: Name of an attention distillation recipe.
        data: Labelled images; pre-training ignores the labels.
        teacher: A run, a model folder, timm:NAME@FILE or untrained:NAME.
        layers: Lists of [student block, teacher block], separated by semicolons, as in "[[4,4]];[[2,2],[4,4]]".
        out: Folder for the page, its numbers and all runs; finished runs are reused.
        num_labels: Use only this many training labels for the evaluation, balanced over classes.
        seeds: Repetitions of the evaluation.
        set: Any value of the pre-training recipe, as key=value; may be repeated.
        finetune: Name of the fine-tuning recipe.
        finetune_set: Any value of the fine-tuning recipe, as key=value; may be repeated.
    """
    from vitlet.weights.names import untrained_architecture

    if untrained_architecture(teacher) is None:
        existing_source(teacher)
    existing_data(data)
    lists = layer_lists(layers)
    judged = Tuning(recipe=finetune, seeds=seeds, set=finetune_set).flags()
    from vitlet.jobs.options import parse_settings
    from vitlet.recipes import by_name, with_overrides

    changes = parse_settings(set)
    with_overrides(by_name(recipe), changes)
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside, labelled=True)
    from vitlet.jobs.sweeping import sweep_distill_layers as job

    job(
        recipe,
        data=data,
        teacher=teacher,
        layers=lists,
        out=out,
        num_labels=num_labels,
        set=changes,
        seeds=seeds,
        finetune=finetune,
        finetune_set=judged["set"],
        options=options,
    )
