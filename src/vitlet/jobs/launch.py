"""The inputs of a run: kept in its folder, so that it can be resumed and repeated."""

import os
from pathlib import Path

import pydantic
from pydantic.dataclasses import dataclass

from vitlet.data.choice import Subset
from vitlet.data.names import relative_data
from vitlet.errors import CheckpointError
from vitlet.jobs.options import Options
from vitlet.run import Run
from vitlet.text import printable
from vitlet.weights.names import Source

RANDOM_START = "random"


@dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Launch:
    """The inputs of a run; with the recipe, all that resuming needs."""

    verb: str
    recipe: str
    """Fingerprint of the recipe as requested, before an initial encoder gave it its shape."""
    data: str
    init: str | None = None
    num_labels: int | None = None
    keep_blocks: int | None = None
    """Number of lowest blocks taken from the initial encoder; None: all."""
    subset: str | None = None
    """Subset of the training images, as the string of a `Subset`; None: all."""
    hold_out: bool = False
    """Evaluate on held-out training images, to choose settings without the test images."""
    start: str = RANDOM_START
    """Identifier, by content, of what is taken from `init`: the path may hold another encoder by now."""
    teacher: str = ""
    """Identifier, by content, of the recipe's teacher; empty without one, and in runs from before it was recorded."""
    max_bad: float = Options().max_bad
    """Accepted share of unreadable images. It changes no number; it is kept so that resuming accepts the same share."""

    follow_outside: bool = Options().follow_outside
    """Whether links and tables could lead to images outside the data folder."""

    @classmethod
    def of(cls, run: Run) -> "Launch":
        """Read what a run was started on.

        Raises:
            CheckpointError: if the run does not say it, or says something else than this version would.
        """
        recorded = run.environment.launch
        try:
            return cls(**recorded)
        except pydantic.ValidationError as error:
            wrong = "; ".join(f"{item['loc'][0]}: {item['msg'].lower()}" for item in error.errors())
            raise CheckpointError(
                f"{printable(run.environment.file)} does not say how the run was started",
                why=wrong if recorded else "It has no values for `launch`",
                fix="restore it from a copy, or give the command that began the run again, with --fresh",
            ) from None

    def command(self, run: Path) -> list[str]:
        """Return a command that repeats the run: its recipe comes from the run's folder, paths are relative."""
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
        words += Options(max_bad=self.max_bad, follow_outside=self.follow_outside).words()
        return [*words, "--out", "NEW"]
