"""Batch scripts for SLURM: training on several nodes or an array of tasks, requeued when time is up.

Besides starting its command, a script handles interruptions:

  * Some minutes before the time limit SLURM sends SIGUSR1 to the script, which forwards it. Every rank finishes its
    step, rank 0 saves, all stop, and the script requeues the job, where the same command resumes.
  * If the script gets SIGTERM, as before pre-emption, it forwards SIGUSR1 as well: srun would answer SIGTERM by killing
    the ranks. SLURM itself requeues a pre-empted job (`--requeue`).
  * If a rank of a training run dies, the others stop too; torchrun restarts all of them from the last checkpoint.

No user input is interpolated into the shell unquoted: words go through `shlex.quote`, and values in `#SBATCH` lines,
which SLURM parses by rules of its own, are restricted to letters, digits and a few signs.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vitlet.errors import UsageError
from vitlet.text import printable

GRACE_SECONDS = 300
"""Time from SLURM's signal to the limit. SLURM may send it up to a minute early, never late."""
SHUTDOWN_SECONDS = GRACE_SECONDS - 30
"""Of it for the ranks: the longest step and checkpoint must fit, as torchrun then kills them. The rest is for the end
of the step and the requeue."""
MAX_RESTARTS = 3
MAX_REQUEUES = 100
"""Without a limit, a job that never reaches its first checkpoint would be requeued for ever."""

_NAME = re.compile(r"[A-Za-z0-9_.,-]{1,64}")


@final
@dataclass(frozen=True)
class Cluster:
    """Resources that a job requests from SLURM."""

    nodes: int = 1
    gpus: int = 1
    """GPUs per node, with one rank each; 0 for one rank per node on CPUs."""
    cpus: int = 8
    """Cores per rank, for its loader processes."""
    hours: int = 24
    partition: str | None = None
    account: str | None = None

    @property
    def ranks_per_node(self) -> int:
        """Processes that torchrun starts on each node."""
        return max(1, self.gpus)

    @property
    def num_ranks(self) -> int:
        """Ranks over all nodes."""
        return self.nodes * self.ranks_per_node


def require_divisible(batch_size: int, cluster: Cluster) -> None:
    """Refuse now a batch size that every rank would refuse after the job has waited in the queue.

    Raises:
        UsageError: if the ranks cannot share the batch evenly.
    """
    if batch_size % cluster.num_ranks:
        raise UsageError(
            f"batch size {batch_size} does not divide over {cluster.num_ranks} ranks",
            fix=f"--batch-size {max(1, round(batch_size / cluster.num_ranks)) * cluster.num_ranks}, or other --nodes",
        )


def batch_script(command: Sequence[str], *, name: str, out: str, cluster: Cluster, seeds: int = 1) -> str:
    """Return the `sbatch` script of a training run.

    Args:
        command: A vitlet command and its arguments, without `--out` and, for several seeds, without `--seed`.
        name: Name of the job.
        out: Absolute path of the run directory; with several seeds, of the folder that holds them.
        cluster: Resources to request.
        seeds: Number of runs, as a job array with seeds 0, 1, …

    Raises:
        UsageError: for a name, partition or account that is not allowed in an `#SBATCH` line.
    """
    words, target = shlex.join(command), shlex.quote(out)
    if seeds > 1:
        words += ' --seed "$SLURM_ARRAY_TASK_ID"'
        target += '/"seed-$SLURM_ARRAY_TASK_ID"'
    launch = _TORCHRUN.format(
        python=shlex.quote(sys.executable),
        ranks=cluster.ranks_per_node,
        max_restarts=MAX_RESTARTS,
        shutdown=SHUTDOWN_SECONDS,
        words=words,
        target=target,
    )
    return _script(launch, before=_HEAD_NODE, name=name, cluster=cluster, tasks=seeds if seeds > 1 else 0)


