"""MoCo-v3: its config, and the recipes of the paper and for two CPU cores."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from vitlet.augmentation import Centre, Jitter, Resample, View
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
)
from vitlet.recipes.mae import mae_micro
from vitlet.recipes.supervised import require_normed_token
from vitlet.units import Epochs, Images, Share

if TYPE_CHECKING:
    from vitlet.methods.mocov3 import MoCoV3
    from vitlet.nn.encoder import Encoder


MILD = Jitter(brightness=0.3, contrast=0.3, saturation=0.2, hue=0.05)
"""Colour jitter of the micro recipes' views."""


class MoCoV3Objective(ObjectiveConfig):
    """Chen, Xie and He 2021; see `vitlet.methods.mocov3`."""

    method: Literal["mocov3"] = "mocov3"
    hidden_width: Count = 4096
    output_width: Count = 256
    temperature: Positive = 0.2
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Momentum of the momentum encoder at the first step; it rises to 1 along half a cosine."""
    train_patches: bool = True
    """The MoCo-v3 paper freezes the random patch embedding; Wang et al. train it."""

    @property
    def couples_samples(self) -> bool:
        """True: every image is contrasted with all others of the batch."""
        return True

    def require_fit(self, recipe: Recipe) -> None:
        """Require two views of one size, and a final norm, since the heads read the class token."""
        sizes = [view.size for view in recipe.data.views]
        if len(sizes) != 2 or sizes[0] != sizes[1]:
            raise UsageError(
                f"MoCo-v3 compares two views of one size, data.views has {len(sizes)}, of {sizes} pixels",
                fix="two items in data.views, with the same size",
            )
        require_normed_token(recipe, "class", may_pool=False)

    def build(self, encoder: "Encoder", *, num_classes: int, seed: int) -> "MoCoV3":
        """Build the objective; labels are not used."""
        from vitlet.methods.mocov3 import MoCoV3

        return MoCoV3(
            encoder,
            hidden_width=self.hidden_width,
            output_width=self.output_width,
            temperature=self.temperature,
            momentum=self.momentum,
            train_patches=self.train_patches,
            seed=seed,
        )


def mocov3_tiny_400e() -> Recipe[MoCoV3Objective]:
    """MoCov3-Tiny, 400 epochs of ImageNet-1k: Wang et al. 2023, Table 1, row MoCo-v3.

    Published: 76.8 top-1 after `finetune_tiny_impr_300e` with layer decay 0.75 [R]. Measured here: not run. Published
    precision is fp16 with loss scaling; bf16 is the default here. As in the authors' code, weight decay applies to
    everything, including norms, biases and tokens; the patch embedding is trained; and the first half of the position
    embedding tells rows apart, where MAE's tells columns apart.
    """
    crop, jitter = Resample(interpolation="bilinear"), Jitter()
    return Recipe[MoCoV3Objective](
        name="mocov3_tiny_400e",
        data=DataConfig(
            views=(
                View(size=224, crop=crop, jitter=jitter, blur=1.0, grayscale=0.2),
                View(size=224, crop=crop, jitter=jitter, blur=0.1, grayscale=0.2, solarize=0.2),
            ),
            evaluation=View(size=224, crop=Centre(), flip=0),
        ),
        encoder=EncoderConfig(position="sincos", sincos_order="row-column", init="moco"),
        objective=MoCoV3Objective(),
        optimizer=OptimizerConfig(
            base_lr=1.5e-4,
            warmup=Epochs(n=40),
            warmup_lr=1e-6,
            weight_decay=0.1,
            decay_tokens=True,
            decay_one_dimensional=True,
            betas=(0.9, 0.999),
        ),
        budget=BudgetConfig(duration=Epochs(n=400), batch_size=1024, precision="bf16", log_every=50),
    )


def mocov3_micro() -> Recipe[MoCoV3Objective]:
    """MoCo-v3 for images near 32 pixels and two CPU cores. Ours, not the paper's.

    Measured here: `docs/results/`. A few hundred steps differ from a hundred thousand: batches of 128 buy steps rather
    than negatives; a copy with momentum 0.99 would hardly leave its random start, so momentum begins at 0.9; and colour
    jitter is mild, since ignoring colours is the first thing a network learns and costs more than it gains before
    shapes are learned. An image costs six to eight times as much as in `mae_micro`: two whole views, seen by two
    networks.
    """
    view = View(size=32, crop=Resample(scale=(0.3, 1.0), interpolation="bilinear"), jitter=MILD)
    return Recipe[MoCoV3Objective](
        name="mocov3_micro",
        data=DataConfig(views=(view, view), evaluation=View(size=32, crop=Centre(share=1.0), flip=0)),
        encoder=mae_micro().encoder,  # methods are compared from one random initialisation
        objective=MoCoV3Objective(hidden_width=512, output_width=128, momentum=0.9),
        optimizer=OptimizerConfig(base_lr=2e-3, lr_batch=None, warmup=Share(n=0.1), betas=(0.9, 0.999)),
        budget=BudgetConfig(
            duration=Images(n=32_000),
            batch_size=128,
            checkpoint_every=Images(n=8_000),
            probe_every=Images(n=8_000),
            log_every=10,
        ),
    )
