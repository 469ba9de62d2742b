"""Errors shown to users: what, where, why, and the command or key that fixes it.

Every class carries the exit code of the command line. Violated invariants in vitlet itself are `assert`s, not these.
"""

import shlex
from functools import partial
from typing import Any, ClassVar


class VitletError(ValueError):
    """An error whose message is complete; the command line prints it without a traceback."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        """Arguments are sentences without a final full stop; `where` names a file, key or position."""
        self.what, self.where, self.why, self.fix = what, where, why, fix
        place = f" ({where})" if where else ""
        fixed = f"Fix: {fix}" if fix else ""
        super().__init__(" ".join(part for part in (_sentence(what + place), _sentence(why), fixed) if part))


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "?", "!")) else f"{text}."


class UsageError(VitletError):
    """A wrong option, key, value or path; nothing was started."""


class DataError(VitletError):
    """The images or labels cannot be used as they are."""

    exit_code = 3


class CheckpointError(VitletError):
    """A checkpoint, weights file or run directory is missing, damaged or of another kind."""

    exit_code = 4


class ResourceError(VitletError):
    """Not enough disk space or memory."""

    exit_code = 5


class NonFiniteError(VitletError):
    """A loss or gradient became NaN or infinite; the step was not taken."""

    exit_code = 6


class WorkerError(VitletError):
    """A loader worker or a rank died or hung."""

    exit_code = 7


class StoppedError(VitletError):
    """A signal requested a stop; a checkpoint of the last finished step was written first."""

    def __init__(self, signal_number: int, *, step: int | None, run: str) -> None:
        """`signal_number` determines the exit code, 128 + number (130 for Ctrl-C, 143 for SIGTERM).

        `step` is None if several runs were in progress; `run` is then their folder.
        """
        self.signal_number, self.step, self.run = signal_number, step, run
        if step is None:
            super().__init__(
                f"stopped by signal {signal_number}",
                where=run,
                why="Finished runs are kept, and others go on from their last checkpoint",
                fix="give the same command again",
            )
            return
        super().__init__(
            f"stopped by signal {signal_number} after step {step}",
            where=run,
            why="The step was finished and saved; nothing is lost",
            fix=f"vitlet resume {shlex.quote(run)}",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling from a worker to its parent; the default would rebuild the error from its message."""
        return partial(StoppedError, step=self.step, run=self.run), (self.signal_number,)

    @property
    def exit_status(self) -> int:
        """The conventional exit status of a process ended by a signal."""
        return 128 + self.signal_number
