"""One recipe per method that ends after twenty steps: for tests, golden losses and a first try of new data."""

from vitlet.recipe import BudgetConfig, EncoderConfig, OptimizerConfig, Recipe
from vitlet.recipes.detection import DetectionObjective, detection_micro
from vitlet.recipes.dino import DINOObjective, dino_micro
from vitlet.recipes.distill import DistillObjective, dmae_micro
from vitlet.recipes.mae import MAEObjective, mae_micro
from vitlet.recipes.mocov3 import MoCoV3Objective, mocov3_micro
from vitlet.recipes.seed import SEEDObjective, StudentConfig, seed_micro
from vitlet.recipes.simmim import SimMIMObjective, simmim_micro
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


def debug_mocov3() -> Recipe[MoCoV3Objective]:
    """Twenty steps of a very small MoCo-v3."""
    recipe = mocov3_micro()
    objective = recipe.objective.changed(hidden_width=64, output_width=32)
    return recipe.changed(
        name="debug_mocov3",
        encoder=_small(recipe.encoder),
        objective=objective,
        budget=_BUDGET,
        optimizer=_warm(recipe),
    )


def debug_dino() -> Recipe[DINOObjective]:
    """Twenty steps of a very small DINO as published: two small views, prototypes trained from the start."""
    recipe = dino_micro()
    objective = recipe.objective.changed(
        pool="class",
        hidden_width=64,
        bottleneck_width=32,
        batchnorm=False,
        prototypes=64,
        teacher_temperature=(0.02, 0.02),
        momentum=0.996,
        freeze_prototypes_steps=0,
    )
    return recipe.changed(
        name="debug_dino",
        data=recipe.data.changed(views=recipe.data.views[:4]),
        encoder=_small(recipe.encoder),
        objective=objective,
        budget=_BUDGET,
        optimizer=_warm(recipe),
    )


def debug_simmim() -> Recipe[SimMIMObjective]:
    """Twenty steps of a very small SimMIM."""
    recipe = simmim_micro()
    return recipe.changed(name="debug_simmim", encoder=_small(recipe.encoder), budget=_BUDGET, optimizer=_warm(recipe))


def debug_distill() -> Recipe[DistillObjective]:
    """Twenty steps of a very small attention distillation, from a teacher with random weights."""
    recipe = dmae_micro()
    return recipe.changed(
        name="debug_distill",
        encoder=_small(recipe.encoder),
        objective=recipe.objective.changed(teacher="untrained:vit_tiny_patch16_224", layers=((3, 2),)),
        budget=_BUDGET,
        optimizer=_warm(recipe),
    )


def debug_seed() -> Recipe[SEEDObjective, StudentConfig]:
    """Twenty steps of a very small SEED between two ViTs, from a teacher with random weights."""
    recipe, shape = seed_micro(), mae_micro().encoder
    return recipe.changed(
        name="debug_seed",
        encoder=_small(shape),
        objective=recipe.objective.changed(teacher="untrained:vit_tiny_patch16_224", queue=64),
        budget=_BUDGET,
        optimizer=recipe.optimizer.changed(warmup=Steps(n=5)),
    )


def debug_detection() -> Recipe[DetectionObjective]:
    """Twenty steps of a very small Mask R-CNN."""
    recipe = detection_micro()
    view = recipe.data.views[0].changed(size=32)
    return recipe.changed(
        name="debug_detection",
        data=recipe.data.changed(views=(view,), evaluation=recipe.data.evaluation.changed(size=32)),
        encoder=_small(recipe.encoder).changed(image_size=32, patch_size=8),
        objective=recipe.objective.changed(
            window=3,
            global_blocks=(1,),
            channels=16,
            anchors=(4, 8, 16, 32, 64),
            proposal_samples=32,
            proposals=20,
            box_convs=1,
            box_width=32,
            box_samples=8,
            mask_convs=1,
        ),
        budget=_BUDGET,
        optimizer=_warm(recipe),
    )


def _warm(recipe: Recipe) -> OptimizerConfig:
    return recipe.optimizer.changed(warmup=Steps(n=5))
