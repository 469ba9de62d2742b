"""One recipe a method that ends after twenty steps: for tests, golden losses and a first try of new data."""

from vitlet.recipe import BudgetConfig, EncoderConfig, OptimizerConfig, Recipe
from vitlet.recipes.mae import MAEObjective, mae_micro
from vitlet.recipes.supervised import SupervisedObjective, finetune_micro
from vitlet.units import Steps

_BUDGET = BudgetConfig(
    duration=Steps(n=20), batch_size=16, checkpoint_every=Steps(n=10), log_every=1, probe_every=Steps(n=10)
)


def _small(encoder: EncoderConfig) -> EncoderConfig:
    return encoder.changed(width=48, depth=3, heads=3)


def debug() -> Recipe[MAEObjective]:
    """Twenty steps of a very small MAE."""
    recipe = mae_micro()
    return recipe.changed(name="debug", encoder=_small(recipe.encoder), budget=_BUDGET, optimizer=_warm(recipe))


def debug_supervised() -> Recipe[SupervisedObjective]:
    """Twenty steps of a very small supervised run."""
    recipe = finetune_micro()
    return recipe.changed(
        name="debug_supervised", encoder=_small(recipe.encoder), budget=_BUDGET, optimizer=_warm(recipe)
    )


def _warm(recipe: Recipe) -> OptimizerConfig:
    return recipe.optimizer.changed(warmup=Steps(n=5))
