"""Transfer recipes: the machinery of the authors' code, and grids with every combination once."""

import pytest

from vitlet.errors import UsageError
from vitlet.recipe import Recipe
from vitlet.recipes import by_name
from vitlet.recipes.transfer import MICRO_GRID, PAPER_GRIDS, Grid
from vitlet.units import Epochs, Share, to_steps

SGD = [*PAPER_GRIDS]
SIZES = {
    "transfer_flowers": 2_040,
    "transfer_pets": 3_680,
    "transfer_aircraft": 6_667,
    "transfer_cars": 8_144,
    "transfer_cifar100": 50_000,
}


@pytest.mark.parametrize("name", SGD)
def test_the_machinery_is_that_of_the_papers_code(name: str) -> None:
    recipe = by_name(name)
    optimizer = recipe.optimizer
    assert (optimizer.kind, optimizer.betas[0], optimizer.weight_decay, optimizer.clip_norm) == ("sgd", 0.9, 0, 1.0)
    assert (optimizer.warmup_lr, optimizer.final_lr, optimizer.layer_decay) == (0, 1e-6, 0.75)
    assert recipe.budget.batch_size == optimizer.lr_batch == 512
    (view,) = recipe.data.views
    assert (view.size, view.crop.scale, view.crop.interpolation, view.flip) == (224, (0.08, 1.0), "bicubic", 0.5)
    assert (view.rand_augment, view.jitter, view.erase, view.blur) == (None, None, 0, 0)
    objective = recipe.objective.to_json()
    assert (objective["mixup"], objective["cutmix"], objective["smoothing"]) == (0, 0, 0)
    assert objective["pool"] == "mean"
    assert recipe.encoder.drop_path == 0
    assert not recipe.encoder.final_norm


def test_cifar_100_is_the_published_script() -> None:
    recipe = by_name("transfer_cifar100")
    assert recipe.optimizer.lr(512) == pytest.approx(0.1)
    assert (recipe.budget.duration, recipe.optimizer.warmup) == (Epochs(n=50), Epochs(n=10))
    # ... and one of the settings that its grid holds.
    assert recipe in PAPER_GRIDS["transfer_cifar100"].settings(recipe)


@pytest.mark.parametrize("name", SGD)
def test_a_fifth_of_the_images_can_be_held_out_without_an_empty_epoch(name: str) -> None:
    recipe = by_name(name)
    for share in (1.0, 0.8):
        assert to_steps(Epochs(n=1), num_images=int(share * SIZES[name]), batch_size=recipe.budget.batch_size) >= 3


def test_inaturalist_is_trained_as_imagenet_is() -> None:
    recipe, imagenet = by_name("transfer_inat18"), by_name("finetune_tiny_impr_100e")
    assert recipe == imagenet.changed(name="transfer_inat18")
    assert "transfer_inat18" not in PAPER_GRIDS


def _values(recipe: Recipe) -> tuple[float, float, float, float]:
    optimizer, length = recipe.optimizer, recipe.budget.duration
    assert isinstance(optimizer.warmup, Epochs | Share)
    return optimizer.base_lr, length.n, optimizer.warmup.n, optimizer.layer_decay


def test_a_grid_is_every_combination_once_and_nothing_else_changes() -> None:
    recipe = by_name("transfer_flowers")
    settings = PAPER_GRIDS["transfer_flowers"].settings(recipe)
    lengths = [(150, 30), (250, 50)]
    expected = [(lr, *pair, decay) for lr in (0.01, 0.03, 0.1) for pair in lengths for decay in (1.0, 0.75)]
    assert [_values(setting) for setting in settings] == expected
    assert len({setting.fingerprint() for setting in settings}) == 12
    for setting in settings:
        same = setting.changed(
            optimizer=setting.optimizer.changed(
                base_lr=recipe.optimizer.base_lr,
                warmup=recipe.optimizer.warmup,
                layer_decay=recipe.optimizer.layer_decay,
            ),
            budget=setting.budget.changed(duration=recipe.budget.duration),
        )
        assert same == recipe


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(UsageError, match="warm-up of 20 in a run of 10"):
        Grid.from_json({"lr": [0.1], "epochs": [[10, 20]]})
    with pytest.raises(UsageError, match="Did you mean lr"):
        Grid.from_json({"lrs": [0.1], "lr": [0.1], "epochs": [[10, 2]]})


def test_the_micro_grid_contains_a_setting_of_two_cores() -> None:
    recipe = by_name("transfer_micro")
    assert len(MICRO_GRID.settings(recipe)) == 8
    assert recipe.optimizer.kind == "sgd"
    assert recipe.encoder.image_size == 32
