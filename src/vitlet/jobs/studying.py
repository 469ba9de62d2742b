"""Were the suggestions right? Tests each claim of a diagnosis on few labels by fine-tuning on the same labels.

Each encoder in turn plays the user's own: it is analysed with the others and random weights for a number of labels, and
both alternatives of each claim are fine-tuned on the same labels, with several seeds. The rule is that of
`evaluate.compare`, fixed beforehand, for the 95 % interval of (better - worse) paired over seeds:

    right       it lies above 0
    wrong       its upper end is 0 or below
    undecided   it contains 0, or there is one seed

A suggestion without a claim, which only another pre-training could decide, is counted but not judged.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from vitlet.analysis.diagnosis import RANDOM, Claim, Suggestion, Way
from vitlet.console import Teller
from vitlet.data.index import Index
from vitlet.disk import read_json
from vitlet.distributed.world import World
from vitlet.environment import environment
from vitlet.evaluation.compare import Answer, Arm, Difference, decide, paired_difference
from vitlet.jobs.analysing import analyse
from vitlet.jobs.arms import Start, Terms, finetune_grid
from vitlet.jobs.images import Labelled
from vitlet.jobs.judging import arm_names, require_startable
from vitlet.jobs.material import start_content
from vitlet.jobs.options import Options
from vitlet.jobs.reporting import write_document
from vitlet.jobs.spread import among_ranks
from vitlet.recipes import by_name
from vitlet.run import address_of
from vitlet.text import plural
from vitlet.weights.source import load_encoder

LABELS = (300, 3_000)
FILE = "study.json"
_RECIPE = "finetune_micro"
Outcome = Literal["right", "wrong", "undecided", "not judged"]
_OUTCOMES: dict[Answer, Outcome] = {"yes": "right", "no": "wrong", "undecided": "undecided"}


@dataclass(frozen=True)
class Case:
    """One suggestion about one encoder with a number of labels."""

    first: str
    """The encoder, by the name of its folder."""
    num_labels: int
    suggestion: Suggestion


@among_ranks
def study(
    encoders: Sequence[str | Path],
    *,
    data: Path,
    out: Path,
    labels: Sequence[int] = LABELS,
    seeds: int = 3,
    settings: Mapping[str, Any] | None = None,
    num_images: int = 1024,
    options: Options = Options(),
    json: Path | None = None,
) -> dict[str, Any]:
    """Diagnose every encoder, test the claims by fine-tuning, and report how often they were right.

    Args:
        encoders: At least two runs or model folders of the same image size, about 32 pixels.
        data: Labelled images with a test split.
        out: Folder for analyses and fine-tuning runs; finished ones are reused.
        labels: Numbers of labels, each studied separately.
        seeds: Repetitions of fine-tuning.
        settings: Changes to the fine-tuning recipe.
        num_images: Number of images per analysis.
        options: Workers, device, tolerance for unreadable images.
        json: File for a copy of `out/study.json`.

    Returns:
        The document: every suggestion with its outcome and the difference behind it, and the counts.

    Raises:
        DataError, UsageError: before any analysis, if the images or an encoder cannot be used for fine-tuning.
    """
    teller, began = Teller(quiet=options.quiet), time.monotonic()
    sources = [str(source) for source in encoders]
    names = dict(zip(sources, arm_names(sources), strict=True))
    shared = Terms(data, out / "finetuned", tuple(range(seeds)), None, settings or {}, recipe=_RECIPE, options=options)
    terms = {count: replace(shared, num_labels=count) for count in labels}
    images = _require_tunable(sources, data, terms.values(), options, teller)
    contents = {source: start_content(source) for source in sources}
    cases = [
        Case(names[source], count, suggestion)
        for count in labels
        for source in sources
        for suggestion in _diagnosed(
            names[source],
            {source: contents[source], **contents},
            images.index,
            data=data,
            out=out / "analyses",
            num_images=num_images,
            num_labels=count,
            options=options.changed(quiet=True),
        )
    ]
    wanted = {
        (way, case.num_labels): None
        for case in cases
        if (claim := case.suggestion.claim)
        for way in (claim.better, claim.worse)
    }
    cells = [
        (
            _start(way, names, like=sources[0]),
            replace(terms[count], settings={**terms[count].settings, **_decay(way)}),
        )
        for way, count in wanted
    ]
    arms = dict(zip(wanted, finetune_grid(cells, teller) if cells else [], strict=True))
    rows = [_row(case, arms) for case in cases]
    found = {
        "kind": "study",
        "title": "Suggestions of vitlet analyse beside fine-tuning",
        "rows": rows,
        "counts": _counts(rows),
        "labels": list(labels),
        "seeds": seeds,
        "data": images.index.facts(),
        "machine": environment(),
        "wall_seconds": time.monotonic() - began,
    }
    write_document(found, out / FILE, json, teller=teller)
    teller.console.print(_table(found))
    return found


def outcome(difference: Difference | None) -> Outcome:
    """Judge a difference by the rule above; None if nothing was fine-tuned."""
    return "not judged" if difference is None else _OUTCOMES[decide(difference.interval)]


def _require_tunable(
    sources: Sequence[str], data: Path, terms: Collection[Terms], options: Options, teller: Teller
) -> Labelled:
    """Return the images if every encoder can be fine-tuned on every number of labels; analyses take minutes."""
    for source in sources:
        require_startable(load_encoder(source), by_name(_RECIPE), source)
    images = Labelled.open(data, options, teller)
    for asked in terms:
        asked.steps(images, seed=0)  # refuses more labels than there are, or fewer than a batch
    return images


def _diagnosed(
    name: str,
    contents: Mapping[str, str],
    index: Index,
    *,
    data: Path,
    out: Path,
    num_images: int,
    num_labels: int,
    options: Options,
) -> list[Suggestion]:
    """Return the suggestions about the first encoder in `contents`.

    The folder of an analysis is named after everything that decides its content, and is read if it exists. That
    includes the paths of encoders and data, since the suggested commands contain them.
    """
    decides = [list(contents.items()), str(data), index.fingerprint, num_images, num_labels]
    folder = out / f"{name}-{num_labels}-{address_of(decides)[:12]}"
    if not World.here().broadcast_json((folder / "analysis/about.json").is_file()):
        analyse([*contents, RANDOM], data=data, out=folder, images=num_images, num_labels=num_labels, options=options)
    return [_read(values) for values in read_json(folder / "analysis/diagnosis.json")["suggestions"]]


def _read(values: dict[str, Any]) -> Suggestion:
    claim = values["claim"]
    ways = claim and Claim(Way(**claim["better"]), Way(**claim["worse"]))
    return Suggestion(**{**values, "claim": ways})


def _start(way: Way, names: Mapping[str, str], *, like: str) -> Start:
    if way.source == RANDOM:
        return Start(RANDOM, "random weights", like, keep_blocks=0)
    return Start(names[way.source], names[way.source], way.source)


def _decay(way: Way) -> dict[str, float]:
    return {} if way.layer_decay is None else {"optimizer.layer_decay": way.layer_decay}


def _row(case: Case, arms: Mapping[tuple[Way, int], Arm]) -> dict[str, Any]:
    claim, difference, values = case.suggestion.claim, None, None
    if claim is not None:
        better, worse = (arms[way, case.num_labels] for way in (claim.better, claim.worse))
        difference = paired_difference(better.values, worse.values)
        values = {"better": list(better.values), "worse": list(worse.values)}
    return {
        "encoder": case.first,
        "num_labels": case.num_labels,
        **asdict(case.suggestion),
        "outcome": outcome(difference) if case.suggestion.suggestion else "no evidence",
        "difference": None if difference is None else difference.to_json(),
        "values": values,
    }


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Outcomes by topic."""
    topics = dict.fromkeys(row["topic"] for row in rows)
    return {topic: dict(Counter(row["outcome"] for row in rows if row["topic"] == topic)) for topic in topics}


def _table(found: Mapping[str, Any]) -> Table:
    words = ("right", "wrong", "undecided", "not judged", "no evidence")
    table = Table(title=f"{found['title']}: {plural(found['seeds'], 'seed')}, {found['labels']} labels")
    for column in ("topic", *words):
        table.add_column(column)
    for topic, counts in found["counts"].items():
        table.add_row(topic, *(str(counts.get(word, 0)) for word in words))
    return table
