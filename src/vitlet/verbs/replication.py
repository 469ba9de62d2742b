"""The command that reproduces the paper's tables, figures and claims."""

import re
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, Looking, existing_data, require_alone
from vitlet.errors import UsageError
from vitlet.text import printable
from vitlet.verbs.files import require_free

_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def reproduce(
    *what: str,
    data: Path,
    out: Path,
    scale: Literal["paper", "micro", "own", "smoke"] = "micro",
    budget: str | None = None,
    seeds: AtLeastOne | None = None,
    plan: Annotated[bool, Parameter(negative="")] = False,
    slurm: Path | None = None,
    node: str | None = None,
    collect: Annotated[bool, Parameter(negative="")] = False,
    side_by_side: AtLeastOne | None = None,
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
    looking: Looking | None = None,
    json: Path | None = None,
) -> None:
    """Reproduce the paper's tables, figures and claims at a given scale, and report them beside the published values.

    Finished runs in --out are reused, and interrupted ones resumed. A run that diverges is reported and left out.

    Args:
        what: table-1 … table-5, figure-1 … figure-7, appendix-a1 …, claim-1 … claim-18, claims, or all.
        data: Labelled images of at least four classes; at scale paper, a folder that holds imagenet, flowers, ….
        out: Folder for the runs, replication.json and the page.
        scale: paper: ImageNet; micro: CIFAR-10 or similar, hours on two cores; own: your images; smoke: does it run?
        budget: At scale own: total time for everything, such as 2h.
        seeds: Repetitions of each chain, from pre-training on; the default depends on the scale.
        plan: Print the runs, which of them exist, and the time and disk space needed; then stop.
        slurm: Write job arrays for a cluster to this folder, then stop.
        node: Execute only the run with this address, as a task of such an array does.
        collect: Write the page and the JSON from finished runs, without running anything.
        side_by_side: Number of parallel runs; by default one per core, and one on a GPU. Not under torchrun, whose
            ranks make one each.
        retry_failed: Repeat runs that diverged, from the beginning.
        json: Also write the findings to this file; those that it has already stay where these runs have none.
    """
    from vitlet.replication.catalogue import chosen

    chosen(what)
    existing_data(data)
    instead = {"--plan": plan, "--slurm": slurm is not None, "--node": node is not None, "--collect": collect}
    asked = [option for option, is_given in instead.items() if is_given]
    if len(asked) > 1:
        raise UsageError("more than one of --plan, --slurm, --node and --collect", fix="give one of them")
    for option in asked:
        require_alone(f"reproduce {option}")
    seconds = None if budget is None else _seconds(budget)
    if seconds is not None and scale != "own":
        raise UsageError(
            f"--budget with --scale {scale}", why="Its lengths are fixed", fix="--scale own, or no --budget"
        )
    require_free("figures", json, option="--json")
    from vitlet.replication import replicate

    options = (looking or Looking()).options()
    request = replicate.Request(tuple(what), data, out, scale, seeds, seconds, side_by_side, options, retry_failed)
    if plan:
        replicate.show_plan(request)
    elif slurm is not None:
        replicate.write_slurm(request, slurm)
    elif node is not None:
        replicate.make_one(request, node)
    elif collect:
        replicate.collect(request, file=json)
    else:
        replicate.reproduce(request, file=json)


def _seconds(text: str) -> float:
    """Convert `2h`, `90min` or `45s` to seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h|d)", text.strip())
    if not found or not float(found[1]):
        raise UsageError(f"--budget {printable(text)} is no time", fix="--budget 2h, 90min or 45s")
    return float(found[1]) * _UNITS[found[2]]
