"""The detection section: COCO's metrics, the classes, and the best and worst images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitlet.reports import figures
from vitlet.reports.contents import Contents, Detections
from vitlet.reports.elements import Picture, Pictures, Table

_SIDE, _IN_A_ROW = 256, 2
_KINDS = {"bbox_ap": "boxes", "segm_ap": "masks"}
_NONE = "–"


@dataclass(frozen=True)
class Objects:
    """One run's numbers and pictures."""

    run: str
    numbers: Table
    classes: Table | None
    pictures: tuple[Pictures, ...]
    """The best and worst images; may be empty."""


def objects(runs: Sequence[Contents]) -> tuple[Objects, ...]:
    """A part for every run with detection scores."""
    parts = []
    for run in runs:
        scored = {_KINDS[r["metric"]]: r for r in run.results if r["metric"] in _KINDS}
        if scored:
            pictures = () if run.detections is None else _galleries(run.name, run.detections)
            parts.append(Objects(run.name, _numbers(scored), _classes(scored), pictures))
    return tuple(parts)


def _numbers(scored: dict[str, dict[str, Any]]) -> Table:
    first = next(iter(scored.values()))
    names = tuple(first["details"]["numbers"])
    rows = tuple((kind, *(_points(r["details"]["numbers"].get(n)) for n in names)) for kind, r in scored.items())
    caption = f"COCO's twelve numbers on {first['n']:,} images ({first['split']})"
    return Table(caption, ("overlap of", *names), rows, numeric=range(1, len(names) + 1))


def _classes(scored: dict[str, dict[str, Any]]) -> Table | None:
    """Classes by box AP, highest first, leaving out those without an object."""
    first = next(iter(scored.values()))["details"]["per_class"]
    names = sorted((n for n, ap in first.items() if ap is not None), key=lambda n: (-first[n], n))
    rows = tuple((name, *(_points(r["details"]["per_class"].get(name)) for r in scored.values())) for name in names)
    numeric = range(1, len(scored) + 1)
    return Table("AP of each class", ("class", *scored), rows, numeric) if rows else None


def _points(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.1f}"


def _galleries(run: str, images: Detections) -> tuple[Pictures, ...]:
    parts = {"best": range(images.num_best), "worst": range(images.num_best, len(images.f1))}
    return tuple(_gallery(run, images, which, list(places)) for which, places in parts.items() if places)


def _gallery(run: str, images: Detections, which: str, places: list[int]) -> Pictures:
    sets = []
    for first in range(0, len(places), _IN_A_ROW):
        here = places[first : first + _IN_A_ROW]
        names = ", ".join(f"{images.files[i]} (F1 {images.f1[i]:.2f})" for i in here)
        rows = (("annotated", images.truth, "with the objects that are there"), ("found", images.found, "as detected"))
        sets.append(
            tuple(
                Picture(
                    f"{label}: {names}" if label == "annotated" else label, f"{names}, {words}",
                    figures.image_row(drawn[here], side=_SIDE),
                )
                for label, drawn, words in rows
            )
        )  # fmt: skip
    caption = (
        f"The {len(places)} {which} of {images.num_judged:,} images with objects ({images.split}), by F1: what was "
        "found with a certainty of ½ or more is right if it overlaps an object of its class by half. Numbers behind "
        "the names are certainties in percent."
    )
    return Pictures(run, caption, False, tuple(sets))
