"""Commands for clusters."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, Shared, Whole, chosen_recipe
from vitlet.console import Terminal
from vitlet.data.names import PublicData
from vitlet.errors import UsageError
from vitlet.run import spelled_out
from vitlet.text import printable
from vitlet.verbs.files import require_free
from vitlet.weights.names import Source


def slurm(
    recipe: str,
    *,
    data: str,
    run: Path,
    out: Path,
    init: str | None = None,
    num_labels: AtLeastOne | None = None,
    keep_blocks: Whole | None = None,
    subset: str | None = None,
    hold_out: Annotated[bool, Parameter(negative="")] = False,
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
        keep_blocks: As for finetune.
        subset: As for pretrain and finetune; a list at its path on the nodes.
        hold_out: As for finetune.
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
    from vitlet.jobs.options import require_start, require_verb
    from vitlet.jobs.slurm import Cluster, batch_script, require_divisible

    verb = "finetune" if chosen.objective.learns_labels else "pretrain"
    require_verb(chosen, verb)
    if verb == "finetune" and init is None:
        raise UsageError(f"{chosen.name} without --init", fix="--init RUN, or --init none for random weights")
    of_finetune = {"--num-labels": num_labels, "--keep-blocks": keep_blocks, "--hold-out": hold_out or None}
    if verb == "pretrain" and (given := [option for option, value in of_finetune.items() if value is not None]):
        raise UsageError(f"{given[0]} with {chosen.name}", why="Only fine-tuning has that option", fix="leave it out")
    require_start(None if init == "none" else init, keep_blocks)
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
    words = [verb, str(Path(recipe).absolute()) if recipe.endswith(".json") else recipe, "--data", _data_place(data)]
    words += ["--init", _weights_place(init)] if init is not None else []
    words += ["--num-labels", str(num_labels)] if num_labels is not None else []
    words += ["--keep-blocks", str(keep_blocks)] if keep_blocks is not None else []
    words += ["--subset", _subset_place(subset)] if subset is not None else []
    words += ["--hold-out"] if hold_out else []
    words += shared.words()
    script = batch_script(words, name=f"vitlet-{chosen.name}", out=_absolute(run), cluster=cluster, seeds=seeds)
    write_file(out, script.encode())
    Terminal().print(f"written: {printable(out)}   next: sbatch", markup=False)


def _data_place(data: str) -> str:
    """Return `data` independently of the working directory; unlike for `absolute_data`, it need not exist here."""
    from vitlet.data.stores import remote_address

    named = PublicData.parse(data)
    return str(named.absolute()) if named else remote_address(data) or _absolute(data)


def _weights_place(init: str) -> str:
    """Return `init` independently of the working directory; it need not exist here."""
    if init == "none":
        return init
    name, at, path = init.partition("@") if init.startswith("timm:") else ("", "", init)
    if not path:
        Source.parse(init)  # says what is missing
    return name + at + _absolute(path)


def _subset_place(subset: str) -> str:
    """Return `subset` independently of the working directory; a list of names need not exist here."""
    from vitlet.data.choice import Subset, names_a_list

    return _absolute(subset) if names_a_list(subset) else str(Subset.parse(subset))


def _absolute(path: str | Path) -> str:
    return str(spelled_out(Path(path).expanduser()))
