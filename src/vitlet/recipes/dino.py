"""DINO: its config, upstream's recipe for ViT-Tiny, and one for two CPU cores."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from vitlet.augmentation import Centre, Jitter, Resample, View
from vitlet.choices import Pool
from vitlet.errors import UsageError
from vitlet.recipe import (
    BudgetConfig,
    Count,
    DataConfig,
    EncoderConfig,
    ObjectiveConfig,
    OptimizerConfig,
    Positive,
    Recipe,
    RisingDecayOptimizerConfig,
)
from vitlet.recipes.mae import mae_micro
from vitlet.recipes.mocov3 import MILD
from vitlet.recipes.supervised import require_normed_token
from vitlet.units import Epochs, Images, Share

if TYPE_CHECKING:
    from vitlet.methods.dino import DINO
    from vitlet.nn.encoder import Encoder


class DINOObjective(ObjectiveConfig):
    """Caron et al. 2021; see `vitlet.methods.dino`. The first two views are large, any further ones small."""

    drops_branches: ClassVar[bool] = True
    method: Literal["dino"] = "dino"
    pool: Pool = "class"
    """What the head sees of an image: the class token, as published, or the mean of the patch tokens."""
    hidden_width: Count = 2048
    bottleneck_width: Count = 256
    batchnorm: bool = False
    """Batch norm in the hidden layers of the head; an option of the DINO authors' code, off in their ViT recipes."""
    prototypes: Annotated[int, Field(ge=2, le=10**7)] = 65_536
    student_temperature: Positive = 0.1
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.04)
    """At the first step, and from `warmup_steps` on."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    centre_momentum: Annotated[float, Field(ge=0, le=1)] = 0.9
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    """Teacher momentum at the first step; it rises to 1 along half a cosine."""
    freeze_prototypes_steps: Annotated[int, Field(ge=0)] = 0
    """Initial steps during which the prototypes stay frozen; one epoch in the published recipes."""

    @property
    def couples_samples(self) -> bool:
        """Whether batch normalisation is used, which couples the samples of a batch."""
        return self.batchnorm

    def require_fit(self, recipe: Recipe) -> None:
        """Require two large views, small ones that divide into patches, and a normalised class token if one is read."""
        require_normed_token(recipe, self.pool)
        sizes, patch = [view.size for view in recipe.data.views], recipe.encoder.patch_size
        if len(sizes) < 2 or sizes[0] != sizes[1]:
            raise UsageError(
                f"DINO needs two large views of one size, data.views has {len(sizes)}, of {sizes} pixels",
                fix="two items of encoder.image_size pixels at the start of data.views",
            )
        for number, size in enumerate(sizes):
            near = max(patch, min(size, sizes[0] // 2) // patch * patch)
            if size > sizes[0]:
                raise UsageError(
                    f"a small view of {size} pixels is larger than the large ones of {sizes[0]}",
                    fix=f"data.views.{number}.size={near}",
                )
            if size % patch:
                raise UsageError(
                    f"a view of {size} pixels does not divide into patches of {patch}",
                    fix=f"data.views.{number}.size={near}",
                )
        if recipe.encoder.relative_position and len(set(sizes)) > 1:
            raise UsageError(
                f"relative positions in {recipe.name}, with views of {sorted(set(sizes))} pixels",
                why="A bias is learned for each offset in one grid; only absolute positions are resized",
                fix=f"encoder.relative_position=false, or {sizes[0]} pixels in all of data.views",
            )

    def build(self, encoder: "Encoder", *, num_classes: int, seed: int) -> "DINO":
        """Build the objective; labels are not used."""
        from vitlet.methods.dino import DINO, Temperatures
        from vitlet.nn.projection import PrototypeHead

        head = PrototypeHead(
            encoder.config.width,
            hidden=self.hidden_width,
            bottleneck=self.bottleneck_width,
            prototypes=self.prototypes,
            batchnorm=self.batchnorm,
            seed=seed,
        )
        return DINO(
            encoder,
            head=head,
            pool=self.pool,
            temperatures=Temperatures(self.student_temperature, self.teacher_temperature, self.warmup_steps),
            centre_momentum=self.centre_momentum,
            momentum=self.momentum,
            freeze_prototypes_steps=self.freeze_prototypes_steps,
        )


def dino_tiny_100e() -> Recipe[DINOObjective, EncoderConfig, RisingDecayOptimizerConfig]:
    """DINO with a ViT-Tiny, 100 epochs of ImageNet-1k with the settings of the DINO authors' code for ViTs [L].

    Wang et al. 2023 name DINO in their appendix B.5 [T]; their settings and scores are not known. Published: no
    comparable result. Measured here: not run. Differences from that code: the gradient is clipped globally instead of
    per tensor; bf16 instead of fp16. The prototypes are frozen for 2,502 steps, one epoch of ImageNet-1k in batches of
    512: at another batch size or on other images give `objective.freeze_prototypes_steps` too.
    """
    jitter = Jitter()
    large, small = Resample(scale=(0.4, 1.0)), Resample(scale=(0.05, 0.4))
    local = View(size=96, crop=small, jitter=jitter, blur=0.5, grayscale=0.2)
    return Recipe[DINOObjective, EncoderConfig, RisingDecayOptimizerConfig](
        name="dino_tiny_100e",
        data=DataConfig(
            views=(
                View(size=224, crop=large, jitter=jitter, blur=1.0, grayscale=0.2),
                View(size=224, crop=large, jitter=jitter, blur=0.1, grayscale=0.2, solarize=0.2),
                *(local for _ in range(8)),
            ),
            evaluation=View(size=224, crop=Centre(), flip=0),
        ),
        encoder=EncoderConfig(drop_path=0.1),
        objective=DINOObjective(freeze_prototypes_steps=2_502),
        optimizer=RisingDecayOptimizerConfig(
            base_lr=5e-4,
            warmup=Epochs(n=10),
            final_lr=1e-6,
            weight_decay=0.04,
            final_weight_decay=0.4,
            decay_tokens=True,
            betas=(0.9, 0.999),
            clip_norm=3.0,
        ),
        budget=BudgetConfig(duration=Epochs(n=100), batch_size=512, precision="bf16", log_every=50),
    )


def dino_micro() -> Recipe[DINOObjective]:
    """DINO for images near 32 pixels and two CPU cores. Ours, not the paper's.

    Measured here: `docs/results/`. Small batches, mild colour jitter and a teacher that moves fast at first, for the
    reasons given in `mocov3_micro`; four small views of 16 pixels cost as much as one large one. With random weights
    the class token hardly depends on the image, so all outputs are alike and centring cancels them: the head sees the
    mean of the patch tokens, and batch normalisation in it spreads them out. Small views show a fifth of the image at
    least. A few hundred prototypes suffice for images of few classes, and are frozen for the first steps. Chosen
    on held-out training images of CIFAR-10 with the budget of `vitlet learn`, see `docs/log.md`.
    """
    large = View(size=32, crop=Resample(scale=(0.4, 1.0), interpolation="bilinear"), jitter=MILD)
    small = View(size=16, crop=Resample(scale=(0.2, 0.6), interpolation="bilinear"), jitter=MILD)
    return Recipe[DINOObjective](
        name="dino_micro",
        data=DataConfig(
            views=(large, large, *(small for _ in range(4))), evaluation=View(size=32, crop=Centre(share=1.0), flip=0)
        ),
        encoder=mae_micro().encoder,  # methods are compared from one random initialisation
        objective=DINOObjective(
            pool="mean",
            hidden_width=512,
            bottleneck_width=64,
            batchnorm=True,
            prototypes=256,
            momentum=0.99,
            freeze_prototypes_steps=80,
        ),
        optimizer=OptimizerConfig(
            base_lr=1e-3, lr_batch=None, warmup=Share(n=0.1), weight_decay=0.04, betas=(0.9, 0.999), clip_norm=3.0
        ),
        budget=BudgetConfig(
            duration=Images(n=24_000),
            batch_size=32,
            checkpoint_every=Images(n=8_000),
            probe_every=Images(n=8_000),
            log_every=20,
        ),
    )
