"""One measured number as a file: nothing is printed that does not stand in one."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from vitlet.disk import write_json
from vitlet.run import Run, environment


@dataclass(frozen=True)
class Result:
    """A number with all that is needed to believe it or to measure it again."""

    metric: str
    """`top1` is a share of 1."""
    value: float
    n: int
    """Images it was counted on."""
    seed: int
    split: str
    protocol: str
    """As a sentence part: `fine-tuning, 200 labels`."""
    data: dict[str, Any]
    """`name` and `fingerprint`."""
    recipe: str
    """Fingerprint."""
    wall_seconds: float
    cpu_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def write_result(run: Run, name: str, result: Result) -> None:
    """Write `results/<name>.json`, with the command and the machine."""
    assert re.fullmatch(r"[a-z0-9_.-]+", name), name
    write_json(run.results / f"{name}.json", with_machine(result))


def with_machine(result: Result) -> dict[str, Any]:
    """The content of a result file."""
    machine = environment()
    hardware = {k: machine[k] for k in ("processor", "cores", "platform", "packages")}
    return asdict(result) | {"command": machine["command"], "hardware": hardware}
