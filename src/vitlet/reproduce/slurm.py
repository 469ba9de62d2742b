"""A plan as SLURM job arrays: one array per generation of runs, each waiting for the previous one.

Runs of a generation do not depend on each other. Every task runs the same command with the address of its run, so
tasks are safe to repeat: a finished run is left alone and an interrupted one continues. A generation starts when the
previous one has ended, successfully or not: each task checks whether its inputs are finished, so one run that diverged
does not block all later ones. The scripts come from `vitlet.jobs.slurm`.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from vitlet.disk import write_file
from vitlet.jobs.slurm import Cluster, task_script
from vitlet.reproduce.plan import Node, Plan

_SUBMIT = """\
#!/bin/bash
# Submits every generation after the one before it, then the page. Words given to it go to each sbatch, such as
# --partition=NAME --account=NAME.
set -euo pipefail
cd "$(dirname "$0")"
after=()
for script in {scripts}; do
  job=$(sbatch --parsable "${{after[@]}}" "$@" "$script")
  after=(--dependency="afterany:${{job%%;*}}")
done
"""


def generations(plan: Plan) -> list[list[Node]]:
    """Group the runs that can be made such that the inputs of each are in earlier generations."""
    level: dict[str, int] = {}
    found: list[list[Node]] = []
    for node in plan.nodes.values():  # inputs precede what needs them
        if node.is_finished or plan.obstacle(node) is not None:
            continue
        level[node.address] = max((level[i] + 1 for i in node.inputs if i in level), default=0)
        found += [[] for _ in range(level[node.address] + 1 - len(found))]
        found[level[node.address]].append(node)
    return found


def write_arrays(plan: Plan, folder: Path, *, command: Sequence[str], cluster: Cluster) -> list[Path]:
    """Write `generation-N.sbatch`, `page.sbatch` and `submit.sh`.

    Args:
        plan: The runs.
        folder: Folder for the scripts and the logs of the jobs.
        command: Words that reproduce the whole plan, from the verb on, with absolute paths.
        cluster: Resources of each task; one that hits its time limit continues when it is queued again.

    Returns:
        The files, in this order.
    """
    scripts = {
        f"generation-{number}.sbatch": task_script(
            command, name=f"vitlet-{number}", cluster=cluster, option="--node", values=[n.address for n in nodes]
        )
        for number, nodes in enumerate(generations(plan))
    }
    without_gpu = dataclasses.replace(cluster, gpus=0)
    scripts["page.sbatch"] = task_script([*command, "--collect"], name="vitlet-page", cluster=without_gpu)
    scripts["submit.sh"] = _SUBMIT.format(scripts=shlex.join(scripts))
    for name, text in scripts.items():
        write_file(folder / name, text.encode())
    return [folder / name for name in scripts]
