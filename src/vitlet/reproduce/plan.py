"""The plan: which runs the tables need at a scale, each once, in an order in which they can be made.

A node is one run with one seed. Its address is a hash of all that decides its numbers: the recipe's fingerprint, the
images, the number of labels, and the addresses of what it starts from. Two tables that need the same run have the same
node, and a folder `runs/…-ADDRESS` that is finished is the run, whoever made it and when.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitlet.disk import read_json
from vitlet.errors import NonFiniteError
from vitlet.jobs.options import EvaluationName, ProbeName
from vitlet.recipe import Recipe
from vitlet.recipes import from_json
from vitlet.reproduce.images import Half
from vitlet.reproduce.scale import Scale
from vitlet.reproduce.steps import Step
from vitlet.units import to_steps

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
    """Addresses of what must be finished before."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Plain values; a teacher's place is empty, since the teacher is an input. With `settings` the last of theirs."""
    data: Path = Path()
    start: Path | None = None
    teacher: Path | None = None
    num_labels: int | None = None
    keep_blocks: int | None = None
    subset: str | None = None
    half: Half | None = None
    hold_out: bool = False
    """A setting that is tried: judged on training images that it leaves out."""
    settings: tuple[Path, ...] = ()
    """Runs that tried settings; the recipe of the best one is trained."""
    labels: EvaluationName = "val"
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
        """Whether the run stands in its folder, whole; weights that others published are planned where they are."""
        return self.kind == "weights" or (self.folder / NODE_FILE).is_file()

    @property
    def failure(self) -> Mapping[str, Any] | None:
        """What failed.json says, where the run could not be made: `error`, `exit_code`, `what`, `message`, `when`."""
        file = self.folder / FAILED_FILE
        return None if self.is_finished or not file.is_file() else read_json(file)

    @property
    def why_failed(self) -> str:
        """The failure in words that name the run; "" where there is none."""
        found = self.failure
        if found is None:
            return ""
        word = "diverged" if found["error"] == DIVERGED else "failed"
        return f"{word}: {self.title}, seed {self.seed} ({found['what']})"

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

    @property
    def failed(self) -> list[Node]:
        """Runs that could not be made, in order."""
        return [node for node in self.waiting if node.failure is not None]

    @property
    def possible(self) -> list[Node]:
        """Runs that wait and that no failed run stands in the way of, in order."""
        return [node for node in self.waiting if self.obstacle(node) is None]

    def obstacle(self, node: Node) -> Node | None:
        """The failed run because of which `node` cannot be made: itself, or one that it needs."""
        if node.is_finished:
            return None
        if node.failure is not None:
            return node
        return next(filter(None, (self.obstacle(self.nodes[address]) for address in node.inputs)), None)

    def why_failed(self, step: Step) -> str:
        """Which failed runs leave `step` without a value, for any seed, in words; "" where none does."""
        nodes = filter(None, (self.node(step, seed) for seed in self.scale.seeds))
        found = filter(None, (self.obstacle(node) for node in nodes))
        return "; ".join(dict.fromkeys(node.why_failed for node in found))
