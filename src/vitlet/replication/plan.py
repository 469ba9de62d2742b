"""The plan: which runs the tables need at a scale, each once, in an executable order.

A node is one run with one seed. Its address is a hash of everything that determines its numbers: the recipe's
fingerprint, the images, the number of labels, and the addresses of what it starts from. Two tables that need the same
run share the node, and a finished folder `runs/…-ADDRESS` is the run, whoever made it and whenever.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitlet.choices import EvaluationName, Pool, ProbeName
from vitlet.disk import read_json
from vitlet.errors import NonFiniteError
from vitlet.recipe import Recipe
from vitlet.recipes import from_json
from vitlet.replication.images import Half
from vitlet.replication.scale import Scale
from vitlet.replication.steps import Step

Kind = Literal["images", "weights", "pretrain", "finetune", "evaluate", "probe", "look"]
NODE_FILE, FAILED_FILE = "node.json", "failed.json"
DIVERGED = NonFiniteError.__name__


@dataclass(frozen=True)
class Node:
    """One run."""

    address: str
    kind: Kind
    title: str
    seed: int
    folder: Path
    inputs: tuple[str, ...] = ()
    """Addresses of the runs that must be finished first."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Plain values; the teacher is left empty, since it is an input. With `settings`, the last of them."""
    data: Path = Path()
    start: Path | None = None
    teacher: Path | None = None
    num_labels: int | None = None
    keep_blocks: int | None = None
    subset: str | None = None
    half: Half | None = None
    hold_out: bool = False
    """Whether this run tries a setting and is judged on training images that it leaves out."""
    settings: tuple[Path, ...] = ()
    """Runs that tried settings; the recipe of the best one is trained."""
    labels: EvaluationName = "val"
    protocol: ProbeName = "logistic"
    pool: Pool = "mean"
    subjects: tuple[tuple[str, Path], ...] = ()
    untrained: tuple[int, ...] = ()
    """Indices of the subjects whose networks have untrained weights instead of their own."""
    look_images: int = 0
    train_images: int = 0
    test_images: int = 0
    image_bytes: int = 0
    """Size of a half that is written."""

    @property
    def is_finished(self) -> bool:
        """Whether the run's folder is complete; weights published by others count as finished."""
        return self.kind == "weights" or (self.folder / NODE_FILE).is_file()

    @property
    def failure(self) -> Mapping[str, Any] | None:
        """The content of failed.json, if the run failed: `error`, `exit_code`, `what`, `message`, `when`."""
        file = self.folder / FAILED_FILE
        return None if self.is_finished or not file.is_file() else read_json(file)

    @property
    def why_failed(self) -> str:
        """The failure in words that name the run; "" if there is none."""
        found = self.failure
        if found is None:
            return ""
        word = "diverged" if found["error"] == DIVERGED else "failed"
        return f"{word}: {self.title}, seed {self.seed} ({found['what']})"

    @property
    def images_seen(self) -> int:
        """Number of training images, counting repetitions; 0 if nothing is trained."""
        if self.kind not in ("pretrain", "finetune"):
            return 0
        budget = recipe_of(self).budget
        available = self.num_labels if self.num_labels is not None else self.train_images
        return budget.batch_size * budget.steps(max(available, budget.batch_size))


def recipe_of(node: Node) -> Recipe:
    """The node's recipe as an object."""
    return from_json(node.recipe)


@dataclass(frozen=True)
class Plan:
    """The runs, and which of them measures which step."""

    scale: Scale
    out: Path
    nodes: Mapping[str, Node]
    """By address; inputs precede what needs them."""
    answers: Mapping[tuple[Step, int], str]
    """(step, seed) → address."""
    absent: Mapping[Step, str]
    """Steps that cannot be run at this scale, and why."""

    def node(self, step: Step, seed: int) -> Node | None:
        """The run that measures `step` with this seed, if any."""
        address = self.answers.get((step, seed))
        return None if address is None else self.nodes[address]

    @property
    def waiting(self) -> list[Node]:
        """Unfinished runs, in order."""
        return [node for node in self.nodes.values() if not node.is_finished]

    @property
    def failed(self) -> list[Node]:
        """Failed runs, in order."""
        return [node for node in self.waiting if node.failure is not None]

    @property
    def possible(self) -> list[Node]:
        """Unfinished runs that no failed run blocks, in order."""
        return [node for node in self.waiting if self.obstacle(node) is None]

    def obstacle(self, node: Node) -> Node | None:
        """The failed run that blocks `node`: itself, or one that it needs."""
        if node.is_finished:
            return None
        if node.failure is not None:
            return node
        return next(filter(None, (self.obstacle(self.nodes[address]) for address in node.inputs)), None)

    def why_failed(self, step: Step) -> str:
        """Which failed runs leave `step` without a value for any seed, in words; "" if none does."""
        nodes = filter(None, (self.node(step, seed) for seed in self.scale.seeds))
        found = filter(None, (self.obstacle(node) for node in nodes))
        return "; ".join(dict.fromkeys(node.why_failed for node in found))
