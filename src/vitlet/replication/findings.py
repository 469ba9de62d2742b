"""Results of a plan's finished runs next to the published ones: the document behind page and ledger.

    {"kind": "replication", "scale", "about", "data", "seeds", "items": [...], "claims": [...], "runs": [...], …}

Every number has three separate fields: `published` with its tag, `measured` with its seeds and runs, `not_run` with
the reason. Accuracies measured here are shares of 1, published figures are as printed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, final

import numpy as np

from vitlet.disk import read_json
from vitlet.environment import environment
from vitlet.evaluation.compare import mean_interval
from vitlet.replication.catalogue import Choice
from vitlet.replication.claim import Claim, Measure, Part, decide, decide_part
from vitlet.replication.claims import CLAIMS
from vitlet.replication.origin import Origins, data_name
from vitlet.replication.plan import NODE_FILE, Node, Plan
from vitlet.replication.quantities import Looked
from vitlet.replication.scale import ImageSet
from vitlet.replication.steps import (
    MEANINGS,
    Cell,
    Drawing,
    Look,
    Measured,
    Metric,
    Needs,
    Published,
    Row,
    Step,
    Table,
)
from vitlet.reports.numbers import duration
from vitlet.reports.replication import label
from vitlet.text import plural

UNASKED, NOT_YET = "not asked for", "not run yet"
_DIGITS = 4
"""Decimals of stored arrays."""


def findings(plan: Plan, choice: Choice, *, command: str) -> dict[str, Any]:
    """Build the document, in the paper's order; claims that were not chosen are listed as not run.

    Args:
        plan: Plan with some, all or none of its runs finished.
        choice: The requested items and claims.
        command: Command that reproduces the document.
    """
    reader = _Reader(plan)
    finished = [node for node in plan.nodes.values() if node.is_finished and node.kind not in ("images", "weights")]
    facts = {node.address: read_json(node.folder / NODE_FILE) for node in finished}
    return {
        "kind": "replication",
        "scale": plan.scale.name,
        "about": plan.scale.about,
        "sets": {k: v if isinstance(v, str) else v.called(reader.data) for k, v in plan.scale.sets.items()},
        "tags": MEANINGS,
        "seeds": list(plan.scale.seeds),
        "items": [_item(reader, item) for item in choice.items],
        "claims": [
            _claim(reader, claim) if claim in choice.claims else _unasked(claim) for claim in CLAIMS
        ] if choice.claims else [],
        "runs": [
            {
                "name": node.folder.name,
                "title": node.title,
                "seed": node.seed,
                "recipe": facts[node.address]["recipe"],
                "cpu_seconds": facts[node.address].get("cpu_seconds", 0.0),
                "finished": facts[node.address]["finished"],
                **_made_on(facts[node.address]["machine"]),
            }
            for node in finished
        ],
        "failed": [
            {"name": node.folder.name, "title": node.title, "seed": node.seed, "why": node.why_failed}
            for node in plan.failed
        ],
        "waiting": [node.folder.name for node in plan.waiting],
        "command": command,
        "machine": environment(),
    }  # fmt: skip


def _made_on(machine: Mapping[str, Any]) -> dict[str, Any]:
    torch, commit = machine["packages"]["torch"], machine.get("commit", "")  # older runs have none
    return {"processor": machine["processor"], "cores": machine["cores"], "torch": torch, "commit": commit}


@final
class _Reader:
    """Reads the values of steps, each file once."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.data, self.origins = plan, data_name(plan), Origins(plan)
        self._looked: dict[str, Looked] = {}
        self._by_name = {node.folder.name: node for node in plan.nodes.values()}

    def behind(self, runs: Iterable[str]) -> list[str]:
        """The names of `runs` and of all runs that they start from, each after what it needs."""
        found: dict[str, None] = {}
        for name in runs:
            nodes = [self.plan.nodes[address] for address in self._by_name[name].inputs]
            found |= dict.fromkeys(self.behind(n.folder.name for n in nodes if n.kind not in ("images", "weights")))
            found[name] = None
        return list(found)

    def missing(self, step: Step) -> str:
        """Why `step` has no value for any seed, in words."""
        return self.lost(step) or NOT_YET

    def lost(self, step: Step) -> str:
        """Why some or all seeds of `step` will have no value, in words; "" if all may still get one."""
        return self.plan.absent.get(step) or self.plan.why_failed(step)

    def results(self, step: Measured, metric: Metric = "top1") -> dict[int, dict[str, Any]]:
        """Result files by seed, for the finished seeds."""
        found = {}
        for seed in self.plan.scale.seeds:
            node = self.plan.node(step, seed)
            if node is not None and node.is_finished and (file := node.folder / "results" / f"{metric}.json").is_file():
                found[seed] = _with_choice(read_json(file), node) | {"run": node.folder.name}
        return found

    def looks(self, step: Look) -> dict[int, tuple[Looked, str]]:
        """Measurements and run name, by seed."""
        found = {}
        for seed in self.plan.scale.seeds:
            node = self.plan.node(step, seed)
            if node is None or not node.is_finished:
                continue
            if node.address not in self._looked:
                self._looked[node.address] = Looked.read(node.folder, tuple(name for name, _ in step.subjects))
            found[seed] = self._looked[node.address], node.folder.name
        return found

    def values(self, measure: Measure) -> dict[int, tuple[float, str, int]]:
        """(value, run, images) by seed."""
        step = measure.step
        if isinstance(step, Look):
            return {
                seed: (looked.value(measure.quantity, measure.subject), run, looked.images)
                for seed, (looked, run) in self.looks(step).items()
            }
        return {seed: (r["value"], r["run"], r["n"]) for seed, r in self.results(step).items()}


