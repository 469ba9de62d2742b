"""A plan as SLURM job arrays: one array for each generation of runs, each waiting for the one before.

Runs of a generation do not need each other. Every task gives the same command with the address of its run, so tasks
are safe to repeat: a finished run is left alone and one that was cut short goes on.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from vitlet.reproduce.plan import Node, Plan
from vitlet.run import write_file

_TEMPLATE = """\
#!/usr/bin/env bash
#SBATCH --job-name=vitlet-{number}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task=8
#SBATCH --time={hours}:00:00
#SBATCH --output={log}
# Add what your cluster asks for: --partition, --account, --gres=gpu:1.
set -euo pipefail
nodes=({addresses})
exec {command} --node "${{nodes[$SLURM_ARRAY_TASK_ID]}}"
"""

_SUBMIT = """\
#!/usr/bin/env bash
# Submits every generation after the one before it, then the page.
set -euo pipefail
cd "$(dirname "$0")"
after=()
{lines}
sbatch "${{after[@]}}" --job-name=vitlet-page --wrap {collect}
"""

_LINE = 'job=$(sbatch --parsable "${{after[@]}}" {file}); after=(--dependency="afterok:$job")'


def generations(plan: Plan) -> list[list[Node]]:
    """Runs that wait, so that everything a run needs stands in an earlier generation."""
    level: dict[str, int] = {}
    found: list[list[Node]] = []
    for node in plan.nodes.values():  # inputs stand before what needs them
        if node.is_finished:
            continue
        level[node.address] = max((level[i] + 1 for i in node.inputs if i in level), default=0)
        found += [[] for _ in range(level[node.address] + 1 - len(found))]
        found[level[node.address]].append(node)
    return found


def write_arrays(plan: Plan, folder: Path, *, command: Sequence[str], hours: int = 24) -> list[Path]:
    """Write `generation-N.sbatch` and `submit.sh`.

    Args:
        plan: The runs.
        folder: Where the scripts go.
        command: Words that reproduce all of the plan, paths absolute.
        hours: Time limit of a task; a run that meets it goes on when the array is submitted again.

    Returns:
        The files.
    """
    words = shlex.join(command)
    files, lines = [], []
    for number, nodes in enumerate(generations(plan)):
        # sbatch reads its own lines up to the first blank, without a shell's quotes: a name without blanks, relative.
        text = _TEMPLATE.format(
            number=number,
            last=len(nodes) - 1,
            hours=hours,
            log=f"generation-{number}-%a.log",
            addresses=" ".join(shlex.quote(node.address) for node in nodes),
            command=words,
        )
        files.append(folder / f"generation-{number}.sbatch")
        write_file(files[-1], text.encode())
        lines.append(_LINE.format(file=shlex.quote(files[-1].name)))
    collect = shlex.quote(f"{words} --collect")
    write_file(folder / "submit.sh", _SUBMIT.format(lines="\n".join(lines), collect=collect).encode())
    return [*files, folder / "submit.sh"]
