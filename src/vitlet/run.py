"""The run directory: the only interface between training and everything after it.

    recipe.json · environment.json · left_out.json · metrics.jsonl · log.txt · tensorboard/ ·
    checkpoints/step-00000123/ · encoder/ · best/ · results/<name>.json · analysis/<name>.{json,npz} · report.html

Files and folders appear completely or not at all, as written by `vitlet.disk`. A kernel lock, released when its
process ends, keeps a second writer out.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitlet.config import flatten
from vitlet.disk import read_json, sweep
from vitlet.environment import Environment
from vitlet.errors import CheckpointError, UsageError
from vitlet.json_objects import parse_json
from vitlet.text import did_you_mean, printable, quoted

_SHOWN = 3


@dataclass(frozen=True)
class Run:
    """Paths inside one run directory, and access to its contents. It stands for its path wherever one is asked for."""

    path: Path

    def __fspath__(self) -> str:
        """The path of the run directory."""
        return str(self.path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """Open an existing run.

        Raises:
            CheckpointError: if there is no run at `path`; suggests a similar name.
        """
        run = cls(Path(path))
        if not run.recipe_file.is_file():
            parent = run.path.parent
            siblings = [p.name for p in parent.iterdir() if (p / "recipe.json").is_file()] if parent.is_dir() else []
            state = "the folder holds no recipe.json" if run.path.is_dir() else "there is no such folder"
            raise CheckpointError(
                f"no run at {printable(run.path)}",
                why=f"{state}. {did_you_mean(run.path.name, siblings)}".rstrip("? .") if siblings else state,
                fix="give the folder that vitlet pretrain or finetune wrote with --out",
            )
        return run

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe; `vitlet pretrain` and `finetune` take it in place of a name."""
        return self.path / "recipe.json"

    @property
    def environment(self) -> Environment:
        """What the run was started on and with, and what it took, as its file says now."""
        return Environment.of(self.path)

    @property
    def left_out_file(self) -> Path:
        """Rows of the images that could not be used when the run began (`vitlet.jobs.left_out`)."""
        return self.path / "left_out.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        """A copy of the terminal output."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """Folders `step-00000123`, each complete."""
        return self.path / "checkpoints"

    @property
    def encoder(self) -> Path:
        """The finished encoder in timm's folder format."""
        return self.path / "encoder"

    @property
    def detector(self) -> Path:
        """The detector above the encoder, for a detection run."""
        return self.path / "detector"

    @property
    def best(self) -> Path:
        """The model with the highest accuracy on the images used for selection, if there were evaluations on them."""
        return self.path / "best"

    @property
    def results(self) -> Path:
        """One file per measured number."""
        return self.path / "results"

    @property
    def analysis(self) -> Path:
        """Arrays from which figures are drawn."""
        return self.path / "analysis"

    @property
    def is_finished(self) -> bool:
        """Whether training is complete, with the model and its results."""
        return self.recipe_file.is_file() and self.environment.is_finished

    def recipe_json(self) -> dict[str, Any]:
        """The plain values of the recipe; `vitlet.recipes.from_json` turns them into a Recipe."""
        return read_json(self.recipe_file)

    def require_place(self) -> None:
        """Refuse a path at which no run can be: a file, or a folder of something else.

        Raises:
            UsageError: naming what is there.
        """
        _require_folder(self.path)
        if self.path.is_dir() and not self.recipe_file.is_file() and any(map(_is_foreign, self.path.iterdir())):
            raise UsageError(
                f"{printable(self.path)} is not empty and not a run", fix="give --out a new folder; nothing was changed"
            )

    def require_same(self, launch: Mapping[str, Any], *, there: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        """Refuse to go on with the run if it was started on other values, as far as both name them.

        Args:
            launch: What is asked for; its recipe by fingerprint.
            there: The same of the run.
            recipe: The recipe that is asked for.

        Raises:
            UsageError: naming them.
        """
        if named := [key for key, value in launch.items() if key in there and there[key] != value]:
            others = [self._other_values(recipe) if key == "recipe" else printable(str(there[key])) for key in named]
            raise UsageError(
                f"{printable(self.path)} holds another run",
                why=f"{', '.join(named)} differ: {', '.join(others)} there",
                fix="--fresh to replace it, another --out to keep both, "
                f"or vitlet resume {quoted(self.path)} to finish it",
            )

    def _other_values(self, recipe: Mapping[str, Any]) -> str:
        """The first values of the run's recipe that are others than those of `recipe`."""
        ours, theirs = flatten(self.recipe_json()), flatten(recipe)
        keys = [key for key in ours if theirs.get(key) != ours[key]]
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        return ", ".join(f"{key}={printable(ours[key])}" for key in keys[:_SHOWN]) + more

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, ignoring a torn last line (from a kill while writing)."""
        if not self.metrics_file.is_file():
            return []
        rows = self.metrics_file.read_bytes().split(b"\n")[:-1]
        return [parse_json(row, self.metrics_file) for row in rows]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing, and clean up what killed writers left behind.

        The lock is a POSIX record lock: released when its process ends, even if killed, and not shared with the
        loader's workers, which may outlive it by seconds.

        Raises:
            UsageError: if another process or thread holds it (named), or if the folder is not writable.
        """
        _require_folder(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            here = os.getpid(), self.path.resolve()
            if here in _HELD:  # POSIX would grant the lock again, and drop both when the second is released
                raise _being_written(self.path, "this process")
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _not_writable(self.path, error) from error
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise _not_writable(self.path, error) from error
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                raise _being_written(self.path, holder) from None
            _HELD.add(here)
            for folder in (self.path, self.checkpoints, self.results, self.analysis):
                sweep(folder)
            yield
        finally:
            _HELD.discard(here)
            os.close(descriptor)


_HELD: set[tuple[int, Path]] = set()
"""(process, run) of the held locks; a forked child inherits the entries but not the locks."""


def _being_written(path: Path, holder: str) -> UsageError:
    return UsageError(
        f"{printable(path)} is being written by {holder}",
        why="Two writers would destroy the run",
        fix="wait for it, stop it, or give another --out",
    )


def _is_foreign(path: Path) -> bool:
    """Return whether a file was left neither by a run that never began nor by a rank without the run directory."""
    return path.name != ".lock" and not path.name.startswith("nonfinite-rank")


def _require_folder(path: Path) -> None:
    """Refuse a path that is a file, or below one."""
    for place in (path, *path.parents):
        if os.path.exists(place) and not place.is_dir():
            raise UsageError(
                f"cannot write to {printable(path)}",
                why=f"{printable(place)} is a file, not a folder",
                fix="give --out the name of a new folder",
            )


def _not_writable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write to {printable(path)}",
        why=error.strerror or str(error),
        fix="make the folder writable, make room, or give another --out",
    )


def spelled_out(path: str | os.PathLike[str]) -> Path:
    """Make `path` independent of the working directory, in the form that runs record.

    `..` is resolved unless that would lead elsewhere, because of a symbolic link.
    """
    given, short = Path(path).absolute(), Path(os.path.abspath(path))
    return short if short.exists() and given.exists() and short.samefile(given) else given


def address_of(decides: Any) -> str:
    """SHA-256 (hex) of plain values: an address for a result that these values fully determine."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