def _with_choice(result: dict[str, Any], node: Node) -> dict[str, Any]:
    """Add the choice of settings to the protocol, since the final training does not know of it."""
    if not node.settings:
        return result
    chosen = f"the best of {plural(len(node.settings), 'setting')} on held-out training images"
    return result | {"protocol": f"{result['protocol']}; {chosen}"}


def _item(reader: _Reader, item: Table | Drawing) -> dict[str, Any]:
    base = {"name": item.name, "title": item.title, "about": item.about}
    if isinstance(item, Drawing):
        return base | _drawing(reader, item)
    rows = [
        {"title": row.title, "cells": [_cell(reader, _at(row.cells, c), _place(item, row, c)) for c in item.columns]}
        for row in item.rows
    ]
    return base | {"columns": list(item.columns), "rows": rows, "unit": item.unit, "axis": item.axis}


def _at(cells: Sequence[Cell], column: str) -> Cell | None:
    return next((cell for cell in cells if cell.column == column), None)


def _place(item: Table, row: Row, column: str) -> str:
    """The name by which other numbers refer to this one."""
    return f"{label(item.name)}: {row.title}{f', {column}' if len(item.columns) > 1 else ''}"


def _stand_in(reader: _Reader, step: Measured) -> str:
    """The stand-in for the step's data set, if there is one."""
    found = reader.plan.scale.sets.get(_set_of(step))
    return found.called(reader.data) if isinstance(found, ImageSet) and not found.folder else ""


def _set_of(step: Measured) -> str:
    """The step's data set: the one it is fine-tuned on, or else the one its start was trained on."""
    if step.data != "imagenet" or step.start is None:
        return step.data
    return step.start.data


def _cell(reader: _Reader, cell: Cell | None, place: str) -> dict[str, Any] | None:
    if cell is None:
        return None
    published = _published(cell.published)
    found: dict[str, Any] = {"published": published, "measured": None, "not_run": None, "note": cell.note}
    if isinstance(cell.step, Needs):
        return found | {"not_run": f"needs {cell.step.what}"}
    if cell.step is None:
        return found | {"not_run": cell.unmeasured}
    steps = [step for step in (cell.step, cell.minus) if step is not None]
    by_step = [reader.results(step, cell.metric) for step in steps]
    seeds = sorted(set.intersection(*map(set, by_step)))
    lost = next(filter(None, map(reader.lost, steps)), None)
    if not seeds:
        return found | {"not_run": lost or NOT_YET}
    first = by_step[0][seeds[0]]
    values = [results[0] - math.fsum(results[1:]) for results in ([r[s]["value"] for r in by_step] for s in seeds)]
    is_difference = cell.minus is not None
    measured = {
        **mean_interval(values).to_json(),
        "is_difference": is_difference,
        "values": values,
        "seeds": seeds,
        "n": first["n"],
        "split": first["split"],
        "protocol": first["protocol"],
        "runs": reader.behind(results[seed]["run"] for results in by_step for seed in seeds),
        "stand_in": _stand_in(reader, cell.step),
        "origin": "" if is_difference else reader.origins.of(cell.step, place=place),
    }
    return found | {"measured": measured, "not_run": lost}


