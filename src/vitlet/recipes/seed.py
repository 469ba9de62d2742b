"""SEED: its config, the recipe for an EfficientNet-B0, and one for two CPU cores."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from vitlet.augmentation import Centre, Jitter, Resample, View
from vitlet.choices import Pool
from vitlet.errors import UsageError
from vitlet.recipe import (
    AnyEncoderConfig,
    BudgetConfig,
    ConvNetConfig,
    Count,
    DataConfig,
    EncoderConfig,
    ObjectiveConfig,
    OptimizerConfig,
    Positive,
    Recipe,
)
from vitlet.recipes.supervised import require_normed_token
from vitlet.units import Epochs, Images, Share

if TYPE_CHECKING:
    from vitlet.methods.seed import SEED
    from vitlet.nn.convnet import AnyEncoder

StudentConfig = Annotated[AnyEncoderConfig, Field(discriminator="kind")]
"""SEED needs no patches, so its student may be either."""


class SEEDObjective(ObjectiveConfig):
    """Fang et al. 2021; see `vitlet.methods.seed`."""

    method: Literal["seed"] = "seed"
    teacher: str = ""
    """A ViT or a ConvNet: a run, a model folder, `timm:NAME@FILE`, or `untrained:NAME` for random weights, as a
    control."""
    pool: Pool = "class"
    """How a ViT is pooled into one vector; a ConvNet always uses the mean of its map."""
    queue: Count = 65_536
    """Number of images that each image is compared with."""
    student_temperature: Positive = 0.2
    teacher_temperature: Positive = 0.01

    @property
    def teacher_source(self) -> str:
        """The network that teaches."""
        return self.teacher

    def require_fit(self, recipe: Recipe) -> None:
        """Require one view, a normalised class token if one is read, and a queue that holds a whole batch."""
        super().require_fit(recipe)
        require_normed_token(recipe, self.pool)
        if self.queue < recipe.budget.batch_size:
            raise UsageError(
                f"a queue of {self.queue} images for batches of {recipe.budget.batch_size}",
                why="Most of a batch would be pushed out before anything is compared with it",
                fix=f"objective.queue={recipe.budget.batch_size} or more",
            )

    def build(self, encoder: "AnyEncoder", *, num_classes: int, seed: int) -> "SEED":
        """Build the objective and load its teacher; labels are not used."""
        from vitlet.methods.seed import SEED
        from vitlet.nn.encoder import Encoder
        from vitlet.weights.teacher import load_feature_teacher

        like = encoder.config if isinstance(encoder, Encoder) else _grid(encoder.config.image_size)
        return SEED(
            encoder,
            load_feature_teacher(self.teacher, like=like),
            pool=self.pool,
            queue=self.queue,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
            seed=seed,
        )


def _grid(image_size: int) -> EncoderConfig:
    """Shape of an untrained teacher for a ConvNet student, which has no patch size to copy."""
    return EncoderConfig(image_size=image_size, patch_size=next(p for p in (16, 8, 4, 2, 1) if image_size % p == 0))


def seed_effb0() -> Recipe[SEEDObjective, StudentConfig]:
    """SEED with an EfficientNet-B0, 200 epochs of ImageNet-1k: Wang et al. 2023, Table 2, row with SEED.

    Published: 77.2 top-1 after `finetune_effb0_impr_300e`, 77.7 without SEED [T]; settings and teacher are not
    documented, so the settings are those of Fang et al. 2021. Measured here: not run. The teacher is not included:
    `--set objective.teacher=RUN`. The published optimizer has plain momentum, this one Nesterov's. Precision
    here is bf16.
    """
    view = View(
        size=224,
        crop=Resample(scale=(0.2, 1.0), interpolation="bilinear"),
        jitter=Jitter(saturation=0.4),
        grayscale=0.2,
        blur=0.5,
    )
    return Recipe[SEEDObjective, StudentConfig](
        name="seed_effb0",
        data=DataConfig(views=(view,), evaluation=View(size=224, crop=Centre(), flip=0)),
        encoder=ConvNetConfig(),
        objective=SEEDObjective(),
        optimizer=OptimizerConfig(
            kind="sgd",
            base_lr=0.03,
            warmup=Epochs(n=5),
            weight_decay=1e-4,
            decay_one_dimensional=True,
            betas=(0.9, 0.999),
        ),
        budget=BudgetConfig(duration=Epochs(n=200), batch_size=256, precision="bf16", log_every=50),
    )


def seed_micro() -> Recipe[SEEDObjective, StudentConfig]:
    """SEED with a ConvNet of 0.1 M parameters for images near 32 pixels and two CPU cores. Ours, not the paper's.

    Measured here: `docs/results/`. The student is timm's smallest EfficientNet, last stages dilated, so that 32 pixels
    give a map of 4 × 4. The teacher is not included: `--set objective.teacher=RUN`, for example a run of
    `mae_micro_wide`, whose mean over patches is more informative than its class token.
    """
    view = View(size=32, crop=Resample(scale=(0.3, 1.0), interpolation="bilinear"))
    return Recipe[SEEDObjective, StudentConfig](
        name="seed_micro",
        data=DataConfig(views=(view,), evaluation=View(size=32, crop=Centre(share=1.0), flip=0)),
        encoder=ConvNetConfig(architecture="test_efficientnet", image_size=32, output_stride=8),
        objective=SEEDObjective(pool="mean", queue=4096),
        optimizer=OptimizerConfig(base_lr=2e-3, lr_batch=None, warmup=Share(n=0.1), betas=(0.9, 0.999)),
        budget=BudgetConfig(
            duration=Images(n=64_000),
            batch_size=128,
            checkpoint_every=Images(n=16_000),
            probe_every=Images(n=16_000),
            log_every=10,
        ),
    )
