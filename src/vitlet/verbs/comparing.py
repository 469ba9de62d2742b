"""Commands that fine-tune many times and compare."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, existing, existing_source, numbers, tuning
from vitlet.errors import UsageError

Settings = Annotated[tuple[str, ...], Parameter(negative="")]


def compare(
    *runs: str,
    data: Path,
    out: Path,
    label_fractions: str = "0.01,0.1,1",
    supervised: str | None = None,
    seeds: AtLeastOne = 3,
    recipe: str = "finetune_micro",
    epochs: float | None = None,
    batch_size: AtLeastOne | None = None,
    set: Settings = (),
) -> None:
    """Did pre-training help? Runs, random weights and a supervised encoder over growing shares of the labels.

    Parameters
    ----------
    runs: Runs, model folders or timm:NAME@FILE.
    data: Labelled images.
    out: Folder for the page, its numbers and the fine-tuning runs; finished ones are used again.
    label_fractions: Shares of the training labels, with commas between.
    supervised: An encoder trained with labels, as a run, model folder or timm:NAME@FILE.
    seeds: Repetitions.
    recipe: Of fine-tuning, by name.
    epochs: Passes over the labelled images, instead of the recipe's duration.
    batch_size: Images in one optimizer step.
    set: Any other value of the recipe, as key=value; may be repeated.
    """
    if not runs:
        raise UsageError("no run given", fix="vitlet compare RUN --data DATA --out DIR")
    sources = [existing_source(run) for run in runs]
    taught = None if supervised is None else existing_source(supervised)
    existing(data)
    fractions = numbers("--label-fractions", label_fractions, low=1e-9, high=1)
    settings = tuning(recipe, epochs=epochs, batch_size=batch_size, settings=set)
    from vitlet.jobs.curves import compare as job
    from vitlet.jobs.judging import Judging

    judging = Judging(recipe=recipe, seeds=seeds, settings=settings)
    job(sources, data=data, out=out, fractions=fractions, supervised=taught, judging=judging)
