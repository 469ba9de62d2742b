"""One measured number as a file; every number that is printed is stored in one."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from vitlet.disk import write_json
from vitlet.environment import environment, hardware
from vitlet.run import Run


@dataclass(frozen=True)
class Result:
    """A number with everything needed to trust or reproduce it."""

    metric: str
    """`top1` is a share of 1."""
    value: float
    n: int
    """Number of images it was measured on."""
    seed: int
    split: str
    protocol: str
    """As a phrase: `fine-tuning, 200 labels`."""
    data: dict[str, Any]
    """`name` and `fingerprint`."""
    recipe: str
    """Fingerprint of the recipe."""
    wall_seconds: float
    cpu_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def write_result(run: Run, name: str, result: Result) -> None:
    """Write `results/<name>.json`, including the command and the machine."""
    assert re.fullmatch(r"[a-z0-9_.-]+", name), name
    write_json(run.results / f"{name}.json", with_machine(result))


def with_machine(result: Result) -> dict[str, Any]:
    """Return the content of a result file."""
    return asdict(result) | {"command": environment()["command"], "hardware": hardware()}
