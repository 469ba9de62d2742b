"""A recipe: frozen values of data, encoder, objective, optimizer and budget, convertible to and from JSON.

Recipes are functions in `vitlet.recipes` that return a `Recipe`; a variant calls another and changes it. The only
method-specific part, `objective`, is a config of its own type, defined beside the recipes that use it.
"""

import abc
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, cast

from pydantic import Field, model_validator
from typing_extensions import TypeVar

from vitlet.augmentation import Centre, Fit, View
from vitlet.bounds import Count, Deviations, Fraction, Means, Positive, require_width
from vitlet.choices import Precision
from vitlet.config import Config, fingerprint
from vitlet.errors import UsageError
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.units import Duration, Epochs, Span, to_steps

if TYPE_CHECKING:
    from vitlet.methods.objective import Objective


_SMALLEST_IMAGE = 8
"""Side in pixels."""


class DataConfig(Config):
    """How images are prepared for the encoder."""

    views: Annotated[tuple[View, ...], Field(min_length=1)]
    """Views of each training image, each a separate tensor in the batch."""
    evaluation: View
    mean: Means = IMAGENET.mean
    std: Deviations = IMAGENET.std
    """For normalisation, with `mean`, which also fills what augmentation leaves empty."""

    @property
    def normalisation(self) -> Normalisation:
        """`mean` and `std`."""
        return Normalisation(self.mean, self.std)

    @model_validator(mode="after")
    def _evaluation_repeats(self) -> "DataConfig":
        if not isinstance(self.evaluation.crop, Centre | Fit):
            raise UsageError(
                f"data.evaluation.crop of the kind {self.evaluation.crop.kind}",
                why="Evaluation sees each image in one way, and so do programs that use the exported model",
                fix="a crop of the kind centre, or fit to see whole images",
            )
        return self


