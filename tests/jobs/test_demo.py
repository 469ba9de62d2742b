"""The main job told once, on images that stand where its digits would; only sizes are smaller than in the real one."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import SHORT, SMALLER, pixels, stands, write_image, write_images

from vitlet.errors import UsageError
from vitlet.evaluate.compare import Arm, Protocol, verdict
from vitlet.jobs import comparing
from vitlet.jobs import demo as module
from vitlet.jobs.demo import demo, few_labels
from vitlet.run import Run


@pytest.fixture(scope="module", autouse=True)
def _small() -> Any:
    """Budgets and shapes of a fraction of a second; one process, for each pays seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LONG", SHORT)
        patch.setattr(module, "_SHORT", {k: v for k, v in SMALLER.items() if k != "budget.probe_every"})
        patch.setattr(comparing, "available_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    write_images(out / "digits", train=12, test=6)
    assert demo(out=out, seeds=2, num_labels=8) == out / "report.html"
    return out


def runs(out: Path) -> list[str]:
    """The folders of fine-tuning, by start and seed."""
    names = sorted(p.name for p in out.glob("*-seed*"))
    assert [name.rsplit("-", 1)[0] for name in names] == [
        "pretrained-seed0", "pretrained-seed1", "scratch-seed0", "scratch-seed1", "untrained-seed0", "untrained-seed1",
    ]  # fmt: skip
    return names


def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "comparison.json").read_text())


def recomputed(protocol: dict[str, Any]) -> dict[str, str]:
    """The verdict that follows from the values in the document."""
    arms = [Arm(**{k: tuple(v) if isinstance(v, list) else v for k, v in arm.items()}) for arm in protocol["arms"]]
    return verdict(Protocol(protocol["name"], protocol["title"], (arms[0], arms[1]), protocol["n"], protocol["split"]))


def test_it_leaves_runs_a_document_and_a_page(told: Path) -> None:
    assert sorted(p.name for p in told.iterdir()) == sorted(
        ["comparison.json", "digits", "pretrained", "report.html", *runs(told)]
    )
    document = found(told)
    assert document["question"] == "Did pre-training help?"
    assert document.keys() == {
        "question",
        "data",
        "protocols",
        "verdict",
        "commands",
        "note",
        "machine",
        "wall_seconds",
    }
    assert [document["data"][f"num_{what}"] for what in ("train", "labelled", "test")] == [24, 8, 12]
    assert document["data"]["classes"] == ["dark", "light"]
    assert document["commands"] == ["vitlet demo --seeds 2 --num-labels 8"]
    assert [p["name"] for p in document["protocols"]] == ["finetune", "scratch", "knn", "logistic"]
    for protocol in document["protocols"]:
        other = "scratch" if protocol["name"] == "scratch" else "untrained"
        assert [arm["name"] for arm in protocol["arms"]] == ["pretrained", other]
        assert [arm["seeds"] for arm in protocol["arms"]] == [[0, 1], [0, 1]]
        assert (protocol["n"], protocol["split"], protocol["difference"]["pairs"]) == (12, "test", 2)


def test_every_number_is_that_of_a_run(told: Path) -> None:
    verdict, scratch = (protocol["arms"] for protocol in found(told)["protocols"][:2])
    assert verdict[0] == scratch[0]
    arms = [verdict[0], scratch[1], verdict[1]]
    assert [run for arm in arms for run in arm["runs"]] == runs(told)
    for arm in arms:
        for value, cpu_seconds, name in zip(arm["values"], arm["cpu_seconds"], arm["runs"], strict=True):
            run = Run(told / name)
            assert json.loads((run.results / "top1.json").read_text())["value"] == value
            assert json.loads((run.path / "environment.json").read_text())["cpu_seconds"] == cpu_seconds


