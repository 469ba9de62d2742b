"""From steps to runs: the recipe, images, labels and inputs of each run at a scale. Nothing is trained here."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np

from vitlet.data.choice import Subset
from vitlet.data.detection.annotations import annotations_of
from vitlet.data.index import Index, open_index
from vitlet.data.names import PublicData, absolute_data
from vitlet.errors import DataError
from vitlet.jobs.suites import settings_of
from vitlet.recipe import Recipe
from vitlet.recipes import by_name, with_overrides
from vitlet.replication.images import Counts, counts, in_half, labels_of, num_chosen
from vitlet.replication.plan import Kind, Node, Plan
from vitlet.replication.scale import Chosen, Given, ImageSet, Scale, Treatment
from vitlet.replication.steps import BLOCKS, Evaluate, Finetune, Look, Pretrain, Probe, Step, Untrained
from vitlet.run import address_of
from vitlet.text import plural, printable, slug
from vitlet.units import Epochs, to_steps
from vitlet.weights.content import file_content, folder_content


@dataclass(frozen=True)
class _Set:
    """A data set as found by the planner."""

    data: Path
    address: str
    counts: Counts
    node: str | None
    """Address of the node that writes it, if any."""
    subset: str | None = None
    """Subset of its training images, as passed to a job."""
    num_chosen: int = 0
    """Number of training images in the subset."""


_FORMS: Mapping[Kind, tuple[str, ...]] = {"look": ("patches",)}
"""Data that a kind of run has stored since a later version: older runs lack it and are made again."""
_Role = TypeVar("_Role", Treatment | Given, Treatment | Chosen)


class _AbsentError(Exception):
    """The reason why a step has no run."""


def make_plan(
    stages: Sequence[Sequence[Step]], scale: Scale, *, data: Path, out: Path, follow_outside: bool = False
) -> Plan:
    """Plan all runs behind the given steps.

    Args:
        stages: Steps by stage, each stage after the previous one; see `catalogue.Choice.stages`.
        scale: What stands in for recipes, data and budgets.
        data: The user's images; at the paper's scale, the folder with one folder per set.
        out: Folder of the runs; finished ones in it count.
        follow_outside: As `Options.follow_outside`.

    Raises:
        DataError: if the images cannot be read, or have too few classes.
        UsageError: if a scale's changes do not fit its recipe.
    """
    return _Planner(scale, data, Path(os.path.abspath(out)), follow_outside=follow_outside).plan(stages)


@final
class _Planner:
    """Resolves steps into nodes, each once."""

    def __init__(self, scale: Scale, data: Path, out: Path, *, follow_outside: bool) -> None:
        """`data` is opened when the first set is requested."""
        self.scale, self.data, self.out = scale, Path(absolute_data(data)), out
        self._follow_outside = follow_outside
        self.nodes: dict[str, Node] = {}
        self._sets: dict[str, _Set] = {}
        self._indices: dict[Path, Index] = {}

    def plan(self, stages: Sequence[Sequence[Step]]) -> Plan:
        """Go seed by seed within a stage, so that an interruption leaves complete chains."""
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
            case Evaluate():
                return self._evaluate(step, seed)
            case Probe():
                return self._probe(step, seed)
            case Look():
                return self._look(step, seed)

    def _pretrain(self, step: Pretrain, seed: int) -> Node:
        role = _there(self.scale.methods, step.method)
        if isinstance(role, Given):
            return self._weights(role, step.method)
        found = self._set(step.data)
        teacher = None if step.teacher is None else self._node(step.teacher, seed)
        seed = 0 if role.once else seed
        of_whole = {} if found.subset is None else {"budget.epoch_of": "whole"}
        recipe = _recipe(role, seed, of_whole, available=found.num_chosen)
        if step.data != "imagenet" and found.subset is None:
            recipe = _as_long_as_on(self._set("imagenet").counts.train, recipe)
        title = step.method
        if step.distil:
            depth = recipe.encoder.depth
            blocks = sorted({_of_depth(b, depth) for b in step.distil})
            recipe = with_overrides(recipe, {"objective.layers": [[b, b] for b in blocks]})
            title += " of block " + ", ".join(map(str, blocks)) if len(blocks) < depth else " of all blocks"
        if step.data != "imagenet":
            title += f" on {step.data}"
        return self._add(
            "pretrain", title, seed, found,
            recipe=recipe.to_json(), teacher=None if teacher is None else teacher.folder,
            subset=found.subset, needed=[teacher], train_images=found.counts.train,
        )  # fmt: skip

    def _weights(self, given: Given, title: str) -> Node:
        place = self.data / given.file
        if not place.exists():
            raise _AbsentError(f"needs {printable(place)}, which is not there")
        address = _hashed(["weights", given.architecture, _content(place)])
        word = f"timm:{given.architecture}@{place}" if given.architecture else place
        return self.nodes.setdefault(address, Node(address, "weights", title, 0, Path(word)))

    def _finetune(self, step: Finetune, seed: int) -> Node:
        role = _there(self.scale.treatments, step.treatment)
        found, asked = self._set(step.data), self.scale.sets[step.data]
        assert isinstance(asked, ImageSet)
        num_labels = None if asked.label_share is None else labels_of(found.counts, asked.label_share)
        keep = None if step.keep in (None, BLOCKS) else step.keep
        if keep and keep not in self.scale.kept:
            raise _AbsentError(f"this scale keeps {', '.join(map(str, self.scale.kept))} of 12")
        start = None if step.start is None else self._node(step.start, seed)
        teacher = None if step.teacher is None else self._node(step.teacher, seed)
        needed = [start] if teacher is None else [start, teacher]
        kept = None if start is None or keep is None else _of_depth(keep, start.recipe["encoder"]["depth"])
        what: dict[str, Any] = dict(
            start=None if start is None else start.folder, teacher=None if teacher is None else teacher.folder,
            num_labels=num_labels, keep_blocks=kept, train_images=found.counts.train, test_images=found.counts.test,
        )  # fmt: skip
        available = num_labels or found.counts.train
        title = _tuning(step, start, kept, plural(available, "image" if step.treatment == "detection" else "label"))
        settings = (
            [_recipe(role, seed, asked.budget, available=available)]
            if isinstance(role, Treatment)
            else settings_of(_recipe(Treatment(role.recipes[step.data]), seed, available=available))
        )
        tried = [
            self._add("finetune", f"setting {number} of {title}", seed, found, recipe=setting.to_json(), needed=needed,
                      hold_out=True, **what)
            for number, setting in enumerate(settings if len(settings) > 1 else (), 1)
        ]  # fmt: skip
        return self._add(
            "finetune", title, seed, found, recipe=settings[-1].to_json(), needed=[*needed, *tried],
            settings=tuple(node.folder for node in tried), **what,
        )  # fmt: skip

    def _evaluate(self, step: Evaluate, seed: int) -> Node:
        found, start = self._set(step.data), self._node(step.start, seed)
        return self._add(
            "evaluate", f"{step.labels} labels for {start.title}", seed, found, start=start.folder, labels=step.labels,
            needed=[start], test_images=found.counts.test,
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
        nodes = [self._node(x.of if isinstance(x, Untrained) else x, seed) for _, x in step.subjects]
        subjects = tuple((name, node.folder) for (name, _), node in zip(step.subjects, nodes, strict=True))
        untrained = tuple(i for i, (_, start) in enumerate(step.subjects) if isinstance(start, Untrained))
        return self._add(
            "look", f"look at {', '.join(name for name, _ in step.subjects)}", seed, found,
            subjects=subjects, untrained=untrained, needed=nodes, look_images=self.scale.look_images,
            test_images=found.counts.test,
        )  # fmt: skip

    def _set(self, name: str) -> _Set:
        if name not in self._sets:
            asked = self.scale.sets[name]
            if isinstance(asked, str):
                raise _AbsentError(asked)
            self._sets[name] = self._published(asked) if asked.folder else self._half(asked)
        return self._sets[name]

    def _published(self, asked: ImageSet) -> _Set:
        folder, subset = self.data / asked.folder, self.data / asked.subset
        if asked.public and not folder.exists():
            folder = Path(str(PublicData(asked.public, self.data)))
        elif not folder.exists():
            raise _AbsentError(f"needs {printable(folder)}, which is not there")
        if not subset.exists():
            raise _AbsentError(f"needs {printable(subset)}, which is not there")
        try:
            index = self._open(folder)
            index.require_every_class()
        except DataError as error:
            raise _AbsentError(f"needs {asked.title} ({error.what})") from None
        sizes = counts(index, labelled=annotations_of(index) is None)  # boxes are labels enough
        found = _Set(folder, index.fingerprint, sizes, None)
        return self._chosen(found, str(subset) if asked.subset else "", np.asarray(index.labels))

    def _half(self, asked: ImageSet) -> _Set:
        index = self._open(self.data)
        half = in_half(index, asked.half)
        address = _hashed(["images", index.fingerprint, asked.half])
        folder = self.out / "data" / f"{asked.half}-{address}"
        size = int(index.sizes[half].sum())
        node = Node(
            address, "images", asked.half, 0, folder, data=self.data, half=asked.half, image_bytes=size
        )  # fmt: skip
        self.nodes.setdefault(address, node)
        found = _Set(folder, address, counts(index, half), address)
        return self._chosen(found, asked.subset, np.asarray(index.labels[index.rows("train", half)]))

    def _open(self, data: Path) -> Index:
        if data not in self._indices:
            self._indices[data] = open_index(data, follow_outside=self._follow_outside)
        return self._indices[data]

    def _chosen(self, found: _Set, subset: str, labels: np.ndarray) -> _Set:
        """Apply the subset, if there is one."""
        if not subset:
            return dataclasses.replace(found, num_chosen=found.counts.train)
        try:
            return dataclasses.replace(found, subset=subset, num_chosen=num_chosen(found.counts, labels, subset))
        except DataError as error:
            raise _AbsentError(f"needs more images ({error.what})") from None

    def _add(self, kind: Kind, title: str, seed: int, found: _Set, *, needed: Sequence[Node | None], **what: Any
             ) -> Node:  # fmt: skip
        """Return the node for these values, creating it at most once."""
        inputs = tuple(node.address for node in needed if node is not None)
        decides = {
            "recipe": what.get("recipe"),
            "subset": _digest(found.subset),
            "places": ["" if node is None else node.address for node in needed],
            **{k: what.get(k) for k in ("num_labels", "keep_blocks", "protocol", "pool", "look_images")},
            **{k: what[k] for k in ("hold_out", "labels", "untrained") if what.get(k)},
        }
        address = _hashed([kind, found.address, seed, decides, *_FORMS.get(kind, ())])
        if address not in self.nodes:
            folder = self.out / "runs" / f"{slug(title)[:60]}-s{seed}-{address}"
            inputs += () if found.node is None else (found.node,)
            self.nodes[address] = Node(address, kind, title, seed, folder, inputs, data=found.data, **what)
        return self.nodes[address]


def _of_depth(twelfths: int, depth: int) -> int:
    """Convert twelfths to blocks of an encoder of `depth`; at least one, unless none is requested."""
    return max(min(1, twelfths), round(twelfths * depth / BLOCKS))


def _tuning(step: Finetune, start: Node | None, kept: int | None, labels: str) -> str:
    title = "from scratch" if start is None else f"fine-tuned from {_origin(start)}"
    if kept is not None:
        title += f", {plural(kept, 'block')} kept"
    if step.data != "imagenet":
        title += f" on {step.data}"
    return f"{'detector, ' if step.treatment == 'detection' else ''}{title}, {labels}"


def _origin(start: Node) -> str:
    return "the supervised model" if start.kind == "finetune" else start.title


def _there(roles: Mapping[str, _Role | str], name: str) -> _Role:
    found = roles[name]
    if isinstance(found, str):
        raise _AbsentError(found)
    return found


def _content(weights: Path) -> str:
    """Hash of a file, or of a model folder including head count and pixel statistics, which no tensor shows."""
    return folder_content(weights) if weights.is_dir() else file_content(weights)


def _recipe(role: Treatment, seed: int, more: Mapping[str, Any] | None = None, *, available: int) -> Recipe:
    """The role's recipe; the batch is limited to the available images, and even if samples are mixed in pairs."""
    recipe = with_overrides(by_name(role.recipe), {**role.changes, **(more or {}), "budget.seed": seed})
    if available < 2:
        raise DataError("fewer than two images to train on", fix="give more images")
    if recipe.budget.batch_size > available:
        odd = available % 2 if recipe.objective.pairs_samples else 0
        recipe = with_overrides(recipe, {"budget.batch_size": available - odd})
    return recipe


def _as_long_as_on(num_images: int, recipe: Recipe) -> Recipe:
    """The recipe with its spans in epochs of `num_images`, so that every set of Table 3 gets as many steps."""
    spans = {
        "budget.duration": recipe.budget.duration,
        "budget.checkpoint_every": recipe.budget.checkpoint_every,
        "budget.probe_every": recipe.budget.probe_every,
        "optimizer.warmup": recipe.optimizer.warmup,
    }
    size = {"num_images": num_images, "batch_size": recipe.budget.batch_size}
    steps = {key: to_steps(span, **size) for key, span in spans.items() if isinstance(span, Epochs)}
    return with_overrides(recipe, {key: {"unit": "steps", "n": n} for key, n in steps.items()})


def _digest(subset: str | None) -> str:
    """Identify a subset without the path of its list."""
    if subset is None:
        return ""
    parsed = Subset.parse(subset)
    return parsed.digest or str(parsed)


def _hashed(values: Any) -> str:
    return address_of(values)[:12]
