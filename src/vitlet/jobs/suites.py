"""Transfer suites: data sets, their recipes, and the settings to choose among. Does not import torch."""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypedDict, Unpack

from pydantic import Field

from vitlet.config import Config
from vitlet.data.names import TITLES, PublicData
from vitlet.errors import DataError, UsageError
from vitlet.jobs.options import require_known
from vitlet.recipe import Recipe
from vitlet.recipes import by_name
from vitlet.recipes.transfer import MICRO_GRID, PAPER_GRIDS, Grid
from vitlet.text import did_you_mean, printable

GRIDS = PAPER_GRIDS | {"transfer_micro": MICRO_GRID}


class Entry(Config):
    """One data set of a suite."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
    """Used in names of files and folders."""
    title: str = ""
    data: str
    """A folder, manifest, Parquet or `torchvision:NAME@ROOT`; paths are relative to the suite's file."""
    recipe: str | None = None
    """Fine-tuning recipe; None: the suite's."""
    grid: Grid | None = None
    """Settings to choose among; None: the suite's, else the grid of the recipe, else the recipe as it is."""


class Suite(Config):
    """Data sets to transfer to."""

    name: str = ""
    recipe: str = "transfer_micro"
    grid: Grid | None = None
    data: Annotated[tuple[Entry, ...], Field(min_length=1)]

    def recipe_of(self, entry: Entry) -> Recipe:
        """Return the recipe for this data set.

        Raises:
            UsageError: for an unknown recipe, or one that does not train a vision transformer on labels.
        """
        recipe = by_name(entry.recipe or self.recipe)
        if not recipe.objective.learns_labels or recipe.encoder.kind != "vit":
            raise UsageError(
                f"{recipe.name} is no recipe for a transfer",
                where=f"data set {entry.name}",
                why="A transfer fine-tunes a vision transformer on labels",
                fix='recipe = "transfer_micro", or another transfer_* or finetune_* of vitlet recipes',
            )
        return recipe

    def settings_of(self, entry: Entry) -> list[Recipe]:
        """Return the settings to try on this data set; a single one if there is no choice."""
        recipe = self.recipe_of(entry)
        return settings_of(recipe, entry.grid or self.grid)


def settings_of(recipe: Recipe, grid: Grid | None = None) -> list[Recipe]:
    """Return `recipe` in every setting of `grid`, else of its own grid, else as it is."""
    grid = grid or GRIDS.get(recipe.name)
    return grid.settings(recipe) if grid else [recipe]


def best_setting(tried: Sequence[tuple[Recipe, float | None]], *, of: str) -> Recipe:
    """Return the setting of highest accuracy, the first among equals. None stands for a training that diverged.

    Raises:
        DataError: if all of them diverged.
    """
    scored = [(recipe, value) for recipe, value in tried if value is not None]
    if not scored:
        raise DataError(f"every setting diverged on {of}", fix="a grid with lower learning rates")
    return max(scored, key=lambda pair: pair[1])[0]


_PAPER = {
    "flowers102": "transfer_flowers",
    "pets": "transfer_pets",
    "aircraft": "transfer_aircraft",
    "cars": "transfer_cars",
    "cifar100": "transfer_cifar100",
    "inat18": "transfer_inat18",
}


def paper_suite(root: Path) -> Suite:
    """Return the paper's six data sets, below the folder that torchvision's classes call `root`."""
    entries = tuple(
        Entry(name=name, title=TITLES[name], data=str(PublicData(name, root.absolute())), recipe=recipe)
        for name, recipe in _PAPER.items()
    )
    return Suite(name="paper", data=entries)


class Part(TypedDict, total=False):
    """Location of a suite and the part of it to use, with the names of the command-line options."""

    root: str | os.PathLike[str] | None
    """For `paper`: the folder in which torchvision keeps the data sets."""
    only: Sequence[str]
    """Names of the data sets to use; all if empty."""


def read_suite(suite: str | os.PathLike[str] | Suite, **part: Unpack[Part]) -> Suite:
    """Read a suite and select the requested data sets.

    Args:
        suite: `paper`, a TOML file, or a `Suite`.
        **part: `root` and `only`.

    Raises:
        UsageError: if it is none of these, or something in it is wrong.
    """
    require_known(part, Part)
    root, only = part.get("root"), part.get("only", ())
    if isinstance(suite, Suite):
        found = suite
    elif suite == "paper":
        if root is None:
            raise UsageError(
                "--suite paper without a root", why="The images must be on the disk", fix="--root FOLDER of torchvision"
            )
        found = paper_suite(Path(root))
    else:
        found = _from_toml(Path(suite))
    where = printable(found.name)
    names = [entry.name for entry in found.data]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise UsageError(
            f"two data sets called {', '.join(sorted(doubled))}", where=where, fix="give each a name of its own"
        )
    for name in only:
        if name not in names:
            raise UsageError(
                f"no data set {printable(name)!r} in the suite",
                why=did_you_mean(name, names),
                fix="--only NAME of the suite, or leave it out",
            )
    found = found.changed(data=[entry for entry in found.data if not only or entry.name in only])
    for entry in found.data:
        found.settings_of(entry)
        PublicData.parse(entry.data)
    return found


def _from_toml(file: Path) -> Suite:
    if file.suffix != ".toml" or not file.is_file():
        raise UsageError(f"no suite {printable(file)}", why="Known: paper", fix="--suite paper, or a .toml file")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(
            f"{printable(file)} is not TOML",
            why=printable(str(error)),
            fix="correct that place of the file",
        ) from None
    suite = Suite.from_json({"name": printable(file.stem), **values}, where=printable(file))
    return suite.changed(data=[entry.changed(data=_beside(file, entry.data)) for entry in suite.data])


def _beside(file: Path, data: str) -> str:
    named = PublicData.parse(data)
    if named:
        return str(PublicData(named.name, (file.parent / named.root).absolute()))
    return str((file.parent / Path(data).expanduser()).absolute())
