"""The plan: which runs the tables need at a scale, each once, in an order in which they can be made.

A node is one run with one seed. Its address is a hash of all that decides its numbers: the recipe's fingerprint, the
images, the number of labels, and the addresses of what it starts from. Two tables that need the same run have the same
node, and a folder `runs/…-ADDRESS` that is finished is the run, whoever made it and when. Nothing here trains.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from vitlet.data.choice import Subset
from vitlet.data.index import SPLITS, Index, open_index
from vitlet.data.names import absolute_data
from vitlet.errors import DataError
from vitlet.jobs.options import ProbeName
from vitlet.recipe import Recipe
from vitlet.recipes import by_name, from_json, with_overrides
from vitlet.reproduce.images import Counts, Half, counts, labels_of, num_chosen, rows_of
from vitlet.reproduce.scale import ImageSet, Scale, Treatment
from vitlet.reproduce.steps import BLOCKS, Finetune, Look, Pretrain, Probe, Step
from vitlet.text import plural, printable
from vitlet.units import to_steps

Kind = Literal["images", "pretrain", "finetune", "probe", "look"]
NODE_FILE = "node.json"


@dataclass(frozen=True)
class Node:
    """One run."""

    address: str
    kind: Kind
    title: str
    seed: int
    folder: Path
    inputs: tuple[str, ...] = ()
    """Addresses of what must be finished before."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Plain values; a teacher's place is empty, since the teacher is an input."""
    data: Path = Path()
    start: Path | None = None
    teacher: Path | None = None
    num_labels: int | None = None
    keep_blocks: int | None = None
    subset: str | None = None
    half: Half | None = None
    protocol: ProbeName = "logistic"
    pool: Literal["mean", "class"] = "mean"
    subjects: tuple[tuple[str, Path | None], ...] = ()
    look_images: int = 0
    train_images: int = 0
    test_images: int = 0
    image_bytes: int = 0
    """Of a half that is written."""

    @property
    def is_finished(self) -> bool:
        """Whether the run stands in its folder, whole."""
        return (self.folder / NODE_FILE).is_file()

    @property
    def images_seen(self) -> int:
        """Training images, counted with repetition; 0 where nothing is trained."""
        if self.kind not in ("pretrain", "finetune"):
            return 0
        recipe = recipe_of(self)
        batch = recipe.budget.batch_size
        available = self.num_labels if self.num_labels is not None else self.train_images
        return batch * to_steps(recipe.budget.duration, num_images=max(available, batch), batch_size=batch)


def recipe_of(node: Node) -> Recipe:
    """The node's recipe as a value."""
    return from_json(node.recipe)


@dataclass(frozen=True)
class Plan:
    """Runs, and which of them answers which step."""

    scale: Scale
    out: Path
    nodes: Mapping[str, Node]
    """By address; inputs stand before what needs them."""
    answers: Mapping[tuple[Step, int], str]
    """(step, seed) → address."""
    absent: Mapping[Step, str]
    """Steps that cannot be run at this scale, and why."""

    def node(self, step: Step, seed: int) -> Node | None:
        """What measures `step` with this seed, if anything does."""
        address = self.answers.get((step, seed))
        return None if address is None else self.nodes[address]

    @property
    def waiting(self) -> list[Node]:
        """Runs that are not finished, in order."""
        return [node for node in self.nodes.values() if not node.is_finished]


@dataclass(frozen=True)
class _Set:
    """A data set as the planner found it."""

    data: Path
    address: str
    counts: Counts
    node: str | None
    """Address of the node that writes it."""
    subset: str | None = None
    """Of its training images, as a job takes it."""
    num_chosen: int = 0
    """Training images with the subset taken."""


class _AbsentError(Exception):
    """Why a step has no run."""


def make_plan(stages: Sequence[Sequence[Step]], scale: Scale, *, data: Path, out: Path) -> Plan:
    """All runs behind some steps.

    Args:
        stages: Steps, those of a stage after all of the one before; see `catalogue.Choice.stages`.
        scale: What stands in for recipes, data and budgets.
        data: The user's images, or at the paper's scale the folder with one folder a set.
        out: Where runs go; finished ones in it count.

    Raises:
        DataError: if the images cannot be read, or have too few classes.
        UsageError: if a scale's changes do not fit its recipe.
    """
    return _Planner(scale, data, Path(os.path.abspath(out))).plan(stages)