def task_script(
    command: Sequence[str], *, name: str, cluster: Cluster, option: str = "", values: Sequence[str] = ()
) -> str:
    """Return the script of a command in one process, or of a job array in which one option differs between tasks.

    Args:
        command: A vitlet command and its arguments, without the option.
        name: Name of the job.
        cluster: Resources to request; one node.
        option: The option that differs between tasks.
        values: Values of the option, one per task; if empty, a single job without it.

    Raises:
        UsageError: as `batch_script`.
    """
    assert cluster.nodes == 1
    words = f"{shlex.quote(sys.executable)} -m vitlet {shlex.join(command)}"
    before = ""
    if values:
        words += f' {option} "${{values[$SLURM_ARRAY_TASK_ID]}}"'
        before = f"values=({shlex.join(values)})\n"
    return _script(words, before=before, name=name, cluster=cluster, tasks=len(values))


def _script(launch: str, *, before: str, name: str, cluster: Cluster, tasks: int) -> str:
    """Assemble a script: `launch` is the command in shell words, `before` the lines it needs; 0 `tasks`: no array."""
    head = "\n".join(["#!/bin/bash", *_directives(name, cluster, tasks), "set -euo pipefail"])
    return f"{head}\n\n{_JOB}{before}{_LITERAL}command=({launch})\n{_RUN.format(max_requeues=MAX_REQUEUES)}"


def _directives(name: str, cluster: Cluster, tasks: int) -> list[str]:
    values: dict[str, str | int | None] = {
        "job-name": _plain("name", name),
        "nodes": cluster.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": cluster.gpus or None,
        "cpus-per-task": cluster.cpus * cluster.ranks_per_node,
        "time": f"{cluster.hours}:00:00",
        "partition": _plain("--partition", cluster.partition),
        "account": _plain("--account", cluster.account),
        "array": f"0-{tasks - 1}" if tasks else None,
        "signal": f"B:USR1@{GRACE_SECONDS}",
        "open-mode": "append",
        "output": "slurm-%x-%A_%a.log" if tasks else "slurm-%x-%j.log",
    }
    return [*(f"#SBATCH --{key}={value}" for key, value in values.items() if value is not None), "#SBATCH --requeue"]


def _plain(what: str, value: str | None) -> str | None:
    if value is not None and not _NAME.fullmatch(value):
        raise UsageError(
            f"{what} {printable(value)!r}",
            why="SLURM's lines in a script take letters, digits, and . , _ -",
            fix="another name",
        )
    return value


_JOB = """\
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
job=${job:-$SLURM_JOB_ID}
[[ $job =~ ^[0-9]+(_[0-9]+)?$ ]] || { echo "error: no job id: $job" >&2; exit 2; }
"""

_HEAD_NODE = """\
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
"""

_LITERAL = """\
# shellcheck disable=SC1003,SC2016  # words in single quotes are meant as they stand
"""

_TORCHRUN = """
  {python} -m torch.distributed.run
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={ranks} --max-restarts={max_restarts}
  --rdzv-backend=c10d --rdzv-id="$job" --rdzv-endpoint="$head_node:$((20000 + SLURM_JOB_ID % 10000))"
  "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1" --shutdown-timeout={shutdown}
  -m vitlet {words} --out {target}
"""

_RUN = """\
step="" early="" passed="" time_is_up=0
# srun forwards SIGUSR1 to the step, and answers SIGTERM by killing it. Only once: after a second signal torchrun does
# not wait for its ranks.
pass_on() {{
  if [[ ! $step ]]; then early=1; elif [[ ! $passed ]]; then passed=1; kill -USR1 "$step" 2>/dev/null || true; fi
}}
trap 'time_is_up=1; pass_on' USR1
trap 'pass_on' TERM

# Since Slurm 22.05 srun does not take --cpus-per-task over from sbatch: without it the step has one core.
srun --kill-on-bad-exit=1 ${{SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"}} "${{command[@]}}" &
step=$!
[[ ! $early ]] || pass_on
# Each wait is short: bash can miss a signal in the moment before one, and sees it after.
while kill -0 "$step" 2>/dev/null; do sleep 1 & wait "$!" || true; done
status=0
wait "$step" || status=$?

if ((time_is_up && status != 0)); then
  if ((${{SLURM_RESTART_COUNT:-0}} < {max_requeues})); then
    echo "time is up; back into the queue"
    scontrol requeue "$job"
    exit 0
  fi
  echo "error: interrupted {max_requeues} times; not queued again" >&2
fi
exit "$status"
"""
