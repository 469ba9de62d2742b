"""The words that the paper's tables and figures are written in: steps of a chain of runs, and what was published.

A step says what is done and from which step it starts; it knows no recipe, no folder and no budget. Those are given to
it by a scale (`vitlet.reproduce.scale`), so that one definition serves ImageNet and two CPU cores.
"""

from dataclasses import dataclass
from typing import Literal

Tag = Literal["T", "R", "J", "H", "C", "X", "I", "L", "M+", "M?"]
"""Where a published figure was read; `MEANINGS` has the words."""

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
"""Of the paper's encoder. Steps count blocks in twelfths of the depth, whatever depth a scale has."""
SETTING = "a setting, nothing to measure"


@dataclass(frozen=True)
class Published:
    """A figure of somebody else, or a setting of theirs in words."""

    printed: str
    """As it was printed, in the unit of its column; accuracies and precisions in per cent."""
    tag: Tag
    note: str = ""

    @property
    def value(self) -> float | None:
        """What was printed, as a number; None for words."""
        try:
            return float(self.printed)
        except ValueError:
            return None

    @property
    def is_confirmed(self) -> bool:
        """Whether it may be quoted as published; an unconfirmed one is shown as such and is no target."""
        return not self.tag.startswith("M")


@dataclass(frozen=True)
class Pretrain:
    """Training without labels."""

    method: str
    """A role that a scale gives a recipe, or weights that others trained: `mae`, `mocov3`, `dmae`, …"""
    data: str = "imagenet"
    """A set that a scale gives images."""
    teacher: "Pretrain | None" = None
    distil: tuple[int, ...] = ()
    """Blocks whose attention is distilled, in twelfths of the depth; () is what the recipe has."""


@dataclass(frozen=True)
class Finetune:
    """Training with labels, from a step or from random weights; measures top-1 on held-out images, or two APs."""

    start: "Start"
    treatment: str
    """A role that a scale gives a recipe: `impr`, `scratch-impr`, `transfer`, …"""
    data: str = "imagenet"
    keep: int | None = None
    """Only the patch embedding, the tokens and so many twelfths of the blocks come from `start`, the rest is as it was
    before that; with 0 all of it. None: everything comes from `start`."""
    teacher: "Pretrain | None" = None
    """A classifier whose answers are learned beside the labels."""


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
class Look:
    """One pass over held-out images through several encoders: CKA, attention, spectrum."""

    subjects: tuple[tuple[str, "Start"], ...]
    """(name, encoder); the first is the reference, and None stands for random weights in its shape."""
    data: str = "imagenet"


@dataclass(frozen=True)
class Needs:
    """Something that is not there yet; the row keeps its place."""

    what: str


Start = Pretrain | Finetune | None
Measured = Finetune | Evaluate | Probe
Step = Pretrain | Measured | Look
Metric = Literal["top1", "bbox", "segm"]
"""Names of result files; COCO's AP of boxes and of masks are those of a detector."""


@dataclass(frozen=True)
class Cell:
    """One number of a table: what was published and how it is measured here."""

    column: str
    published: Published | None = None
    """None: not known."""
    step: Measured | Needs | None = None
    """What measures it; None: nothing does, and `unmeasured` says why."""
    metric: Metric = "top1"
    unmeasured: str = "quoted, not measured here"
    note: str = ""
    """What is to be known of it beside the note of its published figure."""


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
    """What the columns count, where rows are drawn as curves over them; "" draws nothing."""


@dataclass(frozen=True)
class Drawing:
    """A figure of the paper that is drawn from what a look has stored."""

    name: str
    title: str
    about: str
    expected: str
    """What the paper says it shows; it prints no numbers."""
    tag: Tag
    look: Look
    kind: Literal["similarity", "attention", "spectrum"]
    shown: tuple[str, ...] = ()
    """Names of subjects beside the reference; () shows all."""


Item = Table | Drawing


def steps_of(item: Item) -> list[Step]:
    """Every step that the item measures, in its order, each once."""
    if isinstance(item, Drawing):
        return [item.look]
    cells = [cell.step for row in item.rows for cell in row.cells]
    return list(dict.fromkeys(step for step in cells if isinstance(step, Measured)))
