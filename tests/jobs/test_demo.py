"""The main job told once, on images that stand where its digits would; only sizes are smaller than in the real one."""

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import SHORT, SMALLER, pixels, stands, write_image, write_images

from in_place import in_place
from vitlet.cli import main
from vitlet.disk import write_json
from vitlet.errors import DataError, UsageError
from vitlet.evaluation.compare import Arm, Protocol, verdict
from vitlet.jobs import demo as module
from vitlet.jobs import images as images_module
from vitlet.jobs import side_by_side
from vitlet.jobs.demo import demo, few_labels
from vitlet.jobs.options import Options
from vitlet.jobs.reporting import report
from vitlet.run import Run


@pytest.fixture(scope="module", autouse=True)
def _small() -> Any:
    """Budgets and shapes of a fraction of a second; no process, for each pays seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LONG", SHORT)
        patch.setattr(module, "_FEWEST_IMAGES", 4)
        patch.setattr(module, "_SHORT", {k: v for k, v in SMALLER.items() if k != "budget.probe_every"})
        patch.setattr(side_by_side, "available_cores", lambda: 1)
        patch.setattr(side_by_side, "processes", in_place)
        yield


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    write_images(out / "digits", train=12, test=6)
    assert demo(out=out, seeds=2, num_labels=8) == out / "report.html"
    return out


def pretrained(out: Path) -> Path:
    """The one folder of pre-training."""
    (found,) = (path for path in out.glob("pretrained-*") if "-seed" not in path.name)
    return found


def runs(out: Path) -> list[str]:
    """The folders of fine-tuning, by start and seed."""
    names = sorted(p.name for p in out.glob("*-seed*"))
    assert [name.rsplit("-", 1)[0] for name in names] == [
        "pretrained-seed0", "pretrained-seed1", "scratch-seed0", "scratch-seed1", "untrained-seed0", "untrained-seed1",
    ]  # fmt: skip
    return names


def write_unlabelled(digits: Path) -> None:
    """Two splits of twelve images without classes."""
    for split in ("train", "test"):
        for i in range(12):
            write_image(digits / split / f"{i}.png", i, light=bool(i % 2))


def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "comparison.json").read_text())


def recomputed(protocol: dict[str, Any]) -> dict[str, str]:
    """The verdict that follows from the values in the document."""
    arms = [Arm(**{k: tuple(v) if isinstance(v, list) else v for k, v in arm.items()}) for arm in protocol["arms"]]
    return verdict(Protocol(protocol["name"], protocol["title"], (arms[0], arms[1]), protocol["n"], protocol["split"]))


@pytest.mark.long
def test_two_ranks_share_it(told: Path, tmp_path: Path, on_ranks: Callable[..., None]) -> None:
    """Pre-training batch by batch, so that sums differ in the last bits, and then whole fine-tunings and probes."""
    out = Path(shutil.copytree(told / "digits", tmp_path / "out/digits")).parent
    on_ranks(lambda: demo(out=out, seeds=2, num_labels=8), size=2)
    assert len(runs(out)) == len(runs(told))
    assert (out / "report.html").is_file()
    alone, both = (
        [(p["name"], [(arm["name"], len(arm["values"])) for arm in p["arms"]]) for p in found(of)["protocols"]]
        for of in (told, out)
    )
    assert both == alone
    losses = [[row["loss"] for row in Run(pretrained(of)).metrics() if "loss" in row] for of in (told, out)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_it_leaves_runs_a_document_and_a_page(told: Path) -> None:
    assert sorted(p.name for p in told.iterdir()) == sorted(
        ["comparison.json", "digits", pretrained(told).name, "report.html", *runs(told)]
    )
    document = found(told)
    assert document["question"] == "Did pre-training help?"
    assert document.keys() == {
        "question",
        "data",
        "protocols",
        "verdict",
        "commands",
        "pretrained",
        "note",
        "machine",
        "wall_seconds",
    }
    assert [document["data"][f"num_{what}"] for what in ("train", "labelled", "test")] == [24, 8, 12]
    assert document["data"]["classes"] == ["dark", "light"]
    assert document["commands"] == ["vitlet demo --seeds 2 --num-labels 8"]
    assert document["pretrained"] == pretrained(told).name
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
        first, scratch, untrained = launches
        assert first["init"] == str(pretrained(told))
        assert first.pop("init") == untrained.pop("init")
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
    told: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values that pre-training lost by are put into the runs; nothing but these can make the sentence."""
    for name, value in zip(runs(told), (0.25, 0.35, 0.1, 0.1, 0.85, 0.9), strict=True):
        file = told / name / "results/top1.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"value": value}))
    before = {name: stands(told / name) for name in (pretrained(told).name, *runs(told))}
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
    write_unlabelled(tmp_path / "out/digits")
    page = demo(out=tmp_path / "out", seeds=2).read_text()
    assert "nobody can say whether it helped" in capsys.readouterr().out
    assert "Health during pre-training" in page
    assert "Did pre-training help?" not in page
    assert not (tmp_path / "out/comparison.json").exists()
    runs = [p for p in (tmp_path / "out").iterdir() if (p / "recipe.json").is_file()]
    assert runs == [pretrained(tmp_path / "out")]


