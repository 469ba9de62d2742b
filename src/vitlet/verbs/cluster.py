"""Commands for clusters."""

from pathlib import Path

from rich.console import Console

from vitlet.arguments import AtLeastOne, Shared, Whole, chosen_recipe
from vitlet.errors import UsageError
from vitlet.text import printable
from vitlet.verbs.files import require_free


def slurm(
    recipe: str,
    *,
    data: str,
    run: Path,
    out: Path,
    init: str | None = None,
    num_labels: AtLeastOne | None = None,
    seeds: AtLeastOne = 1,
    nodes: AtLeastOne = 1,
    gpus: Whole = 1,
    cpus: AtLeastOne = 8,
    hours: AtLeastOne = 24,
    partition: str | None = None,
    account: str | None = None,
    shared: Shared | None = None,
) -> None:
    """Write an sbatch script that trains on one or several nodes and requeues itself when its time is up.

    Args:
        recipe: A recipe name (see `vitlet recipes`) or a recipe.json.
        data: Images, at their path on the nodes.
        run: The run directory, at its path on the nodes; with --seeds, the folder that holds them.
        out: The script to write.
        init: As for pretrain and finetune; finetune needs it.
        num_labels: As for finetune.
        seeds: Number of runs, with seeds 0, 1, …, as a job array.
        nodes: Number of nodes.
        gpus: GPUs per node; 0 trains on CPUs.
        cpus: CPU cores per GPU.
        hours: Time limit; the job is requeued until it is done.
        partition: Partition of the cluster.
        account: Account to charge.
    """
    shared = shared or Shared()
    chosen = chosen_recipe(recipe, shared)
    require_free("script", out)
    from vitlet.disk import write_file
    from vitlet.jobs.options import require_verb
    from vitlet.jobs.slurm import Cluster, batch_script, require_divisible

    verb = "finetune" if chosen.objective.learns_labels else "pretrain"
    require_verb(chosen, verb)
    if verb == "finetune" and init is None:
        raise UsageError(f"{chosen.name} without --init", fix="--init RUN, or --init none for random weights")
    if seeds > 1 and shared.seed is not None:
        raise UsageError("--seed with --seeds", fix="leave one of them out")
    if shared.fresh:
        raise UsageError(
            "--fresh in a script for SLURM",
            why="The job would delete what it has trained each time it comes back from the queue",
            fix="another --run, or remove that folder before sbatch",
        )
    cluster = Cluster(nodes=nodes, gpus=gpus, cpus=cpus, hours=hours, partition=partition, account=account)
    require_divisible(chosen.budget.batch_size, cluster)
    words = [verb, str(Path(recipe).absolute()) if recipe.endswith(".json") else recipe, "--data", _place(data)]
    words += ["--init", init if init == "none" else _place(init)] if init is not None else []
    words += ["--num-labels", str(num_labels)] if num_labels is not None else []
    words += shared.words()
    script = batch_script(words, name=f"vitlet-{chosen.name}", out=_place(str(run)), cluster=cluster, seeds=seeds)
    write_file(out, script.encode())
    Console(highlight=False, soft_wrap=True).print(f"written: {printable(out)}   next: sbatch", markup=False)


def _place(text: str) -> str:
    """Return an absolute path; a name with a scheme (`s3://…`, `timm:…`) stays as it is."""
    return text if ":" in text.split("/")[0] else str(Path(text).expanduser().absolute())
