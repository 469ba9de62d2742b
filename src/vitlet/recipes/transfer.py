"""Transfer: full fine-tuning on small data sets, as in Wang et al. 2023, Tables 4 and 5, and a micro recipe.

The set-up (SGD with Nesterov momentum, no weight decay, gradient norm clipped at 1, batch 512, random crops and flips
only, plain cross-entropy) is that of the authors' code [C]; so are the defaults of learning rate 0.03 and layer decay
0.75. The values to choose among, `PAPER_GRIDS`, are recalled from the paper's appendix A.4; only CIFAR-100's agree with
a published script, the others are unconfirmed.

Differences: a head always starts from random weights, while the authors' code takes the last norm from an encoder that
was trained with labels; and settings are chosen on training images (`vitlet.jobs.transferring`), theirs were chosen on
the test images.
"""

from typing import Annotated

from pydantic import Field, model_validator

from vitlet.augmentation import Centre, Resample, View
from vitlet.config import Config
from vitlet.errors import UsageError
from vitlet.recipe import BudgetConfig, DataConfig, EncoderConfig, OptimizerConfig, Recipe
from vitlet.recipes.supervised import SupervisedObjective, finetune_micro, finetune_tiny_impr_100e
from vitlet.units import Epochs, Share

_Lr = Annotated[float, Field(gt=0, le=100)]
_Decay = Annotated[float, Field(gt=0, le=1)]
_NumEpochs = Annotated[float, Field(ge=0, le=1e6)]


class Grid(Config):
    """Values that a transfer chooses among: every combination is one setting."""

    lr: Annotated[tuple[_Lr, ...], Field(min_length=1)]
    """Learning rates at the recipe's `optimizer.lr_batch`."""
    epochs: Annotated[tuple[tuple[_NumEpochs, _NumEpochs], ...], Field(min_length=1)]
    """Pairs of total length and warm-up."""
    layer_decay: Annotated[tuple[_Decay, ...], Field(min_length=1)] = (1.0, 0.75)

    @model_validator(mode="after")
    def _warm_up_fits(self) -> "Grid":
        for whole, warmup in self.epochs:
            if warmup > whole:
                raise UsageError(
                    f"a warm-up of {warmup:g} in a run of {whole:g} epochs", fix=f"[{whole:g}, {whole / 5:g}] in epochs"
                )
        return self

    def settings(self, recipe: Recipe) -> list[Recipe]:
        """Return `recipe` with each combination, in a fixed order: learning rate, length, decay."""
        return [
            recipe.changed(
                optimizer=recipe.optimizer.changed(base_lr=lr, warmup=Epochs(n=warmup), layer_decay=decay),
                budget=recipe.budget.changed(duration=Epochs(n=whole)),
            )
            for lr in self.lr
            for whole, warmup in self.epochs
            for decay in self.layer_decay
        ]


_FINE = (0.01, 0.03, 0.1)
PAPER_GRIDS = {
    "transfer_flowers": Grid(lr=_FINE, epochs=((150, 30), (250, 50))),
    "transfer_pets": Grid(lr=_FINE, epochs=((70, 14), (150, 30))),
    "transfer_aircraft": Grid(lr=_FINE, epochs=((50, 10), (100, 20))),
    "transfer_cars": Grid(lr=_FINE, epochs=((50, 10), (100, 20))),
    "transfer_cifar100": Grid(lr=(0.03, 0.1, 0.3), epochs=((25, 5), (50, 10))),
}
"""By recipe. iNaturalist-18 has none: it is trained like ImageNet."""
MICRO_GRID = Grid(lr=(0.03, 0.1), epochs=((10, 2), (20, 4)))
"""For `transfer_micro`. Ours."""


def transfer_flowers() -> Recipe[SupervisedObjective]:
    """Fine-tuning on Flowers-102, train and val together: Wang et al. 2023, Tables 4 and 5, first column.

    Published: set-up, default learning rate and default layer decay [C]; no confirmed score, and the length is
    unconfirmed. Precision here is bf16. Measured here: not run. Of 2,040 training images an epoch uses 1,536, three
    whole batches.
    """
    return _transfer("transfer_flowers")