def test_all_starts_have_the_same_terms(told: Path) -> None:
    names = runs(told)
    for seed in range(2):
        three = [Run(told / name) for name in names[seed::2]]
        recipes = [run.recipe_json() for run in three]
        assert recipes[0] == recipes[1] == recipes[2]
        launches = [json.loads((run.path / "environment.json").read_text())["launch"] for run in three]
        pretrained, scratch, untrained = launches
        assert pretrained["init"].endswith("/pretrained")
        assert pretrained.pop("init") == untrained.pop("init")
        assert scratch.pop("init") is None
        assert [launch.pop("keep_blocks") for launch in launches] == [None, None, 0]
        assert [launch.pop("start") == "random" for launch in launches] == [False, True, False]
        assert launches[0] == launches[1] == launches[2]
        assert recipes[0]["budget"]["seed"] == seed


def test_the_page_says_what_the_values_say(told: Path) -> None:
    document = found(told)
    assert document["verdict"] == recomputed(document["protocols"][0])
    page = re.sub(r"\s+", " ", (told / "report.html").read_text())
    assert document["verdict"]["sentence"].partition(": ")[2].split(" (")[0] in page
    for words in ("Did pre-training help?", "vitlet demo --seeds 2", "8 labels", "What the model sees"):
        assert words in page


def test_a_second_call_uses_finished_runs_and_tells_of_an_arm_that_loses(
    told: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values that pre-training lost by are put into the runs; nothing but these can make the sentence."""
    for name, value in zip(runs(told), (0.25, 0.35, 0.1, 0.1, 0.85, 0.9), strict=True):
        file = told / name / "results/top1.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"value": value}))
    before = {name: stands(told / name) for name in ("pretrained", *runs(told))}
    monkeypatch.setattr(comparing, "ProcessPoolExecutor", None)  # none is started where nothing is to be done
    demo(out=told, seeds=2, num_labels=8)
    assert {name: stands(told / name) for name in before} == before, "nothing was trained again"
    document = found(told)
    assert document["protocols"][0]["arms"][0]["values"] == [0.25, 0.35]
    assert document["verdict"]["answer"] == "no"
    sentence = "did not help: fine-tuning with 8 labels reached 30.0 %, and 87.5 % without it"
    assert sentence in document["verdict"]["sentence"]
    assert sentence in capsys.readouterr().out
    assert "30.0" in (told / "report.html").read_text()


def test_without_labels_the_page_shows_the_health(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        for i in range(12):
            write_image(tmp_path / "out/digits" / split / f"{i}.png", i, light=bool(i % 2))
    page = demo(out=tmp_path / "out", seeds=2).read_text()
    assert "nobody can say whether it helped" in capsys.readouterr().out
    assert "Health during pre-training" in page
    assert "Did pre-training help?" not in page
    assert not (tmp_path / "out/comparison.json").exists()
    assert [p.name for p in (tmp_path / "out").iterdir() if (p / "recipe.json").is_file()] == ["pretrained"]


@pytest.mark.parametrize(("scale", "recipe"), [(1, "mae_micro"), (2, "mae_micro_crops")])
def test_the_size_of_the_users_images_decides_the_recipe(
    scale: int, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ended early: the recipe's batch is larger than four images."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.tile(pixels(i, light=True), (scale, scale, 1))).save(tmp_path / f"images/{i}.png")
    with pytest.raises(UsageError, match="is larger than the 4 training images"):
        demo(data=tmp_path / "images", out=tmp_path / "out")
    assert f"Pre-training {recipe} on all" in capsys.readouterr().out


def test_no_seed_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 seeds"):
        demo(out=tmp_path / "out", seeds=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("counts", "labels"),
    [
        ([400] * 10, 200),
        ([400, 30], 30),
        ([39, 41], 38),
        ([400, 2], 2),
        ([400, 1], 2),
        ([0, 100, 100], 40),
        ([400], 0),
        ([0, 400], 0),
        ([], 0),
    ],
)
def test_few_labels_leave_half_of_the_smallest_class(counts: list[int], labels: int) -> None:
    assert few_labels(np.repeat(np.arange(len(counts)), counts)) == labels
