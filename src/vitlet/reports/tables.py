"""The rows of the accuracy chart: what may be compared, with the interval that the values allow."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from vitlet.evaluation.compare import mean_interval
from vitlet.reports.contents import Contents, arm_styles
from vitlet.reports.numbers import interval_in_points
from vitlet.text import points

_DETECTION = {"bbox_ap": "box AP", "segm_ap": "mask AP"}


@dataclass(frozen=True)
class Row:
    """One arm of a comparison, or one run: its individual values, their mean, and an interval if possible."""

    title: str
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    interval: tuple[float, float] | None
    style: int
    cpu_seconds: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return math.fsum(self.values) / len(self.values)


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: the same protocol, metric, split and images."""

    title: str
    note: str
    rows: tuple[Row, ...]
    difference: str = ""


def interval_of_arm(arm: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval over the seeds of an arm of a document, clipped to 0 … 1.

    None for a single value, and for equal ones, since older documents repeat a value measured once for each seed.
    """
    if arm["low"] is None or max(arm["values"]) - min(arm["values"]) <= 1e-12:
        return None
    return max(arm["low"], 0.0), min(arm["high"], 1.0)


def without_interval(arm: Mapping[str, Any]) -> str:
    """Why an arm has no interval."""
    if arm.get("once"):
        return "one draw: all labels"
    return "one seed" if len(arm["values"]) == 1 else "the same in every seed"


def metric_title(metric: str) -> str:
    """`top1` → `top-1 accuracy`; an unknown metric keeps its name."""
    if metric in _DETECTION:
        return _DETECTION[metric]
    top = re.fullmatch(r"(?:(knn)_)?top(\d+)", metric)
    return f"{'kNN ' if top[1] else ''}top-{top[2]} accuracy" if top else metric


def is_share(metric: str, value: Any) -> bool:
    """Whether a value of this metric is a share of correct answers, shown in per cent; an AP is not."""
    return (
        metric_title(metric) != metric
        and metric not in _DETECTION
        and isinstance(value, int | float)
        and 0 <= value <= 1
    )


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` images (Wilson 1927)."""
    z = 1.959963984540054
    centre = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - reach) / (1 + z * z / n), (centre + reach) / (1 + z * z / n)


def row(title: str, values: Sequence[float], *, seeds: Sequence[int], n: int, style: int, cpu: Any = ()) -> Row:
    """A row with the interval its values allow: over seeds for two or more, over test images for a single one."""
    over_seeds = mean_interval(values)
    interval = None
    if over_seeds.low is not None and over_seeds.high is not None:
        interval = max(over_seeds.low, 0.0), min(over_seeds.high, 1.0)
    elif n > 0:
        interval = wilson_interval(values[0], n)
    cpu_seconds = math.fsum(cpu) / len(cpu) if cpu else None
    return Row(title, tuple(values), tuple(seeds), interval, style, cpu_seconds)


def groups_of_comparison(comparison: dict[str, Any]) -> list[Group]:
    """One group per protocol, one row per arm; the arms keep their style throughout the page."""
    groups, styles = [], arm_styles(comparison)
    for protocol in comparison["protocols"]:
        n = protocol.get("n", 0)
        rows = tuple(
            row(
                arm["title"] + (f" ({without_interval(arm)})" if arm.get("once") else ""), arm["values"],
                seeds=() if arm.get("once") else arm.get("seeds", ()), n=n,
                style=styles[arm["name"]], cpu=arm.get("cpu_seconds", ()),
            )
            for arm in protocol["arms"] if arm["values"]
        )  # fmt: skip
        if not rows:
            continue
        note = f"{metric_title(protocol['metric'])}, {protocol.get('split', 'test')} split, n = {n:,}{_over(rows)}"
        groups.append(Group(protocol["title"], note, rows, _difference_text(protocol.get("difference"))))
    return groups


def groups_of_results(runs: Sequence[Contents]) -> list[Group]:
    """The measured shares of several runs, grouped if they measure the same thing on the same images."""

    def measured(pair: tuple[int, dict[str, Any]]) -> tuple[str, ...]:
        result, data = pair[1], pair[1].get("data") or {}
        keys = ("protocol", "metric", "split", "n")
        return (
            *(str(result.get(k, "")) for k in keys),
            str(data.get("name", "")),
            str(data.get("fingerprint", "")),
        )

    pairs = [(i, r) for i, run in enumerate(runs) for r in run.results if is_share(r["metric"], r["value"])]
    groups = []
    for (protocol, metric, split, n, name, _), members in groupby(sorted(pairs, key=measured), key=measured):
        by_run: dict[int, list[dict[str, Any]]] = {}
        for i, result in members:
            by_run.setdefault(i, []).append(result)
        rows = tuple(
            row(
                runs[i].name, [r["value"] for r in results], seeds=[r.get("seed", 0) for r in results],
                n=int(n or 0), style=runs[i].style,
            )
            for i, results in by_run.items()
        )  # fmt: skip
        where = ", ".join(p for p in (metric_title(metric), f"{split} split", name, f"n = {int(n or 0):,}") if p)
        groups.append(Group(protocol or metric_title(metric), where + _over(rows), rows))
    return groups


def _over(rows: Sequence[Row]) -> str:
    """State what a group's intervals are over."""
    kinds = {"seeds" if len(row.values) > 1 else "images" for row in rows if row.interval}
    return f"; intervals over {' or '.join(sorted(kinds))}" if kinds else ""


def _difference_text(difference: dict[str, Any] | None) -> str:
    if not difference:
        return ""
    words = [f"{points(difference['mean'])} points"]
    if difference["low"] is not None:
        confidence = difference.get("confidence", 0.95)
        words.append(interval_in_points(difference["low"], difference["high"], confidence=confidence))
    if difference.get("pairs", 1) > 1:
        words.append(f"{difference['pairs']} pairs")
    if difference.get("method"):
        words.append(difference["method"])
    return ", ".join(words)
