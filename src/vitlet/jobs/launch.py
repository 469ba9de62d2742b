"""What a run was started on: kept in its folder, so that it can be gone on with and begun again."""

import os
from dataclasses import dataclass
from pathlib import Path

from vitlet.data.choice import Subset
from vitlet.data.names import relative_data
from vitlet.jobs.options import Options
from vitlet.weights.names import Source

RANDOM_START = "random"


@dataclass(frozen=True)
class Launch:
    """What a run was started on; with the recipe, all that resuming needs."""

    verb: str
    recipe: str
    """Fingerprint of the recipe as it was asked for, before an initial encoder gave it its shape."""
    data: str
    init: str | None = None
    num_labels: int | None = None
    keep_blocks: int | None = None
    """Of the initial encoder, counted from the lowest; None: all."""
    subset: str | None = None
    """Of the training images, as `Subset` writes itself; None: all."""
    hold_out: bool = False
    """Count on a part of the training images, for choices, and leave the test images alone."""
    start: str = RANDOM_START
    """What is taken from `init`, by content: another encoder may stand there by now."""
    teacher: str = ""
    """The recipe's teacher, by content; empty without one, and in runs from before it was written down."""
    max_bad: float = Options().max_bad
    """Share of unreadable images that was accepted. It changes no number, and is kept so that resuming accepts it."""

    follow_outside: bool = Options().follow_outside
    """Whether links and tables could lead to images outside the data folder."""

    def command(self, run: Path) -> list[str]:
        """Words that do the same again: every value of the recipe comes from the run, paths are relative."""
        words = ["vitlet", self.verb, os.path.relpath(run / "recipe.json"), "--data", relative_data(self.data)]
        if self.verb == "finetune" or self.init:
            words += ["--init", str(Source.parse(self.init).relative()) if self.init else "none"]
        if self.num_labels is not None:
            words += ["--num-labels", str(self.num_labels)]
        if self.keep_blocks is not None:
            words += ["--keep-blocks", str(self.keep_blocks)]
        if self.subset is not None:
            words += ["--subset", Subset.parse(self.subset).words()]
        if self.hold_out:
            words.append("--hold-out")
        if self.max_bad != Launch.max_bad:
            words += ["--max-bad", str(self.max_bad)]
        if self.follow_outside:
            words.append("--follow-outside")
        return [*words, "--out", "NEW"]
