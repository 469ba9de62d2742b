"""Scales: what stands in for the paper's recipes, data and budgets.

A scale assigns a recipe to each role that the tables name and images to each data set, and sets the number of seeds
and the durations. It changes nothing else: rows, chains, claims and their rules are the same at every scale. Whatever
a scale cannot provide is listed with the reason.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vitlet.choices import Pool, ProbeName

SEEDS = (0, 1, 2)
IMAGES = "--data"
"""Placeholder in titles for the user's images; `ImageSet.called` replaces it by their name."""


@dataclass(frozen=True)
class Treatment:
    """A role at a scale: a recipe and changes to it."""

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    once: bool = False
    """One run, with seed 0, shared by all seeds: a teacher."""


@dataclass(frozen=True)
class Chosen:
    """A role with a recipe for each set, whose setting is chosen on training images as in `vitlet transfer`."""

    recipes: Mapping[str, str]


@dataclass(frozen=True)
class Given:
    """Published weights of others that replace a training; they lie below --data."""

    file: str
    """A model folder as written by `vitlet import`, or a file of timm weights."""
    architecture: str = ""
    """timm's name for the file; "": the folder names it."""


@dataclass(frozen=True)
class ImageSet:
    """A data set of the paper at a scale."""

    title: str
    """What stands in for it, for column headings."""
    folder: str = ""
    """Folder below --data; without it, a part of the images at --data is taken."""
    half: Literal["upstream", "downstream"] = "upstream"
    """Every second class in name order, starting with the first; or the others."""
    subset: str = ""
    """Subset of the training images, as parsed by `vitlet.data.choice`; a list lies below --data."""
    label_share: float | None = None
    """Share of the smallest class's training labels; as many of every class are used for fine-tuning. None: all."""
    budget: Mapping[str, Any] = field(default_factory=dict)
    """Changes to recipes that fine-tune on this set: duration and batch size."""
    public: str = ""
    """torchvision's name for it; without the folder, it is looked for below --data as by `vitlet transfer`."""

    def called(self, name: str) -> str:
        """The title, with the name of the user's images."""
        return self.title.replace(IMAGES, name)


@dataclass(frozen=True)
class Scale:
    """One way to run everything."""

    name: str
    about: str
    sets: Mapping[str, ImageSet | str]
    """By the names in the tables; a string gives the reason why there is none."""
    methods: Mapping[str, Treatment | Given | str]
    treatments: Mapping[str, Treatment | Chosen | str]
    probes: Mapping[str, tuple[ProbeName, Pool]]
    kept: tuple[int, ...]
    """Numbers of blocks, of twelve, kept in Figures 2 and 4."""
    seeds: tuple[int, ...] = SEEDS
    order: tuple[tuple[int, ...], ...] = ()
    """Groups of claims: all seeds of one before the next, so that an early stop has decided the first ones."""
    look_images: int = 1024
    is_tried: bool = True
    """Whether to try a few steps to estimate the cost; not if that costs as much as the runs."""

    def with_seeds(self, num: int) -> "Scale":
        """Return a copy with `num` seeds."""
        return dataclasses.replace(self, seeds=tuple(range(num)))

    def within(self, factor: float) -> "Scale":
        """Return a copy with every duration in images multiplied by `factor`."""

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
    """A duration in images, as written in a recipe."""
    return {"unit": "images", "n": n}