@final
class _Planner:
    """Resolves steps into nodes, each once."""

    def __init__(self, scale: Scale, data: Path, out: Path) -> None:
        """`data` is opened when the first set is asked for."""
        self.scale, self.data, self.out = scale, Path(absolute_data(data)), out
        self.nodes: dict[str, Node] = {}
        self._sets: dict[str, _Set] = {}
        self._indices: dict[Path, Index] = {}

    def plan(self, stages: Sequence[Sequence[Step]]) -> Plan:
        """Seed by seed within a stage, so that what is cut short leaves whole chains."""
        answers: dict[tuple[Step, int], str] = {}
        absent: dict[Step, str] = {}
        for step, seed in ((step, seed) for steps in stages for seed in self.scale.seeds for step in steps):
            try:
                answers[step, seed] = self._node(step, seed).address
            except _AbsentError as why:
                absent[step] = str(why)
        return Plan(self.scale, self.out, self.nodes, answers, absent)

    def _node(self, step: Step, seed: int) -> Node:
        match step:
            case Pretrain():
                return self._pretrain(step, seed)
            case Finetune():
                return self._finetune(step, seed)
            case Probe():
                return self._probe(step, seed)
            case Look():
                return self._look(step, seed)

    def _pretrain(self, step: Pretrain, seed: int) -> Node:
        role = _there(self.scale.methods, step.method)
        found = self._set(step.data)
        teacher = None if step.teacher is None else self._node(step.teacher, seed)
        seed = 0 if role.once else seed
        of_whole = {} if found.subset is None else {"budget.epoch_of": "whole"}
        recipe = _recipe(role, seed, of_whole, available=found.num_chosen)
        title = step.method
        if step.distil:
            depth = recipe.encoder.depth
            blocks = sorted({max(1, round(b * depth / BLOCKS)) for b in step.distil})
            recipe = with_overrides(recipe, {"objective.layers": [[b, b] for b in blocks]})
            title += " of block " + ", ".join(map(str, blocks)) if len(blocks) < depth else " of all blocks"
        if step.data != "imagenet":
            title += f" on {step.data}"
        return self._add(
            "pretrain", title, seed, found,
            recipe=recipe.to_json(), teacher=None if teacher is None else teacher.folder,
            subset=found.subset, needed=[teacher], train_images=found.counts.train,
        )  # fmt: skip

    def _finetune(self, step: Finetune, seed: int) -> Node:
        role = _there(self.scale.treatments, step.treatment)
        found, asked = self._set(step.data), self.scale.sets[step.data]
        assert isinstance(asked, ImageSet)
        num_labels = None if asked.label_share is None else labels_of(found.counts, asked.label_share)
        recipe = _recipe(role, seed, asked.budget, available=num_labels or found.counts.train)
        keep = None if step.keep in (None, BLOCKS) else step.keep
        if keep and keep not in self.scale.kept:
            raise _AbsentError(f"not part of this scale, which keeps {', '.join(map(str, self.scale.kept))} of 12")
        from_nothing = step.start is None or keep == 0
        start = None if from_nothing or step.start is None else self._node(step.start, seed)
        kept = None
        title = "from scratch" if start is None else f"fine-tuned from {_origin(start)}"
        if start is not None and keep is not None:
            kept = max(1, round(keep * start.recipe["encoder"]["depth"] / BLOCKS))
            title += f", {plural(kept, 'block')} kept"
        if step.data != "imagenet":
            title += f" on {step.data}"
        return self._add(
            "finetune", f"{title}, {plural(num_labels or found.counts.train, 'label')}", seed, found,
            recipe=recipe.to_json(), start=None if start is None else start.folder, num_labels=num_labels,
            keep_blocks=kept, needed=[start], train_images=found.counts.train, test_images=found.counts.test,
        )  # fmt: skip

    def _probe(self, step: Probe, seed: int) -> Node:
        protocol, pool = self.scale.probes[step.protocol]
        found, start = self._set(step.data), self._node(step.start, seed)
        return self._add(
            "probe", f"{protocol} probe of {_origin(start)}", seed, found,
            start=start.folder, protocol=protocol, pool=pool, needed=[start],
            train_images=found.counts.train, test_images=found.counts.test,
        )  # fmt: skip

    def _look(self, step: Look, seed: int) -> Node:
        found = self._set(step.data)
        nodes = [None if start is None else self._node(start, seed) for _, start in step.subjects]
        subjects = tuple(
            (name, None if node is None else node.folder) for (name, _), node in zip(step.subjects, nodes, strict=True)
        )
        return self._add(
            "look", f"look at {', '.join(name for name, _ in step.subjects)}", seed, found,
            subjects=subjects, needed=nodes, look_images=self.scale.look_images, test_images=found.counts.test,
        )  # fmt: skip

    def _set(self, name: str) -> _Set:
        if name not in self._sets:
            asked = self.scale.sets[name]
            if isinstance(asked, str):
                raise _AbsentError(asked)
            self._sets[name] = self._published(asked) if asked.folder else self._half(asked)
        return self._sets[name]

    def _published(self, asked: ImageSet) -> _Set:
        folder = self.data / asked.folder
        subset = self.data / asked.subset
        for needed in (folder, *([subset] if asked.subset else [])):
            if not needed.exists():
                raise _AbsentError(f"needs: {printable(needed)}, which is not there")
        index = self._open(folder)
        found = _Set(folder, index.fingerprint, counts(index), None)
        return self._chosen(found, str(subset) if asked.subset else "", np.asarray(index.labels))

    def _half(self, asked: ImageSet) -> _Set:
        index = self._open(self.data)
        rows = rows_of(index, asked.half)
        address = _hashed(["images", index.fingerprint, asked.half])
        folder = self.out / "data" / f"{asked.half}-{address}"
        size = int(index.sizes[rows].sum())
        node = Node(
            address, "images", asked.half, 0, folder, data=self.data, half=asked.half, image_bytes=size
        )  # fmt: skip
        self.nodes.setdefault(address, node)
        train = rows[np.asarray(index.splits[rows]) == SPLITS.index("train")]
        found = _Set(folder, address, counts(index, rows), address)
        return self._chosen(found, asked.subset, np.asarray(index.labels[train]))

    def _open(self, data: Path) -> Index:
        if data not in self._indices:
            self._indices[data] = open_index(data)
        return self._indices[data]

    def _chosen(self, found: _Set, subset: str, labels: np.ndarray) -> _Set:
        """With the subset taken, if there is one."""
        if not subset:
            return dataclasses.replace(found, num_chosen=found.counts.train)
        try:
            return dataclasses.replace(found, subset=subset, num_chosen=num_chosen(found.counts, labels, subset))
        except DataError as error:
            raise _AbsentError(f"needs: more images ({error.what})") from None

    def _add(self, kind: Kind, title: str, seed: int, found: _Set, *, needed: Sequence[Node | None], **what: Any
             ) -> Node:  # fmt: skip
        """The node of these values, made once."""
        inputs = tuple(node.address for node in needed if node is not None)
        decides = {
            "recipe": what.get("recipe"),
            "subset": _digest(found.subset),
            "places": ["" if node is None else node.address for node in needed],
            **{k: what.get(k) for k in ("num_labels", "keep_blocks", "protocol", "pool", "look_images")},
        }
        address = _hashed([kind, found.address, seed, decides])
        if address not in self.nodes:
            folder = self.out / "runs" / f"{_slug(title)}-s{seed}-{address}"
            inputs += () if found.node is None else (found.node,)
            self.nodes[address] = Node(address, kind, title, seed, folder, inputs, data=found.data, **what)
        return self.nodes[address]


def _origin(start: Node) -> str:
    return "the supervised model" if start.kind == "finetune" else start.title


def _there(roles: Mapping[str, Treatment | str], name: str) -> Treatment:
    found = roles.get(name, "not part of this scale")
    if isinstance(found, str):
        raise _AbsentError(found)
    return found


def _recipe(role: Treatment, seed: int, more: Mapping[str, Any] | None = None, *, available: int) -> Recipe:
    """The role's recipe; a batch is never larger than the images there are."""
    recipe = with_overrides(by_name(role.recipe), {**role.changes, **(more or {}), "budget.seed": seed})
    if available < 2:
        raise DataError("fewer than two images to train on", fix="give more images")
    if recipe.budget.batch_size > available:
        recipe = with_overrides(recipe, {"budget.batch_size": available})
    return recipe


def _digest(subset: str | None) -> str:
    """A subset without the path of its list."""
    if subset is None:
        return ""
    parsed = Subset.parse(subset)
    return parsed.digest or str(parsed)


def _hashed(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]