def test_unlabelled_images_in_the_folder_of_a_comparison_do_not_get_its_verdict(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the page of the demo nor one of the run alone; one of the runs that were compared does."""
    out = Path(shutil.copytree(told, tmp_path / "out"))
    first, compared = pretrained(out), runs(out)
    shutil.rmtree(out / "digits")
    write_unlabelled(out / "digits")
    page = demo(out=out, seeds=2, options=Options(quiet=True))
    assert capsys.readouterr().out == "", "quiet"
    assert "Did pre-training help?" not in page.read_text()
    assert "Health during pre-training" in page.read_text()
    (second,) = (path for path in out.glob("pretrained-*") if "-seed" not in path.name and path != first)

    def asks(*those: Path) -> bool:
        return "Did pre-training help?" in report(those, out=tmp_path / "page.html").read_text()

    assert asks(first)
    assert asks(first, *(out / name for name in compared))
    assert not asks(second)
    assert not asks(first, second)
    write_json(out / "comparison.json", found(out) | {"pretrained": second.name})
    assert asks(second), "the control: nothing else keeps the page from it"


def test_the_command_of_the_document_is_the_same_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell and then the command line read it."""
    data = tmp_path / "my $(images)"
    write_images(data, train=1)
    options = Options(workers=0, device="cpu", max_bad=0.25, follow_outside=True, quiet=True)
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "demo", lambda **words: calls.append(words))
    words = shlex.split(module._command(data, seeds=2, num_labels=8, options=options))
    assert words[0] == "vitlet"
    assert main([*words[1:], "--out", str(tmp_path / "out")]) == 0
    (call,) = calls
    assert call.pop("out") == tmp_path / "out"
    assert call == {"data": data, "seeds": 2, "num_labels": 8, "options": options.changed(quiet=False)}


@pytest.mark.parametrize(("scale", "recipe"), [(1, "mae_micro"), (2, "mae_micro_crops")])
def test_the_size_of_the_users_images_decides_the_recipe(
    scale: int, recipe: str, tmp_path: Path, pretrainings: list[dict[str, Any]]
) -> None:
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.tile(pixels(i, light=True), (scale, scale, 1))).save(tmp_path / f"images/{i}.png")
    with pytest.raises(_Stopped):
        demo(data=tmp_path / "images", out=tmp_path / "out")
    (asked,) = pretrainings
    assert (asked["recipe"], asked["set"]["budget.batch_size"]) == (recipe, 4), "no more than there are images"


class _Stopped(Exception):
    """Where pre-training would begin."""


