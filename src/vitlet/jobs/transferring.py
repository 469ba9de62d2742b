"""Transfer of encoders to every data set of a suite: fine-tuning with settings chosen on training images.

For each data set every setting of its grid is trained once on a part of the training images and evaluated on the rest.
The best one is then trained on all training images, once per seed, and evaluated on the test split, which has decided
nothing. `select_on_test` chooses on the test split instead, as the paper's code did; the results say so.

A training is identified by the name of the data set, the fingerprints of recipe and data, and the encoder's digest; a
finished one in `out/runs` is reused, whatever the encoder's folder is called now.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from rich.table import Table

from vitlet.console import Teller
from vitlet.data.columns import cache_folder
from vitlet.data.downstream import open_public
from vitlet.data.index import Index
from vitlet.data.names import PublicData
from vitlet.data.subsets import divide
from vitlet.distributed.world import World
from vitlet.environment import environment
from vitlet.errors import DataError, UsageError
from vitlet.evaluation.compare import mean_interval
from vitlet.evaluation.features import encoder_digest
from vitlet.evaluation.result import Result, write_result
from vitlet.jobs.images import Labelled
from vitlet.jobs.options import Options
from vitlet.jobs.reporting import write_document
from vitlet.jobs.spread import among_ranks
from vitlet.jobs.suites import Entry, Part, Suite, best_setting, read_suite
from vitlet.jobs.trying import Candidate, Case, Trainings, scores, words
from vitlet.recipe import Recipe
from vitlet.reports.numbers import duration, percent
from vitlet.reports.transfer import interval_of, write_transfer_page
from vitlet.run import Run
from vitlet.text import plural, printable, slug
from vitlet.weights.names import Source
from vitlet.weights.source import load_encoder

_SELECTION = {
    False: "chosen on held-out training images; the test images decided nothing",
    True: "SELECTED ON THE TEST SPLIT, as the paper's code does: higher than a new set of images would give",
}


@among_ranks
def transfer(
    runs: Sequence[str | os.PathLike[str]],
    *,
    suite: str | os.PathLike[str] | Suite,
    out: str | os.PathLike[str],
    seeds: int = 3,
    select_on_test: bool = False,
    download: bool = False,
    options: Options = Options(),
    **part: Unpack[Part],
) -> dict[str, Any]:
    """Fine-tune every encoder on every data set of the suite; write `transfer.json`, `results/` and `report.html`.

    Args:
        runs: Runs, model folders, `timm:NAME@FILE`, or `none` for random weights.
        suite: `paper`, a TOML file, or a `Suite`.
        out: Folder for all outputs; finished trainings in it are reused.
        seeds: Repetitions of the chosen setting, with seeds 0 … seeds - 1.
        select_on_test: Choose the setting on the test split. Only for comparison with published numbers.
        download: Let torchvision download the public data sets that are missing.
        options: Settings that change no number.
        **part: `root`, in which torchvision keeps the data sets of `paper`, and `only`, the names of some data sets.

    Returns:
        The content of `transfer.json`: a row for each data set and encoder. The rows of a data set that is missing or
        unusable say why.

    Raises:
        UsageError: before any training, if an encoder does not fit the suite's image size.
    """
    suite, out = read_suite(suite, **part), Path(out)
    teller = Teller(quiet=options.quiet)
    terms = Trainings(out, tuple(range(seeds)), select_on_test, options, teller)
    starts = _starts(runs)
    for entry in suite.data:
        _require_size(starts, entry, suite.recipe_of(entry))
    began, rows = time.monotonic(), list[dict[str, Any]]()
    for entry in suite.data:
        try:
            named = PublicData.parse(entry.data)
            if named and download:
                with World.here().first_per_host():
                    open_public(named, cache=cache_folder(), download=True)
            index, num_images = _opened(entry, options, teller)
        except DataError as error:
            rows += [_absent(entry, start, error) for start in starts]
            teller.say(f"{entry.name}: left out. {error}")
            continue
        for start in starts:
            try:
                rows.append(_row(Case(entry, start, index, num_images), suite.settings_of(entry), terms))
            except DataError as error:
                rows.append(_absent(entry, start, error))
                teller.say(f"{entry.name}: left out. {error}")
            _write(rows, suite, terms, began, teller=Teller(quiet=True))  # after each, so that a stop loses no row
    found = _write(rows, suite, terms, began, teller=teller)
    if World.here().is_first:
        page = write_transfer_page(out)
        teller.console.print(_table(found))
        teller.say(f"The page: {printable(os.path.abspath(page))}")
    return found


def _starts(runs: Sequence[str | os.PathLike[str]]) -> list[Candidate]:
    starts: list[Candidate] = []
    for word in [os.fspath(run) for run in runs]:
        if word == "none":
            starts.append(Candidate("random", "random weights", None, "random", None))
            continue
        saved = load_encoder(word)
        digest = encoder_digest(saved.encoder, view=saved.evaluation)
        source = Source.parse(word)
        title = printable(source.architecture or source.path.absolute().name)
        size = saved.encoder.config.image_size
        starts.append(Candidate(f"{slug(title) or 'encoder'}-{digest[:6]}", title, str(source), digest, size))
    if len({start.name for start in starts}) < len(starts):
        raise UsageError("the same encoder is given twice", fix="name each encoder once")
    return starts


def _require_size(starts: Sequence[Candidate], entry: Entry, recipe: Recipe) -> None:
    for start in starts:
        if start.image_size not in (None, recipe.encoder.image_size):
            raise UsageError(
                f"{start.title} sees {start.image_size} px",
                where=f"data set {entry.name}",
                why=f"recipe {recipe.name} works on {recipe.encoder.image_size} px",
                fix="a suite of your own with a recipe of that size, such as transfer_micro for 32 px",
            )


def _opened(entry: Entry, options: Options, teller: Teller) -> tuple[Index, dict[bool, int]]:
    """Return the images of a data set, and how many there are to train on, without and with some of them held out."""
    images = Labelled.open(entry.data, options, teller)
    held_out = divide(images.index, images.verdicts.good, hold_out=True)
    return images.index, {False: len(images.train), True: len(held_out[0])}


def _row(case: Case, settings: list[Recipe], terms: Trainings) -> dict[str, Any]:
    """Choose among the settings, train the chosen one with every seed, write the result."""
    began, entry, start, index = time.monotonic(), case.entry, case.start, case.index
    grid = settings if len(settings) > 1 else []
    if grid:
        terms.teller.say(f"{entry.name}, {start.title}: {len(grid)} settings")
    tried = list(zip(grid, scores(grid, case, terms, hold_out=not terms.select_on_test), strict=True))
    chosen = best_setting([(r, s.value) for r, s in tried], of=entry.name) if tried else settings[0]
    many = plural(len(terms.seeds), "seed")
    terms.teller.say(f"{entry.name}, {start.title}: {words(chosen)}, {many}, on all training images")
    repeated = [chosen.changed(budget=chosen.budget.changed(seed=seed)) for seed in terms.seeds]
    finals = scores(repeated, case, terms, hold_out=False)
    scored = {seed: score for seed, score in zip(terms.seeds, finals, strict=True) if score.value is not None}
    values = [score.value for score in scored.values() if score.value is not None]
    if not values:
        raise DataError(f"the chosen setting diverged on {entry.name} with every seed", fix="a lower learning rate")
    interval, (first, *_) = mean_interval(values), scored.values()
    diverged = [seed for seed in terms.seeds if seed not in scored]
    lost = f" ({len(diverged)} of {len(terms.seeds)} diverged)" if diverged else ""
    all_scores = {score.run: score for score in (*(score for _, score in tried), *finals)}.values()
    cost = {key: sum(getattr(score, key) for score in all_scores) for key in ("wall_seconds", "cpu_seconds")}
    selection = _SELECTION[terms.select_on_test] if tried else "nothing was chosen"
    row = {
        **_about(entry, start),
        "state": "done",
        "values": values,
        "seeds": list(scored),
        "diverged": diverged,
        **interval.to_json(),
        "n": first.n,
        "split": first.split,
        "num_classes": len(index.classes),
        "labels": first.labels,
        "fingerprint": index.fingerprint,
        "selection": selection,
        "chosen": _setting(chosen),
        "tried": [_setting(recipe) | {"value": s.value, "split": s.split, "n": s.n} for recipe, s in tried],
        "runs": [score.run for score in scored.values()],
        **cost,
    }
    result = Result(
        metric="top1",
        value=interval.mean,
        n=first.n,
        seed=next(iter(scored)),
        split=first.split,
        protocol=f"transfer by fine-tuning, mean of {plural(len(values), 'seed')}{lost}, {first.labels}, {selection}",
        data=index.facts(),
        recipe=chosen.fingerprint(),
        **cost,
        details={k: row[k] for k in ("values", "seeds", "diverged", "low", "high", "chosen", "tried", "runs")}
        | {"encoder": start.digest, "took_now": time.monotonic() - began},
    )
    if World.here().is_first:
        write_result(Run(terms.out), f"{entry.name}-{start.name}", result)
    terms.teller.say(f"{entry.name}, {start.title}: {percent(interval.mean)} ({result.protocol})")
    return row


def _about(entry: Entry, start: Candidate) -> dict[str, Any]:
    return {
        "data": entry.name,
        "data_title": printable(entry.title or entry.name),
        "encoder": start.title,
        "encoder_digest": start.digest,
    }


def _absent(entry: Entry, start: Candidate, error: DataError) -> dict[str, Any]:
    return {**_about(entry, start), "state": "left out", "why": str(error)}


def _setting(recipe: Recipe) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "lr": recipe.optimizer.base_lr,
        "duration": recipe.budget.duration.to_json(),
        "warmup": recipe.optimizer.warmup.to_json(),
        "layer_decay": recipe.optimizer.layer_decay,
    }


def _write(
    rows: list[dict[str, Any]], suite: Suite, terms: Trainings, began: float, *, teller: Teller
) -> dict[str, Any]:
    found = {
        "kind": "transfer",
        "suite": suite.name,
        "selection": _SELECTION[terms.select_on_test],
        "rows": rows,
        "wall_seconds": time.monotonic() - began,
        "machine": environment(),
    }
    write_document(found, terms.out / "transfer.json", teller=teller)
    return found


def _table(found: dict[str, Any]) -> Table:
    table = Table(title=f"Transfer, top-1, {found['selection']}")
    for column in ("data", "encoder", "top-1", "95 % interval", "n", "setting", "CPU time"):
        table.add_column(column)
    for row in found["rows"]:
        if row["state"] != "done":
            table.add_row(row["data_title"], row["encoder"], "left out", "", "", "", "")  # why was said above
            continue
        chosen = row["chosen"]
        setting = f"lr {chosen['lr']:g}, {chosen['duration']['n']:g} {chosen['duration']['unit']}, "
        table.add_row(
            row["data_title"],
            row["encoder"],
            percent(row["mean"]),
            interval_of(row),
            f"{row['n']:,} {row['split']}",
            f"{setting}decay {chosen['layer_decay']:g}",
            duration(row["cpu_seconds"]),
        )
    return table
