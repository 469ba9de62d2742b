"""The look at frozen features while pre-training goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import QUIET, SHORT, write_image, write_images

from vitlet.data.index import open_index
from vitlet.jobs.launch import Launch
from vitlet.jobs.material import gather_material
from vitlet.jobs.probes import pretraining_probe
from vitlet.jobs.training import resolved
from vitlet.methods.objective import Objective
from vitlet.nn.encoder import Encoder
from vitlet.recipe import Recipe
from vitlet.run import Run
from vitlet.train.log import Teller


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return resolved("debug", {"set": SHORT})


@pytest.fixture(scope="module")
def objective(recipe: Recipe) -> Objective:
    encoder = Encoder(recipe.encoder, mean=recipe.data.mean, std=recipe.data.std, seed=0)
    return recipe.objective.build(encoder, num_classes=2, seed=0).eval()


def look(data: Path, recipe: Recipe, objective: Objective, run: Run) -> dict[str, Any]:
    launch = Launch("pretrain", recipe.fingerprint(), str(data))
    material = gather_material(open_index(data), recipe, launch, QUIET, Teller(quiet=True))
    return pretraining_probe(run, recipe, material, every=5).look(objective, 5)


HEALTH = {"feature_std", "effective_rank", "verdict", "advice"}


def test_neighbours_are_asked_where_there_are_labels_enough(
    recipe: Recipe, objective: Objective, tmp_path: Path
) -> None:
    found = look(write_images(tmp_path / "images", train=30), recipe, objective, Run(tmp_path / "run"))
    assert found.keys() == HEALTH | {"knn_top1"}
    assert found["knn_top1"] == 1.0, "brightness is in any features"
    assert (found["knn_top1"] * 15).is_integer()


def test_labels_that_say_nothing_are_not_read_from_the_features(
    recipe: Recipe, objective: Objective, tmp_path: Path
) -> None:
    """The control of the test before: the same images, each class half dark and half light."""
    for i in range(60):
        write_image(tmp_path / "images" / "ab"[i % 2] / f"{i:02}.png", i, light=i % 4 < 2)
    found = look(tmp_path / "images", recipe, objective, Run(tmp_path / "run"))
    assert found["knn_top1"] < 0.9


@pytest.mark.parametrize("kind", ["few", "unlabelled", "partly"])
def test_health_is_judged_without_neighbours(kind: str, recipe: Recipe, objective: Objective, tmp_path: Path) -> None:
    root = tmp_path / "images"
    if kind == "few":
        write_images(root, train=24)
    else:
        for i in range(60):
            write_image(root / f"{i:02}.png", i, light=bool(i % 2))
        if kind == "partly":
            rows = [f"{i:02}.png,{'ab'[i % 2] if i else ''}" for i in range(60)]
            (root / "table.csv").write_text("\n".join(["path,label", *rows]))
            root = root / "table.csv"
    found = look(root, recipe, objective, Run(tmp_path / "run"))
    assert found.keys() == HEALTH
    assert found["feature_std"] > 0 < found["effective_rank"]
    assert found["advice"].startswith(found["verdict"])


def test_equal_images_are_called_collapsed(recipe: Recipe, objective: Objective, tmp_path: Path) -> None:
    for i in range(8):
        write_image(tmp_path / "images" / f"{i}.png", 1, light=False)
    assert look(tmp_path / "images", recipe, objective, Run(tmp_path / "run"))["verdict"] == "collapsed"


def test_held_out_images_are_not_looked_at(recipe: Recipe, objective: Objective, tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", train=30, test=5)
    first = look(data, recipe, objective, Run(tmp_path / "run"))
    for path in data.glob("test/*/*.png"):
        write_image(path, 4000, light=path.parent.name == "dark")
    assert look(data, recipe, objective, Run(tmp_path / "run")) == first
    for path in data.glob("train/*/*.png"):
        write_image(path, int(path.stem) + 5000, light=path.parent.name == "light")
    assert look(data, recipe, objective, Run(tmp_path / "run")) != first, "the control"


def test_the_loss_so_far_is_part_of_the_verdict(recipe: Recipe, objective: Objective, tmp_path: Path) -> None:
    data, run = write_images(tmp_path / "images", train=8), Run(tmp_path / "run")
    run.path.mkdir()
    for losses, verdict in ((np.linspace(2, 1, 20), "learning"), (np.full(20, 2.0), "stalled")):
        run.metrics_file.write_text("".join(f'{{"step": {i}, "loss": {x}}}\n' for i, x in enumerate(losses)))
        assert look(data, recipe, objective, run)["verdict"] == verdict
