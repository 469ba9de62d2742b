"""A plan as SLURM job arrays: one or more per generation of runs, each waiting for the previous generation.

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
from vitlet.replication.plan import Node, Plan

_SUBMIT = """\
#!/bin/bash
# Submits every generation after the one before it, then the page. Words given to it go to each sbatch, such as
# --partition=NAME --account=NAME.
set -euo pipefail
cd "$(dirname "$0")"
after=()
submit() {{  # the arrays of one generation
  local script job jobs=""
  for script in "${{@:2:$1}}"; do
    job=$(sbatch --parsable "${{after[@]}}" "${{@:$1+2}}" "$script")
    jobs+=":${{job%%;*}}"
  done
  after=(--dependency="afterany$jobs")
}}
{submissions}
"""
LARGEST_ARRAY = 1000
"""Tasks of an array: SLURM's default limit, MaxArraySize, is 1001."""


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
    """Write `generation-N.sbatch`, `page.sbatch` and `submit.sh`; a large generation has `generation-N-M.sbatch`.

    Args:
        plan: The runs.
        folder: Folder for the scripts and the logs of the jobs.
        command: Words that reproduce the whole plan, from the verb on, with absolute paths.
        cluster: Resources of each task; one that hits its time limit continues when it is queued again.

    Returns:
        The files, in this order.
    """
    scripts: dict[str, str] = {}
    submissions = []
    for number, nodes in enumerate(generations(plan)):
        parts = [nodes[at : at + LARGEST_ARRAY] for at in range(0, len(nodes), LARGEST_ARRAY)]
        names = [f"{number}-{part}" if len(parts) > 1 else str(number) for part in range(len(parts))]
        for name, some in zip(names, parts, strict=True):
            scripts[f"generation-{name}.sbatch"] = task_script(
                command, name=f"vitlet-{name}", cluster=cluster, option="--node", values=[n.address for n in some]
            )
        submissions.append([f"generation-{name}.sbatch" for name in names])
    without_gpu = dataclasses.replace(cluster, gpus=0)
    scripts["page.sbatch"] = task_script([*command, "--collect"], name="vitlet-page", cluster=without_gpu)
    submissions.append(["page.sbatch"])
    lines = (f'submit {len(names)} {shlex.join(names)} "$@"' for names in submissions)
    scripts["submit.sh"] = _SUBMIT.format(submissions="\n".join(lines))
    for name, text in scripts.items():
        write_file(folder / name, text.encode())
    return [folder / name for name in scripts]
