"""The look at frozen features while pre-training goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import QUIET, SHORT, write_image, write_images
from torch import Tensor

from vitlet.console import Teller
from vitlet.data.index import open_index
from vitlet.evaluation.knn import knn_predict
from vitlet.jobs import probes
from vitlet.jobs.launch import Launch
from vitlet.jobs.material import gather_material
from vitlet.jobs.options import Options
from vitlet.jobs.probes import finetuning_probe, pretraining_probe
from vitlet.jobs.training import pretrain, resolved
from vitlet.methods.objective import Objective
from vitlet.nn.encoder import Encoder
from vitlet.recipe import Recipe
from vitlet.run import Run
from vitlet.train.loop import Probe


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return resolved("debug", {"set": SHORT})


@pytest.fixture(scope="module")
def objective(recipe: Recipe) -> Objective:
    encoder = Encoder(recipe.encoder, normalisation=recipe.data.normalisation, seed=0)
    return recipe.objective.build(encoder, num_classes=2, seed=0).eval()


def probe(data: Path, recipe: Recipe, run: Run) -> Probe:
    launch = Launch("pretrain", recipe.fingerprint(), str(data))
    material = gather_material(open_index(data), recipe, launch, QUIET, Teller(quiet=True))
    return pretraining_probe(run, recipe, material, every=5)


def look(data: Path, recipe: Recipe, objective: Objective, run: Run) -> dict[str, Any]:
    return probe(data, recipe, run).look(objective, 5)


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


def partly_labelled(root: Path, *, labels: int) -> Path:
    """A table of 60 images that brightness tells apart, of which only so many have a label."""
    for i in range(60):
        write_image(root / f"{i:02}.png", i, light=bool(i % 2))
    rows = [f"{i:02}.png,{'ab'[i % 2] if i < labels else ''}" for i in range(60)]
    (root / "table.csv").write_text("\n".join(["path,label", *rows]))
    return root / "table.csv"


@pytest.mark.parametrize(("labels", "queries"), [(59, 14), (50, 12)])
def test_images_without_a_label_leave_the_neighbours_to_the_others(
    labels: int, queries: int, recipe: Recipe, objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def noted(bank: Tensor, codes: Tensor, rows: Tensor, *, num_classes: int) -> Tensor:
        asked.append((len(bank), len(rows)))
        return knn_predict(bank, codes, rows, num_classes=num_classes)

    monkeypatch.setattr(probes, "knn_predict", noted)
    data = partly_labelled(tmp_path / "images", labels=labels)
    found = look(data, recipe, objective, Run(tmp_path / "run"))
    assert found["knn_top1"] == 1.0
    assert asked == [(labels - queries, queries)]


@pytest.mark.parametrize("kind", ["few", "unlabelled", "partly"])
def test_health_is_judged_without_neighbours(kind: str, recipe: Recipe, objective: Objective, tmp_path: Path) -> None:
    root = tmp_path / "images"
    if kind == "few":
        write_images(root, train=24)
    elif kind == "partly":
        root = partly_labelled(root, labels=49)
    else:
        for i in range(60):
            write_image(root / f"{i:02}.png", i, light=bool(i % 2))
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


def test_the_first_loss_which_is_logged_between_the_others_hides_no_trend(
    recipe: Recipe, objective: Objective, tmp_path: Path
) -> None:
    data, run = write_images(tmp_path / "images", train=8), Run(tmp_path / "run")
    run.path.mkdir()
    steps = [1, *range(20, 161, 20)]
    losses = [1.0, 0.6, 0.58, 0.56, 0.54, 0.52, 0.5, 0.48, 0.46]
    rows = [f'{{"step": {step}, "loss": {loss}}}\n' for step, loss in zip(steps, losses, strict=True)]
    run.metrics_file.write_text("".join(rows))
    seldom = recipe.changed(budget=recipe.budget.changed(log_every=20))
    assert look(data, seldom, objective, run)["verdict"] == "learning"
    assert look(data, recipe, objective, run)["verdict"] == "stalled", "the control: all nine as if evenly spaced"
    run.metrics_file.write_text("".join(rows[:8]))
    assert look(data, seldom, objective, run)["verdict"] == "too early"


def test_a_line_has_the_neighbours_and_the_verdict_with_its_advice(recipe: Recipe, tmp_path: Path) -> None:
    tell = probe(write_images(tmp_path / "images", train=8), recipe, Run(tmp_path / "run")).tell
    assert tell is not None
    found = {"verdict": "stalled", "advice": "stalled: loss 1 at first, 1 now (noise). Try another rate."}
    assert tell(found) == found["advice"]
    assert tell(found | {"knn_top1": 0.8333}) == f"kNN 83.3 % on training images; {found['advice']}"


def test_held_out_accuracy_is_told_with_its_split(recipe: Recipe, tmp_path: Path) -> None:
    launch = Launch("pretrain", recipe.fingerprint(), str(write_images(tmp_path / "images", train=8, test=2)))
    material = gather_material(open_index(launch.data), recipe, launch, QUIET, Teller(quiet=True))
    tell = finetuning_probe(Run(tmp_path / "run"), recipe, material, every=5, facts=None).tell
    assert tell is not None
    assert tell({"held_out_top1": 0.75}) == "top-1 75.0 % on the test images"


def test_a_training_tells_of_its_health_and_of_images_that_it_does_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = write_images(tmp_path / "images", train=30), Run(tmp_path / "run")
    (data / "train/dark/phone.heic").write_bytes(b"x")
    pretrain("debug", data=data, out=run.path, options=Options(workers=0), set=SHORT)
    looks = [(row["step"], row["probe"]) for row in run.metrics() if "probe" in row]
    assert [(step, found["verdict"]) for step, found in looks] == [(3, "too early"), (6, "too early")]
    for told in (capsys.readouterr().out, run.log_file.read_text()):
        assert told.count("note: 1 file looks like an image in a format vitlet does not read: 1 .heic") == 1
        for step, found in looks:
            line = f"step {step}: kNN {100 * found['knn_top1']:.1f} % on training images; {found['advice']}"
            assert told.count(line) == 1