@pytest.fixture
def pretrainings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What pre-training was asked for; it does not begin."""
    asked: list[dict[str, Any]] = []

    def stop(recipe: str, **words: Any) -> None:
        asked.append({"recipe": recipe, **words})
        raise _Stopped

    monkeypatch.setattr(module, "pretrain", stop)
    return asked


@pytest.mark.usefixtures("pretrainings")
class TestRanks:
    def test_check_the_images_after_the_first_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_ranks: Callable[..., None]
    ) -> None:
        """Each decodes on all cores; the second finds the verdicts in the cache."""
        write_images(tmp_path / "out/digits", train=12, test=6)
        check = images_module.check

        def noted(*words: Any, **named: Any) -> Any:
            began = time.monotonic()
            time.sleep(0.5)
            found = check(*words, **named)
            (tmp_path / f"judged-{os.environ['RANK']}").write_text(json.dumps([began, time.monotonic()]))
            return found

        monkeypatch.setattr(images_module, "check", noted)

        def body() -> None:
            with pytest.raises(_Stopped):
                demo(out=tmp_path / "out", seeds=1, num_labels=8)

        on_ranks(body, size=2)
        first, second = sorted(json.loads(path.read_text()) for path in tmp_path.glob("judged-*"))
        assert first[1] <= second[0]

    def test_that_cannot_share_a_batch_are_refused_with_numbers_that_can(
        self, tmp_path: Path, on_ranks: Callable[..., None]
    ) -> None:
        """There is no option for the size of a batch, which the loader would advise."""
        write_images(tmp_path / "out/digits", train=12, test=6)

        def body() -> None:
            with pytest.raises(UsageError, match=r"of 8 images do not divide over 3 ranks.*--nproc-per-node 1 or 2$"):
                demo(out=tmp_path / "out", seeds=1, num_labels=8)

        on_ranks(body, size=3)


class TestBeforeAnythingIsTrained:
    def test_more_labels_than_there_are_are_refused(self, tmp_path: Path, pretrainings: list[dict[str, Any]]) -> None:
        data = write_images(tmp_path / "images", train=8, test=4)
        with pytest.raises(DataError, match=r"has 8 images, 9 are wanted.*--num-labels 16 or less"):
            demo(data=data, out=tmp_path / "out", num_labels=18)
        assert not pretrainings
        with pytest.raises(_Stopped):
            demo(data=data, out=tmp_path / "control", num_labels=16)

    @pytest.mark.parametrize("labelled", [True, False])
    def test_too_few_images_are_refused(
        self, labelled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrainings: list[dict[str, Any]]
    ) -> None:
        """Of 32 training images one cannot be used."""
        monkeypatch.setattr(module, "_FEWEST_IMAGES", 32)
        images = tmp_path / "images"
        for i in range(32):
            write_image(images / ("ab"[i % 2] if labelled else "") / f"{i}.png", i, light=bool(i % 2))
        path = sorted(images.rglob("*.png"))[0]
        content = path.read_bytes()
        path.write_bytes(b"no image")
        options = Options(workers=0, max_bad=0.1)
        with pytest.raises(DataError, match=r"31 training images .*32 are needed.*learn them by heart.*at least 32"):
            demo(data=images, out=tmp_path / "out", options=options)
        assert not pretrainings
        assert not (tmp_path / "out").exists()
        path.write_bytes(content)
        with pytest.raises(_Stopped):
            demo(data=images, out=tmp_path / "out", options=options)

    def test_a_batch_is_no_larger_than_the_labels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two labels, of which a class has two images; the recipe's own batch of 8 would be refused, so the control."""
        write_images(tmp_path / "out/digits", train=12, test=6)
        for path in sorted((tmp_path / "out/digits/train/light").iterdir())[2:]:
            path.unlink()
        demo(out=tmp_path / "out", seeds=1, options=Options(workers=0, max_bad=0.25))
        assert found(tmp_path / "out")["data"]["num_labelled"] == 2
        assert found(tmp_path / "out")["commands"] == [
            "vitlet demo --seeds 1 --num-labels 2 --workers 0 --max-bad 0.25"
        ]
        sizes = {Run(path).recipe_json()["budget"]["batch_size"] for path in (tmp_path / "out").glob("*-seed0-*")}
        assert sizes == {2}
        monkeypatch.setattr(module, "_filled", lambda recipe, changes, *_: changes)
        with pytest.raises(UsageError, match="batch size 8 is larger than the 2 training images"):
            demo(out=tmp_path / "out", seeds=1)


@pytest.mark.parametrize(("cores", "beside"), [(2, 1), (1, 0)])
def test_scratch_is_fine_tuned_beside_the_pre_training(
    cores: int, beside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrainings: list[dict[str, Any]]
) -> None:
    """Where a core is left for it; the control has none."""
    write_images(tmp_path / "out/digits", train=12, test=6)
    monkeypatch.setattr(side_by_side, "available_cores", lambda: cores)
    with pytest.raises(_Stopped):
        demo(out=tmp_path / "out", seeds=1, num_labels=8)
    assert len(pretrainings) == 1
    assert sum(Run(path).is_finished for path in (tmp_path / "out").glob("scratch-seed0-*")) == beside


def test_other_images_in_the_same_folder_leave_the_first_ones_runs(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(told, tmp_path / "out"))
    before = {name: stands(out / name) for name in (pretrained(told).name, *runs(told))}
    write_image(out / "digits/train/dark/new.png", 99, light=False)
    demo(out=out, seeds=1, num_labels=8, options=Options(quiet=True))
    assert capsys.readouterr().out == "", "quiet"
    assert {name: stands(out / name) for name in before} == before
    assert len([path for path in out.glob("pretrained-*") if "-seed" not in path.name]) == 2
    assert found(out)["data"]["num_train"] == 25


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
