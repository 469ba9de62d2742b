"""SimMIM: its config, upstream's recipe at the size of ViT-Tiny, and one for two CPU cores."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from vitlet.augmentation import Centre, Resample, View
from vitlet.recipe import (
    BudgetConfig,
    Count,
    DataConfig,
    EncoderConfig,
    ObjectiveConfig,
    Recipe,
    SteppedOptimizerConfig,
)
from vitlet.recipes.mae import mae_micro
from vitlet.units import Epochs

if TYPE_CHECKING:
    from vitlet.methods.simmim import SimMIM
    from vitlet.nn.encoder import Encoder


class SimMIMObjective(ObjectiveConfig):
    """Xie et al. 2022; see `vitlet.methods.simmim`."""

    drops_branches: ClassVar[bool] = True
    method: Literal["simmim"] = "simmim"
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.6
    unit_pixels: Count = 32
    """Side of the squares that are masked as a unit."""

    def build(self, encoder: "Encoder", *, num_classes: int, seed: int) -> "SimMIM":
        """Build the objective; labels are not used."""
        from vitlet.methods.simmim import SimMIM

        return SimMIM(encoder, mask_ratio=self.mask_ratio, unit_pixels=self.unit_pixels, seed=seed)


def simmim_tiny() -> Recipe[SimMIMObjective, EncoderConfig, SteppedOptimizerConfig]:
    """SimMIM for ViT-Tiny, 800 epochs of ImageNet-1k: Wang et al. 2023, Appendix B.5, whose results are not known.

    Published: unknown, and so are the paper's settings; these are upstream's for ViT-B [L]. Measured here: not run.
    The learning rate drops to a tenth at epoch 700 instead of following a cosine. Published precision is fp16; bf16 is
    the default here. The network is the plain ViT in the place of upstream's BEiT block (relative positions,
    LayerScale, no absolute positions); `encoder.relative_position=true` adds that block's parts.
    """
    return Recipe[SimMIMObjective, EncoderConfig, SteppedOptimizerConfig](
        name="simmim_tiny",
        data=DataConfig(
            views=(View(size=224, crop=Resample(scale=(0.67, 1.0), interpolation="bilinear")),),
            evaluation=View(size=224, crop=Centre(), flip=0),
        ),
        encoder=EncoderConfig(drop_path=0.1),
        objective=SimMIMObjective(),
        optimizer=SteppedOptimizerConfig(
            base_lr=1e-4,
            lr_batch=512,
            warmup=Epochs(n=10),
            warmup_lr=2e-6,
            milestones=(700 / 800,),
            betas=(0.9, 0.999),
            clip_norm=5.0,
        ),
        budget=BudgetConfig(duration=Epochs(n=800), batch_size=2048, precision="bf16", log_every=20),
    )


def simmim_micro() -> Recipe[SimMIMObjective]:
    """SimMIM for images near 32 pixels and two CPU cores. Ours, not the paper's.

    Measured here: `docs/results/`. Units of 8 px are two patches wide, like 32 px at full scale, and give 16 units, of
    which 10 are masked. Same images, encoder and budget of views as `mae_micro`, so that the two can be compared; a
    step costs about twice as much, since all patches are encoded. The learning rate is lower than MAE's, since
    the loss is an absolute error on raw pixels, which nothing normalises.
    """
    recipe = mae_micro()
    return Recipe[SimMIMObjective](
        name="simmim_micro",
        data=recipe.data,
        encoder=recipe.encoder,
        objective=SimMIMObjective(unit_pixels=8),
        optimizer=recipe.optimizer.changed(base_lr=1e-3, betas=(0.9, 0.999), clip_norm=5.0),
        budget=recipe.budget,
    )
