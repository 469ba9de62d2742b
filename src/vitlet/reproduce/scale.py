"""Scales: what stands in for the paper's recipes, data and budgets.

A scale gives each role that the tables name a recipe, each data set images, and says how many seeds and how long. It
changes nothing else: rows, chains, claims and their rules are the same at every scale. Whatever a scale has nothing
for stays in its place with the reason.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vitlet.jobs.options import ProbeName

SEEDS = (0, 1, 2)
IMAGES = "--data"
"""In titles, the user's images; `ImageSet.called` puts their name there."""


@dataclass(frozen=True)
class Treatment:
    """What a role is at a scale: a recipe and changes of it."""

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    once: bool = False
    """One run, of seed 0, that all seeds share: a teacher."""


@dataclass(frozen=True)
class Chosen:
    """A role with a recipe for each set, whose setting is chosen on training images as `vitlet transfer` does."""

    recipes: Mapping[str, str]


@dataclass(frozen=True)
class Given:
    """In place of a training: weights that others published, which lie below --data."""

    file: str
    """A model folder as `vitlet import` writes it, or a file of timm's weights."""
    architecture: str = ""
    """timm's name for the file; "": the folder says it itself."""


@dataclass(frozen=True)
class ImageSet:
    """What a data set of the paper is at a scale."""

    title: str
    """What stands in its place, for the heads of the columns."""
    folder: str = ""
    """Below --data; or else a part of the images at --data is taken."""
    half: Literal["upstream", "downstream"] = "upstream"
    """Every second class in the order of their names, from the first on; or the others."""
    subset: str = ""
    """Of the training images, as `vitlet.data.choice` reads it; a list stands below --data."""
    label_share: float | None = None
    """Of the training labels of the smallest class, which as many of every class are fine-tuned on; None: all."""
    budget: Mapping[str, Any] = field(default_factory=dict)
    """Changes of a recipe that fine-tunes on this set: how long, in which batches."""
    public: str = ""
    """torchvision's name for it: where there is no folder it is looked for below --data, as by `vitlet transfer`."""

    def called(self, name: str) -> str:
        """The title, with the name of the user's images."""
        return self.title.replace(IMAGES, name)


@dataclass(frozen=True)
class Scale:
    """One way to run everything."""

    name: str
    about: str
    sets: Mapping[str, ImageSet | str]
    """By the names in the tables; a string says why there is none."""
    methods: Mapping[str, Treatment | Given | str]
    treatments: Mapping[str, Treatment | Chosen | str]
    probes: Mapping[str, tuple[ProbeName, Literal["mean", "class"]]]
    kept: tuple[int, ...]
    """Numbers of blocks, of twelve, that are kept in Figures 2 and 4."""
    seeds: tuple[int, ...] = SEEDS
    order: tuple[tuple[int, ...], ...] = ()
    """Claims in groups: all seeds of one before the next, so that what is stopped early has decided the first ones."""
    look_images: int = 1024
    is_tried: bool = True
    """Whether a few steps are tried to tell what all will cost; not where that costs as much as the runs."""

    def with_seeds(self, num: int) -> "Scale":
        """The same with `num` seeds."""
        return dataclasses.replace(self, seeds=tuple(range(num)))

    def within(self, factor: float) -> "Scale":
        """The same with every duration that counts images times `factor`."""

        def scaled(changes: Mapping[str, Any]) -> Mapping[str, Any]:
            length = changes.get("budget.duration")
            if not isinstance(length, Mapping) or length.get("unit") != "images":
                return changes
            return {**changes, "budget.duration": images(max(1, round(length["n"] * factor)))}

        def each(roles: Mapping[str, Any]) -> dict[str, Any]:
            return {
                k: dataclasses.replace(v, changes=scaled(v.changes)) if isinstance(v, Treatment) else v
                for k, v in roles.items()
            }

        sets = {
            k: v if isinstance(v, str) else dataclasses.replace(v, budget=scaled(v.budget))
            for k, v in self.sets.items()
        }
        return dataclasses.replace(self, sets=sets, methods=each(self.methods), treatments=each(self.treatments))


def images(n: int) -> dict[str, Any]:
    """A duration as a recipe writes it."""
    return {"unit": "images", "n": n}
