"""The page about what encoders have learned, layer by layer; its figures are also saved as separate files.

Everything is drawn from `analysis/*.{json,npz}`; no model is loaded. The page keeps the guarantees of
`vitlet.reports.page`: one file, no script, no network, and outside text only through the template's escaping.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vitlet.arrays import read_arrays
from vitlet.disk import read_json, write_file
from vitlet.reports.analysis_plots import (
    Arrays,
    attention_plots,
    layer_plots,
    pictures,
    similarity_plots,
    spectrum_plots,
    weight_plots,
)
from vitlet.reports.elements import Plot, standalone, template
from vitlet.reports.numbers import duration


@dataclass(frozen=True)
class Section:
    """A part of the page: a grid of figures, with a note on how to read them."""

    key: str
    title: str
    note: str
    plots: tuple[Plot, ...]


_SECTIONS: tuple[tuple[str, str, str, Callable[[Mapping[str, Any], Arrays], list[Plot]]], ...] = (
    (
        "similarity",
        "Similarity of layers",
        "Linear CKA: 0, nothing in common; 1, the same up to rotation and scale. Layers count from the embedding, "
        "layer 0, to the final norm.",
        similarity_plots,
    ),
    (
        "attention",
        "Where heads look",
        "Dots are heads, averaged over images and patches. Without the class token. Low distance: near by. "
        "Low entropy: at few places.",
        attention_plots,
    ),
    (
        "spectrum",
        "Fine structure",
        "Fourier amplitude of the patch map, highest minus lowest frequency on the diagonal: the lower, the more a "
        "layer smooths.",
        spectrum_plots,
    ),
    (
        "layers",
        "Layer by layer",
        "Of the mean of the patch tokens at the embedding (layer 0) and after each block.",
        layer_plots,
    ),
)


def write_analysis_page(folder: Path) -> Path:
    """Write `report.html` and `figures/*.svg` in `folder` from the files of `folder/analysis`.

    Returns:
        The page.

    Raises:
        CheckpointError: if a file is missing or damaged.
        ResourceError: if the page cannot be written.
    """
    source = folder / "analysis"
    about = read_json(source / "about.json")
    sections = []
    for key, title, note, draw in _SECTIONS:
        plots = draw(*_measured(source, key))
        sections.append(Section(key, title, note, tuple(plots)))
    moved = weight_plots(read_json(source / "weights.json"))
    if moved:
        note = "Distance of the weights, relative to what they were."
        sections.append(Section("weights", "What training moved", note, tuple(moved)))
    page = template("analysis.html.j2").render(
        about=about,
        names=[model["name"] for model in about["models"]],
        suggestions=read_json(source / "diagnosis.json")["suggestions"],
        sections=sections,
        pictures=pictures(*_measured(source, "pictures")),
        facts=_facts(about),
    )
    write_file(folder / "report.html", page.encode())
    for name, drawing in _drawings(sections):
        write_file(folder / "figures" / f"{name}.svg", standalone(drawing).encode())
    return folder / "report.html"


def _measured(folder: Path, name: str) -> tuple[dict[str, Any], Arrays]:
    arrays = read_arrays(folder / f"{name}.npz", fix="give the vitlet analyse command again")
    return read_json(folder / f"{name}.json"), arrays


def _drawings(sections: list[Section]) -> Iterator[tuple[str, Markup]]:
    for section in sections:
        for number, plot in enumerate(section.plots, 1):
            yield f"{section.key}-{number}", plot.drawings[0]


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = about["environment"]
    quirks = "published quirks: folder order, pitch 14, 10⁻⁶ in the entropy" if about["published_quirks"] else ""
    return [
        ("data", about["data"]["name"]),
        ("split", about["split"]),
        ("images", f"{about['images']:,} in batches of {about['batch_size']:,}"),
        ("sample", quirks or f"class by class, seed {about['seed']}"),
        *((f"weights of {model['name']}", model["source"]) for model in about["models"]),
        ("time", duration(about["wall_seconds"])),
        ("machine", f"{machine['processor']}, {machine['cores']} cores"),
        ("software", ", ".join(f"{name} {version}" for name, version in machine["packages"].items())),
    ]
