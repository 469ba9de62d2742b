"""Parts shared by comparisons and sweeps: how starts are evaluated, and how that is reported."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from rich.table import Table

from vitlet.console import Teller
from vitlet.disk import write_json
from vitlet.distributed.world import World
from vitlet.environment import Environment, environment
from vitlet.errors import UsageError
from vitlet.evaluation.features import encoder_digest
from vitlet.jobs.arms import Start, Terms
from vitlet.jobs.images import Labelled
from vitlet.jobs.options import Flags, Options, overrides, require_known, require_verb
from vitlet.recipe import ConvNetConfig, Recipe
from vitlet.reports.curve_page import write_curve_page
from vitlet.text import printable, slug
from vitlet.weights.folder import Saved
from vitlet.weights.names import Source
from vitlet.weights.source import load_encoder

DOCUMENT = "curves.json"


class Tuning(TypedDict, total=False):
    """How every start is fine-tuned, with the names of the command-line options."""

    recipe: str
    """The fine-tuning recipe; by default `finetune_micro`."""
    seeds: int
    """Repetitions; by default 3."""
    epochs: float
    batch_size: int
    set: Mapping[str, Any]
    """Any other value of the recipe, by dotted key."""


@dataclass(frozen=True)
class Judging:
    """Fine-tuning settings, the same for every start."""

    recipe: str = "finetune_micro"
    seeds: int = 3
    """Repetitions; each draws new labels, order and weights."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the recipe, by dotted key."""
    options: Options = field(default_factory=Options)
    """Settings that change no number."""

    @classmethod
    def of(cls, tuning: Tuning, options: Options = Options()) -> "Judging":
        """Build the settings from keywords named as on the command line.

        Raises:
            UsageError: for an unknown keyword.
        """
        require_known(tuning, Tuning)
        plain = {key: tuning.get(key) for key in ("epochs", "batch_size", "set")}
        settings = overrides(cast(Flags, plain))
        return cls(tuning.get("recipe", cls.recipe), tuning.get("seeds", cls.seeds), settings, options)

    def terms(self, *, data: Path, out: Path, num_labels: int | None = None, subset: str | None = None) -> Terms:
        """Return the terms for `vitlet.jobs.arms`; the runs go to `out/runs`.

        Raises:
            UsageError: for fewer seeds than one, or a recipe that does not learn labels.
        """
        if self.seeds < 1:
            raise UsageError(f"{self.seeds} seeds", why="A comparison needs at least one", fix="--seeds 3")
        terms = Terms(
            data=data,
            out=out / "runs",
            seeds=tuple(range(self.seeds)),
            num_labels=num_labels,
            settings=self.settings,
            recipe=self.recipe,
            subset=subset,
            options=self.options,
        )
        require_verb(terms.resolved(0), "finetune")
        return terms


def require_startable(saved: Saved, recipe: Recipe, source: str) -> None:
    """Refuse an encoder that does not fit the fine-tuning recipe, before anything is trained.

    Raises:
        UsageError: for a ConvNet and a recipe for vision transformers or vice versa, another image size or ConvNet.
    """
    there, wanted = saved.encoder.config, recipe.encoder
    if type(there) is not type(wanted) or there.image_size != wanted.image_size:
        kinds = {"vit": "a vision transformer", "convnet": "a ConvNet"}
        raise UsageError(
            f"{printable(source)} is {kinds[there.kind]} for {there.image_size} px",
            why=f"Recipe {recipe.name} fine-tunes {kinds[wanted.kind]} for {wanted.image_size} px",
            fix="--recipe NAME, a supervised recipe of vitlet recipes that fits",
        )
    if isinstance(there, ConvNetConfig) and there != wanted.changed(image_size=there.image_size):
        raise UsageError(
            f"{printable(source)} is another ConvNet than recipe {recipe.name} has",
            why="Random weights would have another shape",
            fix="--set encoder.architecture=NAME and encoder.output_stride=N as in the run",
        )


def arm_names(sources: Sequence[str]) -> list[str]:
    """Return short, unique names, usable for folders: each source's folder, with its parents where needed."""
    names: list[str] = []
    for source in sources:
        where = Source.parse(source)
        parts = [where.architecture] if where.architecture else [p for p in where.path.absolute().parts if p != "/"]
        cleaned = [slug(part) or "run" for part in parts]
        tries = ["-".join(cleaned[-depth:]) for depth in range(1, len(cleaned) + 1)]
        tries += [f"{tries[-1]}-{number}" for number in range(2, len(sources) + 2)]
        names.append(next(t for t in tries if t not in names and not re.fullmatch(r"supervised|random(-\d+)?", t)))
    return names


def facts_of(images: Labelled) -> dict[str, Any]:
    """Return the facts about the data for a document."""
    index = images.index
    return {
        **index.facts(),
        "num_train": len(images.train),
        "num_test": len(images.test),
        "classes": [printable(name) for name in index.classes],
    }


def start_facts(start: Start) -> dict[str, Any]:
    """Return the facts about a start: the source of its weights, their digest and, where known, their cost."""
    known: dict[str, Any] = {"name": start.name, "title": start.title, "keep_blocks": start.keep_blocks}
    if start.source is None or start.is_random:
        return known | {"source": None, "encoder": None, "recipe": None, "pretraining_cpu_seconds": None}
    source, saved = Source.parse(start.source), load_encoder(start.source)
    made = Environment.of(source.path)
    return known | {
        "source": printable(str(source.relative())),
        "encoder": encoder_digest(saved.encoder, view=saved.evaluation),
        "recipe": saved.facts.get("recipe"),
        "pretraining_cpu_seconds": made.cpu_seconds if made.is_finished else None,
    }


def budget_of(terms: Terms) -> dict[str, Any]:
    """Return the budget of every fine-tuning run."""
    recipe = terms.resolved(terms.seeds[0])
    budget = recipe.budget
    return {
        "recipe": recipe.name,
        "fingerprint": recipe.fingerprint(),
        "duration": budget.duration.to_json(),
        "batch_size": budget.batch_size,
        "seeds": list(terms.seeds),
    }


def publish(found: dict[str, Any], out: Path, teller: Teller, began: float) -> dict[str, Any]:
    """Write the document, its page and figures to `out`, print the findings, and return the document."""
    found |= {"machine": environment(), "wall_seconds": time.monotonic() - began}
    if not World.here().is_first:
        return found
    write_json(out / DOCUMENT, found)
    page = write_curve_page(found, folder=out)
    for curve in found["curves"]:
        teller.console.print(_table(curve))
    for question in found["questions"]:
        teller.say(question["sentence"])
    teller.say(f"written: {printable(out / DOCUMENT)} and the page {printable(page)}")
    return found


def _table(curve: Mapping[str, Any]) -> Table:
    """Tabulate mean, half the interval and CPU time of every arm at every point."""
    table = Table(title=f"{curve['title']}, top-1 on {curve['n']:,} {curve['split']} images")
    for column in ("", *(point["label"] for point in curve["points"])):
        table.add_column(column)
    rows: dict[str, list[str]] = {}
    for point in curve["points"]:
        for arm in (*point["arms"], *curve["references"]):
            half = "" if arm["high"] is None else f" ± {100 * (arm['high'] - arm['mean']):.1f}"
            rows.setdefault(arm["title"], []).append(
                f"{100 * arm['mean']:.1f}{half} %, {np.mean(arm['cpu_seconds']):.0f} s"
            )
    for title, cells in rows.items():
        table.add_row(title, *cells)
    return table
