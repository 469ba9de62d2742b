"""A recipe's durations in optimizer steps, on the images it is trained on."""

from typing import Any

from vitlet.errors import UsageError
from vitlet.jobs.material import Material
from vitlet.jobs.options import Options
from vitlet.recipe import Recipe
from vitlet.train.loop import Budget
from vitlet.units import to_steps


def in_steps(recipe: Recipe, material: Material, options: Options) -> tuple[Budget, int | None, int]:
    """Return (budget, steps between probes or None without any, warm-up steps).

    Raises:
        UsageError: for a warm-up longer than the run.
    """
    num_images = recipe.budget.epoch_images(len(material.ids), num_whole=material.num_whole)
    size = {"num_images": num_images, "batch_size": recipe.budget.batch_size}
    total = recipe.budget.steps(num_images)

    def steps(span: Any) -> int:
        return to_steps(span, **size, total=total)

    budget = Budget(
        total_steps=total,
        checkpoint_every=max(1, steps(recipe.budget.checkpoint_every)),
        log_every=recipe.budget.log_every,
        precision=recipe.budget.precision,
        clip_norm=recipe.optimizer.clip_norm,
        micro_batch=options.micro_batch,
        seed=recipe.budget.seed,
        compile=options.compile,
    )
    warmup = steps(recipe.optimizer.warmup)
    if warmup > total:
        raise UsageError(
            f"a warm-up of {warmup} steps in a run of {total}",
            fix='--set optimizer.warmup=\'{"unit": "share", "n": 0.1}\' for a tenth of the run, or a longer one',
        )
    every = recipe.budget.evaluate_every if recipe.objective.learns_labels else recipe.budget.probe_every
    return budget, None if every is None else max(1, steps(every)), warmup
