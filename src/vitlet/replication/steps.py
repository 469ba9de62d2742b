"""The vocabulary of the paper's tables and figures: steps of a chain of runs, and published results.

A step says what is done and from which step it starts; it knows no recipe, folder or budget. Those come from a scale
(`vitlet.replication.scale`), so that one definition serves both ImageNet and two CPU cores.
"""

from dataclasses import dataclass
from typing import Literal

Tag = Literal["T", "R", "J", "H", "C", "X", "I", "L", "M+", "M?"]
"""The source of a published figure; explained in `MEANINGS`."""

MEANINGS: dict[str, str] = {
    "T": "the paper's text",
    "R": "the authors' repository at the version of the ICML paper",
    "J": "the authors' repository at the version of the IJCV paper",
    "H": "an older version of the authors' repository",
    "C": "the authors' code",
    "X": "measured by running the authors' code",
    "I": "the authors' answer to a question in public",
    "L": "the library or recipe that the authors built on",
    "M+": "recalled and plausible; unconfirmed, never a target",
    "M?": "recalled with nothing to check it against; unconfirmed, never a target",
}
BLOCKS = 12
"""Depth of the paper's encoder. Steps count blocks in twelfths of the depth, whatever depth a scale has."""
SETTING = "a setting, nothing to measure"


@dataclass(frozen=True)
class Published:
    """A published figure of other authors, or a setting of theirs in words."""

    printed: str
    """As printed, in the unit of its column; accuracies and precisions in per cent."""
    tag: Tag
    note: str = ""

    @property
    def value(self) -> float | None:
        """The printed figure as a number; None for words."""
        try:
            return float(self.printed)
        except ValueError:
            return None

    @property
    def is_confirmed(self) -> bool:
        """Whether it may be quoted as published; an unconfirmed figure is shown as such and is not a target."""
        return not self.tag.startswith("M")


@dataclass(frozen=True)
class Pretrain:
    """Training without labels."""

    method: str
    """A role for which a scale has a recipe or weights trained by others: `mae`, `mocov3`, `dmae`, …"""
    data: str = "imagenet"
    """A set for which a scale has images."""
    teacher: "Pretrain | None" = None
    distil: tuple[int, ...] = ()
    """Blocks whose attention is distilled, in twelfths of the depth; (): as in the recipe."""


@dataclass(frozen=True)
class Finetune:
    """Training with labels, from a step or from random weights; measures top-1 on held-out images, or two APs."""

    start: "Start"
    treatment: str
    """A role for which a scale has a recipe: `impr`, `scratch-impr`, `transfer`, …"""
    data: str = "imagenet"
    keep: int | None = None
    """Only the patch embedding, the tokens and this many twelfths of the blocks come from `start`; the rest is as it
    was before `start` was trained; with 0, all of it. None: everything comes from `start`."""
    teacher: "Pretrain | None" = None
    """A classifier whose predictions are learned in addition to the labels."""


@dataclass(frozen=True)
class Evaluate:
    """A finished classifier on other images or labels; measures top-1."""

    start: Finetune
    labels: Literal["real", "v2"]
    data: str


@dataclass(frozen=True)
class Probe:
    """A classifier on frozen features; measures top-1."""

    start: "Pretrain | Finetune"
    protocol: str = "linear"
    data: str = "imagenet"


@dataclass(frozen=True)
class Untrained:
    """The network of a step as it may have been before its training: the control of a look (decision 0007)."""

    of: Pretrain


@dataclass(frozen=True)
class Look:
    """One pass over held-out images through several encoders: CKA, attention, spectrum."""

    subjects: tuple[tuple[str, Pretrain | Finetune | Untrained], ...]
    """(name, encoder); the first is the reference."""
    data: str = "imagenet"


@dataclass(frozen=True)
class Needs:
    """A missing requirement; the row is listed nevertheless."""

    what: str


Start = Pretrain | Finetune | None
Measured = Finetune | Evaluate | Probe
Step = Pretrain | Measured | Look
Metric = Literal["top1", "bbox", "segm"]
"""Names of result files; `bbox` and `segm` are a detector's COCO APs of boxes and of masks."""


@dataclass(frozen=True)
class Cell:
    """One number of a table: what was published, and how it is measured here."""

    column: str
    published: Published | None = None
    """None: not known."""
    step: Measured | Needs | None = None
    """The step that measures it; None: nothing does, and `unmeasured` says why."""
    metric: Metric = "top1"
    unmeasured: str = "quoted, not measured here"
    note: str = ""
    """A remark besides the note of its published figure."""
    minus: Measured | None = None
    """A second step whose number is taken off, seed by seed: the cell is a difference."""


@dataclass(frozen=True)
class Row:
    """One row."""

    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of the paper, or a figure whose points are single numbers."""

    name: str
    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    unit: str = "top-1, %"
    axis: str = ""
    """The quantity on the x axis if rows are drawn as curves over the columns; "" draws nothing."""


@dataclass(frozen=True)
class Drawing:
    """A figure of the paper that is drawn from the data stored by a look."""

    name: str
    title: str
    about: str
    expected: str
    """What the paper says it shows; it prints no numbers."""
    tag: Tag
    look: Look
    kind: Literal["similarity", "attention", "spectrum"]
    shown: tuple[str, ...] = ()
    """Names of subjects to show besides the reference; () shows all."""


Item = Table | Drawing


def steps_of(item: Item) -> list[Step]:
    """Every step that the item measures, in order, each once."""
    if isinstance(item, Drawing):
        return [item.look]
    cells = [step for row in item.rows for cell in row.cells for step in (cell.step, cell.minus)]
    return list(dict.fromkeys(step for step in cells if isinstance(step, Measured)))