def transfer_pets() -> Recipe[SupervisedObjective]:
    """Fine-tuning on Oxford-IIIT Pets, trainval: Wang et al. 2023, Tables 4 and 5, second column.

    Published: set-up [C]; no confirmed score, and the length is unconfirmed. Precision here is bf16. Measured
    here: not run.
    """
    return _transfer("transfer_pets")


def transfer_aircraft() -> Recipe[SupervisedObjective]:
    """Fine-tuning on FGVC-Aircraft, trainval, by variant: Wang et al. 2023, Tables 4 and 5, third column.

    Published: set-up [C]; no confirmed score, and the length is unconfirmed. Precision here is bf16. Measured
    here: not run.
    """
    return _transfer("transfer_aircraft")


def transfer_cars() -> Recipe[SupervisedObjective]:
    """Fine-tuning on Stanford Cars: Wang et al. 2023, Tables 4 and 5, fourth column.

    Published: set-up [C]; no confirmed score, and the length is unconfirmed. Precision here is bf16. Measured
    here: not run.
    """
    return _transfer("transfer_cars")


def transfer_cifar100() -> Recipe[SupervisedObjective]:
    """Fine-tuning on CIFAR-100, enlarged to 224 pixels: Wang et al. 2023, Tables 4 and 5, fifth column.

    Published: every value, in a script shared by DeiT-, MAE- and MoCo-v3-Tiny [C]; no confirmed score.
    Precision here is bf16. Measured here: not run.
    """
    recipe = _transfer("transfer_cifar100")
    return recipe.changed(
        optimizer=recipe.optimizer.changed(base_lr=0.1, warmup=Epochs(n=10)),
        budget=recipe.budget.changed(duration=Epochs(n=50)),
    )


def transfer_inat18() -> Recipe[SupervisedObjective]:
    """`finetune_tiny_impr_100e` on iNaturalist-18, train to val: Wang et al. 2023, Tables 4 and 5, sixth column.

    Published: no confirmed score, and unknown settings; it is said to be trained like ImageNet. Measured here: not
    run.
    """
    return finetune_tiny_impr_100e().changed(name="transfer_inat18")


def transfer_micro() -> Recipe[SupervisedObjective]:
    """`transfer_flowers` for images near 32 pixels and two CPU cores. Ours, not the paper's.

    Measured here: not run.
    """
    recipe, micro = _transfer("transfer_micro"), finetune_micro()
    return recipe.changed(
        data=micro.data,
        encoder=micro.encoder,
        optimizer=recipe.optimizer.changed(base_lr=0.1, lr_batch=64, warmup=Share(n=0.2)),
        budget=BudgetConfig(duration=Epochs(n=20), batch_size=64, checkpoint_every=Share(n=0.25)),
    )


def _transfer(name: str) -> Recipe[SupervisedObjective]:
    """Settings common to all data sets; the length is the grid's first (shorter) one, if there is a grid."""
    grid = PAPER_GRIDS.get(name)
    whole, warmup = grid.epochs[0] if grid else (50, 10)
    return Recipe[SupervisedObjective](
        name=name,
        data=DataConfig(views=(View(size=224, crop=Resample()),), evaluation=View(size=224, crop=Centre(), flip=0)),
        encoder=EncoderConfig(final_norm=False),
        objective=SupervisedObjective(),
        optimizer=OptimizerConfig(
            kind="sgd",
            base_lr=0.03,
            lr_batch=512,
            warmup=Epochs(n=warmup),
            final_lr=1e-6,
            weight_decay=0.0,
            betas=(0.9, 0.999),
            layer_decay=0.75,
            clip_norm=1.0,
        ),
        budget=BudgetConfig(duration=Epochs(n=whole), batch_size=512, precision="bf16", checkpoint_every=Share(n=0.1)),
    )
