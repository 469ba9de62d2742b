"""Attention distillation: its config, the papers' recipes, and recipes for two CPU cores."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from vitlet.choices import TeacherPrecision
from vitlet.errors import UsageError
from vitlet.recipe import ObjectiveConfig, Recipe
from vitlet.recipes.mae import MAEObjective, mae_micro, mae_small_400e, mae_tiny_400e

if TYPE_CHECKING:
    from vitlet.methods.distill import AttentionDistillation
    from vitlet.nn.encoder import Encoder

Block = Annotated[int, Field(ge=1, le=64)]
Point = Annotated[int, Field(ge=0, le=64)]


class DistillObjective(ObjectiveConfig):
    """Wang et al. 2023, Section 5; see `vitlet.methods.distill`."""

    method: Literal["distill"] = "distill"
    mae: MAEObjective = MAEObjective()
    teacher: str = ""
    """A run, a model folder, `timm:NAME@FILE`, or `untrained:NAME` for random weights, as a control."""
    layers: tuple[tuple[Block, Block], ...] = ((12, 12),)
    """(student block, teacher block) pairs whose attention is compared, from 1; their losses are added (Figure 7)."""
    extra_block: bool = False
    """D²-MAE: the student has one more block, depth + 1, of attention alone, which is dropped afterwards."""
    hidden: tuple[tuple[Point, Point], ...] = ()
    """(student, teacher) points whose tokens are compared: i is after the first norm of block i + 1, depth is the final
    norm. Off in the paper's runs, an option in its code."""
    weight: Annotated[float, Field(ge=0, le=1e3)] = 1.0
    hidden_weight: Annotated[float, Field(ge=0, le=1e3)] = 1.0
    teacher_precision: TeacherPrecision = "auto"
    """`auto`: bf16 where the hardware supports it, whatever the student's precision; it changes the loss by less than
    a hundredth. `fp32`: full precision, so that an fp32 run gives the same numbers on other hardware."""

    @property
    def teacher_source(self) -> str:
        """The network that teaches."""
        return self.teacher

    def require_fit(self, recipe: Recipe) -> None:
        """Require what its MAE requires, and that reconstruction or teacher trains every block."""
        super().require_fit(recipe)
        self.mae.require_decoder("objective.mae")
        depth = recipe.encoder.depth
        trained = self._trained_blocks(depth)
        if trained < depth:
            raise UsageError(
                f"nothing trains all of block {trained + 1} of {depth}",
                why=f"The decoder reads after block {self.mae.read_after}, and the attention to match comes before "
                "a block's values, projection and MLP, so the rest would be exported untrained",
                fix=f"objective.mae.read_after=null, or objective.extra_block=true and student block {depth + 1} in "
                "objective.layers",
            )

    def _trained_blocks(self, depth: int) -> int:
        """Number of the lowest blocks that a loss reaches whole."""
        attention = [student - 1 for student, _ in self.layers if self.weight]
        hidden = [student for student, _ in self.hidden if self.hidden_weight]
        return max([self.mae.read_after or depth, *attention, *hidden])

    def build(self, encoder: "Encoder", *, num_classes: int, seed: int) -> "AttentionDistillation":
        """Build the objective and load its teacher; labels are not used."""
        from vitlet.methods.distill import AttentionDistillation
        from vitlet.weights.teacher import load_encoder_teacher

        teacher = load_encoder_teacher(self.teacher, like=encoder.config)
        teacher = replace(teacher, precision=self.teacher_precision)
        return AttentionDistillation(
            self.mae.build(encoder, num_classes=num_classes, seed=seed),
            teacher,
            layers=self.layers,
            hidden=self.hidden,
            extra_block=self.extra_block,
            weight=self.weight,
            hidden_weight=self.hidden_weight,
            seed=seed,
        )


def dmae_tiny_400e() -> Recipe[DistillObjective]:
    """D-MAE-Tiny, `mae_tiny_400e` with last-layer attention of MAE-Base: Wang et al. 2023, Table 5, row D-MAE-Tiny.

    Published: 78.4 top-1 after `finetune_tiny_impr_300e` [R]; COCO 42.3 AP box, 37.4 AP mask [R]. Measured here: not
    run. The teacher is MAE-Base of 1600 epochs, which is not included:
    `--set objective.teacher=timm:vit_base_patch16_224@mae_pretrain_vit_base.pth`.
    """
    recipe = mae_tiny_400e()
    return Recipe[DistillObjective](
        name="dmae_tiny_400e",
        data=recipe.data,
        encoder=recipe.encoder,
        objective=DistillObjective(mae=recipe.objective),
        optimizer=recipe.optimizer,
        budget=recipe.budget,
    )


def dmae_small_400e() -> Recipe[DistillObjective]:
    """`dmae_tiny_400e` for ViT-Small with 12 heads: SMALL.md of the authors' repository, row D-MAE.

    Published: 82.5 top-1 after `finetune_small_impr_300e` [R]. Measured here: not run.
    """
    recipe, small = dmae_tiny_400e(), mae_small_400e()
    return recipe.changed(
        name="dmae_small_400e", encoder=small.encoder, objective=recipe.objective.changed(mae=small.objective)
    )


def d2mae_tiny_400e() -> Recipe[DistillObjective]:
    """D²-MAE-Tiny, `dmae_tiny_400e` decoupled: Gao et al. 2025, README of the authors' repository.

    The decoder reads block 8, and block 13 matches the teacher's last attention. Published: 78.7 top-1 after
    `finetune_tiny_impr_300e`, 79.4 with relative positions and 1000 epochs [J]. Measured here: not run. The teacher is
    that of `dmae_tiny_400e`. The final norm is trained on block 8, which the decoder reads, and follows block 12
    afterwards; fine-tuning with mean pooling does not use it.
    """
    recipe = dmae_tiny_400e()
    return recipe.changed(name="d2mae_tiny_400e", objective=_decoupled(recipe.objective, read_after=8, depth=12))


def dmae_micro() -> Recipe[DistillObjective]:
    """D-MAE for images near 32 pixels and two CPU cores. Ours, not the paper's.

    Measured here: `docs/results/`. `mae_micro` in every value, plus the last layer's attention of a wider MAE: run
    `mae_micro_wide` first and pass it with `--set objective.teacher=RUN`. The student's six heads are mixed into its
    twelve.
    """
    recipe = mae_micro()
    depth = recipe.encoder.depth
    return Recipe[DistillObjective](
        name="dmae_micro",
        data=recipe.data,
        encoder=recipe.encoder,
        objective=DistillObjective(mae=recipe.objective, layers=((depth, depth),)),
        optimizer=recipe.optimizer,
        budget=recipe.budget,
    )


def d2mae_micro() -> Recipe[DistillObjective]:
    """`dmae_micro` decoupled: the decoder reads block 3 of 4, block 5 matches the teacher's last attention. Ours.

    Measured here: not run.
    """
    recipe = dmae_micro()
    return recipe.changed(
        name="d2mae_micro", objective=_decoupled(recipe.objective, read_after=3, depth=recipe.encoder.depth)
    )


def _decoupled(objective: DistillObjective, *, read_after: int, depth: int) -> DistillObjective:
    return objective.changed(
        mae=objective.mae.changed(read_after=read_after), layers=((depth + 1, depth),), extra_block=True
    )