class EncoderConfig(Config):
    """A plain ViT (Dosovitskiy et al. 2021) as timm builds it."""

    kind: Literal["vit"] = "vit"
    image_size: Annotated[int, Field(ge=_SMALLEST_IMAGE, le=2048)] = 224
    patch_size: Annotated[int, Field(ge=1, le=64)] = 16
    width: Count = 192
    depth: Annotated[int, Field(ge=1, le=64)] = 12
    heads: Annotated[int, Field(ge=1, le=64)] = 12
    """The paper's ViT-Tiny has 12 heads, the original 3. Tensor shapes are the same: the number is metadata."""
    mlp_ratio: Positive = 4.0
    position: Literal["learned", "sincos"] = "learned"
    """`sincos` is fixed and never trained (MAE, MoCo-v3)."""
    sincos_order: Literal["column-row", "row-column"] = "column-row"
    """Which index the first half of the sin-cos embedding encodes: columns in MAE's code, rows in MoCo-v3's."""
    relative_position: bool = False
    """BEiT's block: a learned bias for each offset between patches, LayerScale 0.1, biases for queries and values but
    not for keys; in addition to the absolute position embedding, not instead of it."""
    inherit_qkv_bias: bool = False
    """Whether `relative_position` keeps the query and value biases of an initial encoder without it. The paper's code
    loses them because of a changed name; the key bias has no effect on a softmax and is always dropped."""
    final_norm: bool = True
    """LayerNorm after the last block; off if the head pools first and then normalises (`fc_norm`)."""
    drop_path: Fraction = 0.0
    init: Literal["timm", "xavier", "moco"] = "timm"
    """`timm`: truncated normal 0.02. `xavier`: uniform, as in MAE. `moco`: uniform, with queries, keys and values as
    separate matrices and a class token near zero, as in MoCo-v3."""

    @model_validator(mode="before")
    @classmethod
    def _has_patches(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "convnet":
            raise UsageError(
                "a ConvNet has no patches, and this recipe needs them",
                fix="encoder.kind=vit, or a recipe for ConvNets: seed_micro, seed_effb0, finetune_micro_convnet or "
                "finetune_effb0_impr_300e",
            )
        return values

    @model_validator(mode="after")
    def _fits(self) -> "EncoderConfig":
        size, patch = self.image_size, self.patch_size
        if size % patch:
            near = size // patch * patch
            raise UsageError(
                f"encoder.image_size {size} is not a multiple of encoder.patch_size {patch}",
                why="Patches must cover the image",
                fix=f"encoder.image_size={near if near >= _SMALLEST_IMAGE else near + patch}",
            )
        require_width("encoder.", width=self.width, heads=self.heads, sincos=self.position == "sincos")
        return self

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


class ConvNetConfig(Config):
    """A timm ConvNet, for methods that need only one vector per image."""

    kind: Literal["convnet"] = "convnet"
    architecture: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "efficientnet_b0"
    """timm's name, without a weights tag."""
    image_size: Annotated[int, Field(ge=_SMALLEST_IMAGE, le=2048)] = 224
    output_stride: Literal[8, 16, 32] = 32
    """Pixels between neighbouring features; below 32 the last stages are dilated, for small images."""

    @property
    def depth(self) -> int:
        """Number of blocks for layer decay: none."""
        return 0


AnyEncoderConfig = EncoderConfig | ConvNetConfig
Momentum = Annotated[float, Field(ge=0, lt=1)]
"""At 1 an average would never move."""


class OptimizerConfig(Config):
    """AdamW or SGD with linear warm-up and cosine decay per step."""

    kind: Literal["adamw", "sgd"] = "adamw"
    base_lr: Annotated[float, Field(gt=0, le=100)] = 1.5e-4
    """Learning rate at a global batch of `lr_batch`; scaled linearly with the batch size (Goyal et al. 2017)."""
    lr_batch: Count | None = 256
    """None: `base_lr` is the learning rate for any batch size."""
    warmup: Span = Epochs(n=40)
    warmup_lr: Annotated[float, Field(ge=0, le=100)] = 0.0
    final_lr: Annotated[float, Field(ge=0, le=100)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.05
    decay_tokens: bool = False
    """Weight decay on class and mask tokens and the position embedding too (as in the paper's MAE code)."""
    decay_one_dimensional: bool = False
    """Weight decay on biases and norms too (as in the paper's MoCo-v3)."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    """For AdamW's first and second moment; SGD uses only the first, as Nesterov momentum."""
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning-rate factor from each block to the one below it (Clark et al. 2020)."""
    clip_norm: Positive | None = None

    def lr(self, batch_size: int) -> float:
        """Peak learning rate at this global batch size."""
        return self.base_lr * (batch_size / self.lr_batch if self.lr_batch else 1.0)


class SteppedOptimizerConfig(OptimizerConfig):
    """`OptimizerConfig` with a learning rate that drops in steps instead of following a cosine."""

    milestones: tuple[Fraction, ...] = (8 / 9, 26 / 27)
    """Shares of the run; after each the learning rate drops to a tenth."""

    @model_validator(mode="after")
    def _ends_where_it_fell(self) -> "SteppedOptimizerConfig":
        if self.final_lr:
            raise UsageError("optimizer.final_lr has no effect beside optimizer.milestones", fix="optimizer.final_lr=0")
        return self


class RisingDecayOptimizerConfig(OptimizerConfig):
    """The same with a weight decay that changes along half a cosine over the run (DINO)."""

    final_weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.4
    """At the last step; `weight_decay` is that of the first."""


class BudgetConfig(Config):
    """Duration, batch size, precision, seed and intervals of a run."""

    duration: Duration
    batch_size: Count
    """Images per optimizer step, over all ranks and accumulation steps."""
    precision: Precision = "fp32"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    checkpoint_every: Span = Epochs(n=1)
    log_every: Annotated[int, Field(ge=1, le=10**6)] = 10
    """Steps between rows of metrics.jsonl."""
    probe_every: Span = Epochs(n=10)
    """Interval between measurements of the frozen features during pre-training (kNN with labels, health without)."""
    evaluate_every: Span | None = None
    """Interval between evaluations on held-out images during fine-tuning; the best model is kept beside the last. None:
    only the last is evaluated."""
    epoch_of: Literal["subset", "whole"] = "subset"
    """Images that an epoch (of `duration`, warm-up and so on) counts when training on a subset: the subset, or the
    whole set, so that subsets of any size are trained for equally many steps (Wang et al. 2023, Table 3)."""

    def epoch_images(self, num_images: int, *, num_whole: int | None = None) -> int:
        """Return how many images an epoch counts when training on `num_images` of `num_whole` (None: on all)."""
        return num_images if num_whole is None or self.epoch_of == "subset" else num_whole

    def steps(self, num_images: int, *, num_whole: int | None = None) -> int:
        """Return the optimizer steps of a run on `num_images` of `num_whole` (None: on all)."""
        counted = self.epoch_images(num_images, num_whole=num_whole)
        return to_steps(self.duration, num_images=counted, batch_size=self.batch_size)


class ObjectiveConfig(Config, abc.ABC):
    """The config of one method; its subclass is in `vitlet.recipes.<method>`."""

    learns_labels: ClassVar[bool] = False
    """Whether the method is fine-tuning rather than pre-training."""
    drops_branches: ClassVar[bool] = False
    """Whether the method drops residual branches at the rate of `encoder.drop_path`, which others refuse."""

    @property
    def couples_samples(self) -> bool:
        """Whether the loss of an image depends on the other images of its batch; see also `Recipe.couples_samples`."""
        return False

    @property
    def teacher_source(self) -> str | None:
        """Name of the teacher, as `weights.teacher` takes it; None: the method has none; empty: one must be given."""
        return None

    @property
    def pairs_samples(self) -> bool:
        """Whether images 2i and 2i + 1 of a batch are used together, so that no split may separate them."""
        return False

    def learns_objects(self) -> Literal["boxes", "masks"] | None:
        """The annotations it needs for the objects on an image; None if it needs none."""
        return None

    def require_fit(self, recipe: "Recipe") -> None:
        """Reject what this method cannot work with in the rest of the recipe; called whenever a recipe is created.

        By default a method uses one view per image; others override this.

        Raises:
            UsageError: naming the key to change.
        """
        if len(recipe.data.views) != 1:
            raise UsageError(
                f"{recipe.name} uses one view of each image, and data.views has {len(recipe.data.views)}",
                why="The others would be computed and discarded",
                fix="one item in data.views",
            )

    @abc.abstractmethod
    def build(self, encoder: Any, *, num_classes: int, seed: int) -> "Objective":
        """Build the objective around `encoder`; torch is imported only here.

        Args:
            encoder: The network to train; the objective holds it as `.encoder`.
            num_classes: Number of classes in the data; 0 without labels.
            seed: Seed of whatever the objective initialises besides the encoder.
        """


ObjectiveT = TypeVar("ObjectiveT", bound=ObjectiveConfig)
EncoderT = TypeVar("EncoderT", bound=AnyEncoderConfig, default=EncoderConfig)
OptimizerT = TypeVar("OptimizerT", bound=OptimizerConfig, default=OptimizerConfig)


class Recipe(Config, Generic[ObjectiveT, EncoderT, OptimizerT]):
    """Everything that determines the results of a run except the images themselves."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the function in `vitlet.recipes` that made it."""
    data: DataConfig
    encoder: EncoderT
    objective: ObjectiveT
    optimizer: OptimizerT
    budget: BudgetConfig

    @model_validator(mode="after")
    def _views_fit(self) -> "Recipe[ObjectiveT, EncoderT, OptimizerT]":
        wanted = self.encoder.image_size
        sizes = {"data.views.0.size": self.data.views[0].size, "data.evaluation.size": self.data.evaluation.size}
        wrong = [key for key, size in sizes.items() if size != wanted]
        if wrong:
            raise UsageError(
                f"{wrong[0]} {sizes[wrong[0]]} is not encoder.image_size {wanted}",
                why="The encoder sees whole views",
                fix=" and ".join(f"{key}={wanted}" for key in wrong),
            )
        return self

    @model_validator(mode="after")
    def _layers_decay(self) -> "Recipe[ObjectiveT, EncoderT, OptimizerT]":
        if isinstance(self.encoder, ConvNetConfig) and self.optimizer.layer_decay != 1:
            raise UsageError("layer decay has no effect on a ConvNet", fix="optimizer.layer_decay=1")
        return self

    @model_validator(mode="after")
    def _branches_drop(self) -> "Recipe[ObjectiveT, EncoderT, OptimizerT]":
        if isinstance(self.encoder, EncoderConfig) and self.encoder.drop_path and not self.objective.drops_branches:
            raise UsageError(
                f"encoder.drop_path {self.encoder.drop_path:g} has no effect in {self.name}",
                why="Its method drops no residual branches",
                fix="encoder.drop_path=0",
            )
        return self

    @model_validator(mode="after")
    def _batch_has_others(self) -> "Recipe[ObjectiveT, EncoderT, OptimizerT]":
        if self.couples_samples and self.budget.batch_size < 2:
            raise UsageError(
                f"a batch of one image for {self.name}",
                why="Its loss or its batch normalisation depends on the other images of a batch",
                fix="--batch-size 2 or more",
            )
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> "Recipe[ObjectiveT, EncoderT, OptimizerT]":
        self.objective.require_fit(cast("Recipe", self))
        return self

    @property
    def couples_samples(self) -> bool:
        """Whether the loss of an image depends on the rest of its batch: by the method, or by a ConvNet's batch norm.

        Such a batch has at least two images, and is not split for gradient accumulation.
        """
        return self.objective.couples_samples or isinstance(self.encoder, ConvNetConfig)

    def fingerprint(self) -> str:
        """Twelve hex digits that change with any value."""
        return fingerprint(self.to_json())
