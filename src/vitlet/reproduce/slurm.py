"""A plan as SLURM job arrays: one array for each generation of runs, each waiting for the one before.

Runs of a generation do not need each other. Every task gives the same command with the address of its run, so tasks
are safe to repeat: a finished run is left alone and one that was cut short goes on. A generation begins when the one
before has ended, however that was: each task looks itself whether what it needs is finished, and one run that diverged
does not hold up all later ones. The scripts are those of
`vitlet.jobs.slurm`.
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
    """Runs that can be made, so that everything a run needs stands in an earlier generation."""
    level: dict[str, int] = {}
    found: list[list[Node]] = []
    for node in plan.nodes.values():  # inputs stand before what needs them
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
        folder: Where the scripts go, and the logs of the jobs.
        command: Words that reproduce all of the plan, from the verb on, paths absolute.
        cluster: What each task asks for; one that meets its time limit goes on when it comes through the queue again.

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
