"""Errors a user can meet: what, where, why, and the command or key that mends it.

Every class carries the exit code of the command line. Broken invariants of our own are `assert`s, not these.
"""

from functools import partial
from typing import Any, ClassVar


class VitletError(ValueError):
    """An error whose message is the whole answer; the command line prints it without a traceback."""

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        """Args are sentences without a final full stop; `where` names a file, key or position."""
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
    """A checkpoint, weights file or run directory is missing, damaged or of something else."""

    exit_code = 4


class ResourceError(VitletError):
    """No room on the disk, or not enough memory."""

    exit_code = 5


class NonFiniteError(VitletError):
    """A loss or gradient became NaN or infinite; the step was not taken."""

    exit_code = 6


class WorkerError(VitletError):
    """A loader worker or a rank died or hung."""

    exit_code = 7


class StoppedError(VitletError):
    """A signal asked for a stop; a checkpoint of the last finished step was written first."""

    def __init__(self, signal_number: int, *, step: int | None, run: str) -> None:
        """`signal_number` decides the exit code, 128 + number (130 for Ctrl-C, 143 for SIGTERM).

        `step` is None where several runs were under way, and `run` then is their folder.
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
            fix=f"vitlet resume {run}",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process hands it to its parent, which by default would build it from the message."""
        return partial(StoppedError, step=self.step, run=self.run), (self.signal_number,)

    @property
    def exit_status(self) -> int:
        """The conventional status of a process that a signal ended."""
        return 128 + self.signal_number
