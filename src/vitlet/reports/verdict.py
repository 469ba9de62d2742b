"""The answer at the head of a report: that of a comparison, or of fine-tunings from several starts side by side."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vitlet.config import flatten
from vitlet.evaluation.compare import decide, paired_difference
from vitlet.reports import evidence, tables
from vitlet.reports.contents import Contents
from vitlet.reports.elements import Plot
from vitlet.reports.numbers import between, interval_in_points, percent
from vitlet.reports.tables import metric_title
from vitlet.text import counted, plural, points, told_apart

_FINE_TUNED = re.compile(r"fine-tuning, [\d,]+ labels?")
"""The protocol of a run's own accuracy, where nothing was chosen on the images that it is measured on."""
_OF_THE_START = re.compile(r"encoder\..*|data\.(mean|std)\..*|budget\.seed")
"""Values of a recipe that an initial encoder brings, and the seed."""


@dataclass(frozen=True)
class Verdict:
    """The head of a comparing page: the answer, its sentence, and the numbers behind it."""

    question: str
    answer: str
    sentence: str
    facts: tuple[tuple[str, str], ...]
    plot: Plot | None


@dataclass(frozen=True)
class _Score:
    """The accuracy of a fine-tuned run."""

    run: str
    launch: Mapping[str, Any]
    group: str
    """Recipe, labels and images, without the start and the seed: scores of one group may be compared."""
    result: Mapping[str, Any]

    @property
    def start(self) -> str:
        """What identifies the weights that the run started from."""
        return self.launch["start"]

    @property
    def pair(self) -> str:
        """The same for the runs of a pair: the recipe as it was asked for, with its seed but without the start."""
        return self.launch["recipe"]


def of_comparison(comparison: dict[str, Any]) -> Verdict:
    """Return the answer of a comparison, with the numbers of the first protocol that measured a difference."""
    verdict = comparison["verdict"]
    protocol = next((p for p in comparison["protocols"] if p.get("difference")), None)
    facts: list[tuple[str, str]] = []
    plot = None
    if protocol:
        change = protocol["difference"]
        interval = None if change["low"] is None else (change["low"], change["high"])
        confidence = percent(change.get("confidence", 0.95)).replace(".0", "")
        facts = [
            ("difference, points", points(change["mean"])),
            (f"{confidence} interval, points", between(interval, form=points) if interval else "none"),
            (f"n, {protocol.get('split', 'test')} images", f"{protocol['n']:,}"),
        ]
        if "pairs" in change:
            facts.append(("pairs of seeds", f"{change['pairs']:,}"))
        plot = evidence.difference_plot(
            change["mean"], interval, title=f"{protocol['title']}: {metric_title(protocol['metric'])}"
        )
    answer, sentence = verdict["answer"].capitalize(), verdict["sentence"]
    if sentence.startswith(f"{answer}: "):  # the sentence already includes the answer
        answer, _, sentence = sentence.partition(" ")
    else:
        answer += "."
    return Verdict(comparison["question"], answer, sentence, tuple(facts), plot)


def of_runs(runs: Sequence[Contents]) -> Verdict | None:
    """Return the answer if runs were fine-tuned with the same recipe and labels from different starts; None if not.

    There is a sentence for each recipe and number of labels, in the order of the runs. Only seeds that every start of
    such a group has are compared, since a seed decides which labels are used.
    """
    scores = [score for run in runs for score in _scores(run)]
    names = _start_names({score.start: score.launch for score in scores})
    groups: dict[str, list[_Score]] = {}
    for score in scores:
        groups.setdefault(score.group, []).append(score)
    answers = [answer for group in groups.values() if (answer := _best_start(group, names)) is not None]
    if not answers:
        return None
    (answer, sentence), *others = answers
    more = [f"{answer} {sentence}" for answer, sentence in others]
    return Verdict("Which start is best for fine-tuning?", answer, " ".join([sentence, *more]), (), None)


def _scores(run: Contents) -> Iterator[_Score]:
    launch = run.environment.launch
    if launch.get("verb") != "finetune" or not {"recipe", "start"} <= launch.keys():
        return
    recipe = {key: text for key, text in flatten(run.recipe).items() if not _OF_THE_START.fullmatch(key)}
    labels = [launch.get(key) for key in ("subset", "hold_out")]  # their number is in the protocol
    for result in run.results:
        is_share = tables.is_share(result["metric"], result["value"])
        if is_share and _FINE_TUNED.fullmatch(str(result.get("protocol"))):
            images = [result.get(key) for key in ("protocol", "split", "n", "data")]
            yield _Score(
                run=run.name,
                launch=launch,
                group=json.dumps([recipe, labels, images], sort_keys=True),
                result=result,
            )


def _start_names(starts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Map each start's identifier to words for it: `from scratch`, `from mae`."""
    paths = list(dict.fromkeys(launch["init"] for launch in starts.values() if launch.get("init")))
    names = dict(zip(paths, told_apart([Path(path).parts for path in paths]), strict=True))
    words = {}
    for start, launch in starts.items():
        name, kept = names.get(launch.get("init"), ""), launch.get("keep_blocks")
        if not name:
            words[start] = "from scratch"
        elif kept == 0:
            words[start] = f"from {name} before its training"
        else:
            words[start] = f"from {name}" if kept is None else f"from {plural(kept, 'block')} of {name}"
    return words


def _best_start(group: Sequence[_Score], names: Mapping[str, str]) -> tuple[str, str] | None:
    """Answer and sentence about fine-tuning from several starts; None if there is one, or no seed that all have."""
    by_start: dict[str, dict[str, _Score]] = {}
    for score in group:
        by_start.setdefault(score.start, {})[score.pair] = score
    shared = [pair for pair in next(iter(by_start.values())) if all(pair in scores for scores in by_start.values())]
    if len(by_start) == 1 or not shared:
        return None
    arms = []
    for start, scores in by_start.items():
        run = f" ({scores[shared[0]].run})" if len(shared) == 1 else ""
        arms.append((f"{names[start]}{run}", [scores[pair].result["value"] for pair in shared]))
    return _ranked(arms, group[0].result)


def _ranked(arms: Sequence[tuple[str, Sequence[float]]], measured: Mapping[str, Any]) -> tuple[str, str]:
    """Compare the two arms with the highest means."""
    ranked = sorted(arms, key=lambda arm: -fmean(arm[1]))
    (best, first), (_, second), *others = ranked
    lead = paired_difference(first, second).interval
    *means, last = [f"{percent(fmean(values))} {start}" for start, values in ranked]
    between_two = " between the first two" if others else ""
    sample = counted(lead.n, measured["n"], split=measured["split"])
    protocol = measured["protocol"].replace(",", " with", 1)
    sentence = f"{protocol[:1].upper()}{protocol[1:]} reached {', '.join(means)} and {last} "
    if lead.low is None or lead.high is None:
        sentence += f"({points(lead.mean)} points{between_two}, {sample}); one seed decides nothing, run three or more."
        return "Undecided.", sentence
    interval = interval_in_points(lead.low, lead.high, confidence=lead.confidence)
    sentence += f"({points(lead.mean)} points{between_two}, {interval}, {sample})"
    if decide(lead) == "yes":
        return f"{best[:1].upper()}{best[1:]}.", f"{sentence}."
    return "Undecided.", f"{sentence}; the interval holds 0, so chance could explain it."
