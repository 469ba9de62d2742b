"""environment.json of a run, and what it says about machine and software; nothing else knows its keys."""

import functools
import os
import platform
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, final

from vitlet.disk import read_object, write_json
from vitlet.host import available_cores
from vitlet.json_objects import JsonObject

_NAME = "environment.json"
_MACHINE = ("processor", "cores", "platform", "python")


@final
@dataclass(frozen=True)
class Environment:
    """Facts about one run. One that its file lacks is an error that names file and key, where nothing else is said."""

    facts: JsonObject
    """As they are in the file; nothing without one."""

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> "Environment":
        """Read that of the run in `folder`.

        Raises:
            CheckpointError: if the file is damaged.
        """
        file = Path(folder) / _NAME
        return cls(read_object(file) if file.is_file() else JsonObject({}, file))

    @property
    def file(self) -> Path:
        """Where it is, or would be."""
        return self.facts.file

    @property
    def is_there(self) -> bool:
        """Whether there is a file that says anything."""
        return bool(self.facts)

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete; only then it has `data`, `wall_seconds` and `cpu_seconds`."""
        return "finished" in self.facts

    @property
    def id(self) -> str:
        """Random text that tells the run from every other, even one that replaces it or has its path elsewhere.

        Empty for a run that has none yet.
        """
        return self.facts.get("id", "")

    @property
    def command(self) -> str:
        """The command line that repeats the run; empty if it is not said."""
        return self.facts.get("command", "")

    @property
    def started(self) -> str:
        """When the run began, in UTC: `2026-11-30T10:00:00Z`; empty if it is not said."""
        return self.facts.get("started", "")

    @property
    def packages(self) -> Mapping[str, str]:
        """Versions by name; empty if they are not said."""
        return self.facts.get("packages") or {}

    @property
    def machine(self) -> dict[str, Any]:
        """Processor, cores, platform and Python; None for what is not said."""
        return {name: self.facts.get(name) for name in _MACHINE}

    @property
    def launch(self) -> JsonObject:
        """Plain values of what the run was started on (`vitlet.jobs.launch`); empty if it does not say."""
        return self._part("launch")

    @property
    def options(self) -> JsonObject:
        """Plain values of the options of its last start (`vitlet.jobs.options`); empty if it does not say."""
        return self._part("options")

    @property
    def init(self) -> Mapping[str, Any] | None:
        """Facts about the model that the run started from; None if it started from random weights."""
        return self.facts.get("init")

    @property
    def data(self) -> str:
        """The fingerprint of the images."""
        return self.facts["data"]

    @property
    def wall_seconds(self) -> float:
        """How long all parts of the run took together."""
        return self.facts["wall_seconds"]

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of all its processes together."""
        return self.facts["cpu_seconds"]

    def _part(self, name: str) -> JsonObject:
        found = self.facts.get(name)
        return found if isinstance(found, JsonObject) else JsonObject({}, self.file)


def write_begun(
    folder: Path,
    *,
    command: list[str],
    launch: Mapping[str, Any],
    options: Mapping[str, Any],
    init: Mapping[str, Any] | None,
) -> None:
    """Write what a run is started on, here and now.

    Args:
        folder: That of the run.
        command: Words that repeat it.
        launch: What decides its numbers besides the recipe.
        options: Of this start.
        init: Facts about the model that it starts from, if there is one.
    """
    facts = environment(command=command) | {"launch": launch} | ({} if init is None else {"init": init})
    write_json(folder / _NAME, facts | {"id": secrets.token_hex(8), "options": options})


def write_started_again(folder: Path, *, options: Mapping[str, Any]) -> None:
    """Write the options of another start, and an id if the run has none."""
    known = Environment.of(folder).facts
    told = {"id": secrets.token_hex(8)} | known | {"options": options}
    if told != known:
        write_json(folder / _NAME, told)


def write_finished(folder: Path, *, data: str, spent: Mapping[str, float]) -> None:
    """Write that the run is complete.

    Args:
        folder: That of the run.
        data: The fingerprint of its images.
        spent: `wall_seconds` and `cpu_seconds` of all its parts.
    """
    now = {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "data": data}
    write_json(folder / _NAME, {**Environment.of(folder).facts, **now, **spent})


def hardware() -> dict[str, Any]:
    """What of `environment` says where a number was computed; no command, which may name paths."""
    facts = environment()
    return {name: facts[name] for name in ("processor", "cores", "platform", "packages")}


def environment(*, command: list[str] | None = None) -> dict[str, Any]:
    """The machine and software behind a number, without user names or home folders."""
    packages = ("vitlet", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors")
    arguments = command if command is not None else ["vitlet", *sys.argv[1:]]
    return {
        "command": shlex.join(arguments),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "commit": _commit(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def _commit() -> str:
    """Commit of the checkout that tracks this file, with a `+` if files have changed since; else empty."""
    here = Path(__file__).resolve()
    try:
        for words in (["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty=+", "--exclude=*"]):
            done = subprocess.run(["git", "-C", str(here.parent), *words], capture_output=True, text=True, timeout=10)
            if done.returncode:
                return ""
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
