"""Provenance of a number in words: recipes, images seen, and an earlier number from the same runs."""

from pathlib import Path
from typing import final

from vitlet.data.names import PublicData
from vitlet.replication.plan import Node, Plan
from vitlet.replication.scale import IMAGES
from vitlet.replication.steps import Measured
from vitlet.text import plural, printable


@final
class Origins:
    """Describes each group of runs once; later mentions refer to the place of the first."""

    def __init__(self, plan: Plan) -> None:
        self._nodes = {node.folder: node for node in plan.nodes.values()}
        self._plan = plan
        self._told: dict[tuple[str, ...], str] = {}

    def of(self, step: Measured, *, place: str) -> str:
        """Describe the finished runs behind `step`, or refer to an earlier description.

        Args:
            step: Step with a finished run for at least one seed.
            place: The name by which later numbers refer to this one.
        """
        found = (self._plan.node(step, seed) for seed in self._plan.scale.seeds)
        nodes = [node for node in found if node is not None and node.is_finished]
        runs = tuple(node.address for node in nodes)
        if runs in self._told:
            return f"same {'run' if len(runs) == 1 else 'runs'} as {self._told[runs]}"
        self._told[runs] = place
        return ", then ".join(self._chain(nodes[0].folder))

    def _chain(self, folder: Path) -> list[str]:
        node = self._nodes[folder]
        if node.kind == "weights":
            return [f"weights of others ({node.title})"]
        before = [] if node.start is None or node.keep_blocks == 0 else self._chain(node.start)
        if node.kind == "evaluate":
            return before
        return [*before, f"{node.protocol} probe" if node.kind == "probe" else self._training(node)]

    def _training(self, node: Node) -> str:
        """Describe a training; its length is omitted if settings were tried, since they may differ in it."""
        words = node.recipe["name"]
        if not node.settings:
            words += f" ({plural(node.images_seen, 'image')} seen)"
        return words if node.teacher is None else f"{words} with {self._taught(node.teacher)} as teacher"

    def _taught(self, folder: Path) -> str:
        node = self._nodes[folder]
        return "weights of others" if node.kind == "weights" else node.recipe["name"]


def data_name(plan: Plan) -> str:
    """The name of the user's images, from which a scale takes parts; `--data` if no run uses them."""
    halves = [node for node in plan.nodes.values() if node.kind == "images"]
    if not halves:
        return IMAGES
    named = PublicData.parse(str(halves[0].data))
    return named.name if named else printable(halves[0].data.name) or IMAGES
