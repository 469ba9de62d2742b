"""The contents of a report: the files of one run directory, all optional except the recipe."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vitlet.arrays import read_arrays
from vitlet.config import fingerprint
from vitlet.disk import read_object
from vitlet.environment import Environment
from vitlet.errors import CheckpointError
from vitlet.run import Run
from vitlet.text import printable, told_apart

_FIX = "delete the file"
"""What to do about damaged pictures, without which a page is complete."""


@dataclass(frozen=True)
class Reconstructions:
    """Images, their masked versions, and the model's reconstructions; all sRGB."""

    input: UInt8[np.ndarray, "n h w 3"]
    masked: UInt8[np.ndarray, "n h w 3"]
    reconstruction: UInt8[np.ndarray, "n h w 3"]
    caption: str
    statistics: str
    """Where brightness and contrast of a removed patch come from: `predicted` or `visible` patches."""


@dataclass(frozen=True)
class Detections:
    """Images on which a detector did best and worst, drawn once with ground truth and once with detections; sRGB."""

    truth: UInt8[np.ndarray, "n S S 3"]
    found: UInt8[np.ndarray, "n S S 3"]
    files: tuple[str, ...]
    f1: tuple[float, ...]
    """In descending order."""
    num_best: int
    """The number of best images, which come first; the rest are the worst."""
    num_judged: int
    split: str


@dataclass(frozen=True)
class Contents:
    """The files of one run, read."""

    name: str
    recipe: dict[str, Any]
    environment: Environment
    metrics: list[dict[str, Any]]
    results: list[dict[str, Any]]
    reconstructions: Reconstructions | None
    check: dict[str, Any] | None
    detections: Detections | None = None
    style: int = 0
    """Number of its colour and dashes in every figure of the page, see `canvas.swatch`."""
    key: str = ""
    """What the keys of figures call it."""

    @property
    def seed(self) -> int | None:
        """The seed in the recipe's budget."""
        return self.recipe.get("budget", {}).get("seed")

    @property
    def recipe_hash(self) -> str:
        """The recipe's fingerprint, as computed by `Recipe.fingerprint`."""
        return fingerprint(self.recipe)

    @property
    def probes(self) -> list[dict[str, Any]]:
        """The metric rows with measurements of the frozen features."""
        return [row for row in self.metrics if row.get("probe")]


def read(runs: Sequence[Run], comparison: Mapping[str, Any] | None = None) -> list[Contents]:
    """Read every run's files; runs of one name are distinguished by as much of their paths as needed.

    This is also where the runs of a page get their styles: those of an arm of the comparison share the arm's, and every
    other run has one of its own.

    Raises:
        CheckpointError: if an existing file is not what it should be.
    """
    names = told_apart([run.path.resolve().parts for run in runs])
    arms, styles = _arms(comparison), itertools.count(len(arm_styles(comparison)))
    looks = {name: arms[name] if name in arms else (next(styles), name) for name in names}
    return [_read(run, name, *looks[name]) for run, name in zip(runs, names, strict=True)]


def arm_styles(comparison: Mapping[str, Any] | None) -> dict[str, int]:
    """Map the name of each arm to a style, in order of appearance in the protocols."""
    protocols = comparison["protocols"] if comparison else ()
    names = dict.fromkeys(arm["name"] for protocol in protocols for arm in protocol["arms"])
    return {name: style for style, name in enumerate(names)}


def _arms(comparison: Mapping[str, Any] | None) -> dict[str, tuple[int, str]]:
    """Map the runs that the comparison names to the style and title of their arm."""
    styles = arm_styles(comparison)
    return {
        run: (styles[arm["name"]], arm["title"])
        for protocol in (comparison["protocols"] if comparison else ())
        for arm in protocol["arms"]
        for run in arm.get("runs", ())
    }


def find_comparison(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The `comparison.json` beside the runs, if it names every one of them; else None.

    A folder may hold runs on several data sets, of which a verdict holds for those that it came from.
    """
    paths = [run.path.resolve() for run in runs]
    folders = {path.parent for path in paths}
    if len(folders) != 1 or not (file := folders.pop() / "comparison.json").is_file():
        return None
    found = read_object(file)
    named = {*_arms(found), found.get("pretrained")}
    return found if named.issuperset(path.name for path in paths) else None


def _read(run: Run, name: str, style: int, key: str) -> Contents:
    check = run.path / "data_check.json"
    return Contents(
        name=name,
        recipe=read_object(run.recipe_file),
        environment=run.environment,
        metrics=run.metrics(),
        results=[read_object(path) for path in sorted(run.results.glob("[!.]*.json"))],  # .tmp-… is half a file
        reconstructions=_reconstructions(run.analysis),
        check=read_object(check) if check.is_file() else None,
        detections=_detections(run.analysis),
        style=style,
        key=key,
    )


def _detections(folder: Path) -> Detections | None:
    path = folder / "detections.npz"
    if not path.is_file():
        return None
    about = read_object(path.with_suffix(".json"))
    arrays = read_arrays(path, needed=("truth", "found"), fix=_FIX)
    truth, found = arrays["truth"], arrays["found"]
    try:
        files, f1 = (tuple(image[key] for image in about["images"]) for key in ("file", "f1"))
        assert truth.shape == found.shape == (len(files), truth.shape[1], truth.shape[1], 3), "shapes differ"
        return Detections(truth, found, files, f1, about["num_best"], about["num_judged"], about["split"])
    except (TypeError, IndexError, AssertionError) as error:
        raise CheckpointError(f"{printable(path)} does not fit its JSON file", why=str(error), fix=_FIX) from None


def _reconstructions(folder: Path) -> Reconstructions | None:
    path = folder / "reconstructions.npz"
    if not path.is_file():
        return None
    file = path.with_suffix(".json")
    about = read_object(file) if file.is_file() else {}
    names = ("input", "masked", "reconstruction")
    arrays = read_arrays(path, needed=names, fix=_FIX)
    images = {name: arrays[name] for name in names}
    shapes = {array.shape for array in images.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 4 or shape[3] != 3 or images["input"].dtype != np.uint8:
        raise CheckpointError(f"{printable(path)} does not hold three uint8 arrays of one shape [n, H, W, 3]", fix=_FIX)
    if shape[0] == 0:
        return None
    return Reconstructions(
        **images, caption=about.get("caption", ""), statistics=about.get("statistics", "not recorded")
    )