def _published(found: Published | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found) | {"value": found.value, "is_confirmed": found.is_confirmed}


def _drawing(reader: _Reader, item: Drawing) -> dict[str, Any]:
    looks = reader.looks(item.look)
    reference, *others = (name for name, _ in item.look.subjects)
    base: dict[str, Any] = {
        "drawing": item.kind,
        "expected": {"text": item.expected, "tag": item.tag},
        "reference": reference,
        "subjects": [n for n in (item.shown or others)],
        "not_run": None if looks else reader.missing(item.look),
        "measured": None,
    }
    if not looks:
        return base
    shown = [reference, *base["subjects"]]
    every = [looked for looked, _ in looks.values()]
    arrays = {
        "cka": {name: _mean([looked.cka[name] for looked in every]) for name in shown},
        "distance": {name: _ranked_mean([looked.distance[name] for looked in every]) for name in shown},
        "entropy": {name: _ranked_mean([looked.entropy[name] for looked in every]) for name in shown},
        "spectrum": {name: _mean([looked.spectrum[name] for looked in every]) for name in shown},
    }
    wanted = {"similarity": ("cka",), "attention": ("distance", "entropy"), "spectrum": ("spectrum",)}[item.kind]
    return base | {
        "measured": {
            **{key: arrays[key] for key in wanted},
            "seeds": list(looks),
            "images": every[0].images,
            "runs": reader.behind(run for _, run in looks.values()),
        }
    }


def _mean(arrays: Sequence[np.ndarray]) -> list[Any]:
    """Mean over seeds, rounded."""
    return np.round(np.mean(arrays, axis=0), _DIGITS).tolist()


def _ranked_mean(arrays: Sequence[np.ndarray]) -> list[Any]:
    """Mean of [block, head] over seeds; heads are paired by rank within a block, since their indices mean nothing."""
    return _mean([np.sort(a, axis=1) for a in arrays])


def _unasked(claim: Claim) -> dict[str, Any]:
    return _head(claim) | {"answer": "not run", "why": UNASKED, "parts": [], "beside": []}


def _head(claim: Claim) -> dict[str, Any]:
    return {"number": claim.number, "statement": claim.statement, "source": claim.source}


def _claim(reader: _Reader, claim: Claim) -> dict[str, Any]:
    parts, beside = ([_part(reader, part) for part in some] for some in (claim.parts, claim.beside))
    missing = dict.fromkeys(filter(None, map(reader.lost, claim.steps())))
    answer = decide([p["answer"] for p in parts])
    found, planned = min(p["n_seeds"] for p in parts), len(reader.plan.scale.seeds)
    waiting = f"{found} of {plural(planned, 'seed')}" if found else NOT_YET
    why = "; ".join(missing) if missing else waiting if answer == "not run" else ""
    return _head(claim) | {"answer": answer, "why": why, "parts": parts, "beside": beside}


def _part(reader: _Reader, part: Part) -> dict[str, Any]:
    columns = [reader.values(measure) for _, measure in part.terms]
    seeds = sorted(set.intersection(*(set(c) for c in columns)))
    base = {"title": part.title, "unit": part.unit, "margin": part.margin, "n_seeds": len(seeds)}
    if not seeds:
        return base | {"answer": "not run", "mean": None, "low": None, "high": None, "values": [], "n": 0, "runs": []}
    values = [math.fsum(w * c[s][0] for (w, _), c in zip(part.terms, columns, strict=True)) for s in seeds]
    interval, is_whole = mean_interval(values), len(seeds) == len(reader.plan.scale.seeds)
    return base | {
        **interval.to_json(),
        "answer": decide_part(interval, margin=part.margin) if is_whole else "not run",
        "values": values,
        "n": min(c[s][2] for c in columns for s in seeds),
        "runs": reader.behind(c[s][1] for s in seeds for c in columns),
    }


def spent(document: Mapping[str, Any]) -> str:
    """CPU time of all finished runs, in words."""
    return duration(math.fsum(run["cpu_seconds"] for run in document["runs"]))
