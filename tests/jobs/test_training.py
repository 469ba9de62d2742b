"""The assembly of a training: what a run leaves, what changes no bit of it, and what is refused."""

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CLASSES, QUIET, SHORT, SMALLER, TIMING, interrupted, losses, rows, stands, weights, write_image

from vitlet.cli import main
from vitlet.console import Teller
from vitlet.data.index import open_index
from vitlet.errors import CheckpointError, DataError, UsageError
from vitlet.jobs import images
from vitlet.jobs.launch import Launch
from vitlet.jobs.material import gather_material, start_encoder
from vitlet.jobs.options import Options
from vitlet.jobs.training import finetune, pretrain, resolved, resume
from vitlet.recipes import from_json
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.weights.files import CARD
from vitlet.weights.names import CONFIG, WEIGHTS
from vitlet.weights.source import load_encoder


def shortly(data: Path, out: Path, **changes: Any) -> Run:
    """The training that `short` is, with some arguments more."""
    return pretrain("debug", **{"data": data, "out": out, "options": QUIET, "set": SHORT} | changes)


def shortly_tuned(data: Path, out: Path, **changes: Any) -> Run:
    arguments = {"init": None, "data": data, "out": out, "options": QUIET, "set": SMALLER, "num_labels": 12}
    return finetune("debug_supervised", **arguments | changes)


class TestLeaves:
    def test_the_files_that_are_documented_and_no_others(self, pretrained: Run, tuned: Run) -> None:
        kept = [f"checkpoints/step-000000{step}" for step in (10, 20)]
        both = {f"{folder}/{file}" for folder in kept for file in (checkpoint.STATE, checkpoint.MANIFEST)}
        both |= {f"encoder/{file}" for file in (CONFIG, WEIGHTS, CARD)}
        both |= {"recipe.json", "environment.json", "metrics.jsonl", "log.txt", "data_check.json", "left_out.json"}
        pictures = {f"analysis/reconstructions.{kind}" for kind in ("json", "npz")}
        for run, own in ((pretrained, pictures), (tuned, {"results/top1.json"})):
            found = {name for name in stands(run.path) if not name.startswith("results/") or run is tuned}
            board = {name for name in found if name.startswith("tensorboard/events.out.tfevents.")}
            assert len(board) == 1
            assert found - board == both | own

    def test_a_row_a_step_with_the_documented_keys(self, pretrained: Run, tuned: Run) -> None:
        keys = {"step", "epoch", "loss", "lr", "grad_norm", *TIMING}
        for run in (pretrained, tuned):
            steps = [row for row in run.metrics() if "probe" not in row]
            assert [row["step"] for row in steps] == [*range(1, 21)]
            assert all(keys <= row.keys() for row in steps)
            assert all(math.isfinite(value) for row in steps for value in row.values())
            assert all(row["images_per_second"] > 0 and 0 <= row["data_wait"] <= 1 for row in steps)
        assert [row["epoch"] for row in pretrained.metrics()[:3]] == [0.5, 1.0, 1.5], "32 images in batches of 16"
        assert [row["step"] for row in pretrained.metrics() if "probe" in row] == [10, 20]
        assert not any("probe" in row for row in tuned.metrics())

    def test_the_loss_falls(self, pretrained: Run, tuned: Run) -> None:
        for run in (pretrained, tuned):
            assert losses(run)[-1] < 0.8 * losses(run)[0]

    def test_the_recipe_and_the_command_that_replays_it(self, short: Run, data: Path, tmp_path: Path) -> None:
        recipe = from_json(short.recipe_json())
        assert recipe == resolved("debug", {"set": SHORT})
        environment = json.loads((short.path / "environment.json").read_text())
        verb, recipe_word, *options = environment["command"].split()[1:]
        assert (verb, options[0], options[2:]) == ("pretrain", "--data", ["--out", "NEW"])
        assert Path(recipe_word).resolve() == short.recipe_file.resolve()
        assert Path(options[1]).resolve() == data.resolve()
        assert environment["cpu_seconds"] > 0 < environment["wall_seconds"]
        assert environment["started"] <= environment["finished"]
        assert weights(pretrain(recipe, data=data, out=tmp_path / "run", options=QUIET)) == weights(short)

    def test_a_check_and_a_log(self, pretrained: Run) -> None:
        check = json.loads((pretrained.path / "data_check.json").read_text())
        assert (check["num_images"], check["num_bad"]) == (44, 0)
        log = pretrained.log_file.read_text()
        assert "pretrain debug: 32 images, 20 steps of 16, seed 0" in log


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


class TestChangesNoBit:
    def test_global_generators(self, data: Path, short: Run, tmp_path: Path) -> None:
        """Nothing reads them; nothing moves them either (Python's own is moved by the type checks of these tests)."""
        seed_everything(7)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        again = shortly(data, tmp_path / "run")
        assert weights(again) == weights(short)
        assert rows(again) == rows(short)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]

    def test_the_number_of_workers(self, data: Path, short: Run, tmp_path: Path) -> None:
        again = shortly(data, tmp_path / "run", options=QUIET.changed(workers=2))
        assert weights(again) == weights(short)
        assert rows(again) == rows(short)

    def test_control_the_seed_does(self, data: Path, short: Run, tmp_path: Path) -> None:
        assert weights(shortly(data, tmp_path / "run", seed=1)) != weights(short)

    def test_fine_tuning_too(self, data: Path, tmp_path: Path) -> None:
        seed_everything(1)
        first = shortly_tuned(data, tmp_path / "first")
        seed_everything(2)
        second = shortly_tuned(data, tmp_path / "second", options=QUIET.changed(workers=2))
        assert weights(first) == weights(second)
        assert rows(first) == rows(second)
        assert weights(shortly_tuned(data, tmp_path / "third", seed=1)) != weights(first)


@pytest.fixture(scope="module")
def corrupt(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `data`, and among them unreadable ones until those are three of ten."""
    root = tmp_path_factory.mktemp("corrupt") / "images"
    shutil.copytree(data, root)
    whole = next((data / "train/dark").iterdir()).read_bytes()
    broken = [b"", whole[: len(whole) // 2], b"\x89PNG\r\n\x1a\n" + bytes(200), b"<html>not found</html>"]
    number = round(0.3 / 0.7 * 44)
    for i in range(number):
        folder = root / ("train", "test")[i % 4 == 3] / CLASSES[i % 2]
        (folder / f"{i:02}-broken.png").write_bytes(broken[i % len(broken)])
    assert number / (44 + number) == pytest.approx(0.3, abs=0.01)
    return root


class TestBadImages:
    def test_three_of_ten_change_no_bit(self, corrupt: Path, data: Path, short: Run, tmp_path: Path) -> None:
        tolerant = QUIET.changed(max_bad=0.31)
        dirty = shortly(corrupt, tmp_path / "dirty", options=tolerant)
        assert weights(dirty) == weights(short)
        assert rows(dirty) == rows(short)
        assert json.loads((dirty.path / "data_check.json").read_text())["num_bad"] == 19
        clean = shortly_tuned(data, tmp_path / "clean-tuned")
        dirty = shortly_tuned(corrupt, tmp_path / "dirty-tuned", options=tolerant)
        assert weights(dirty) == weights(clean)
        assert rows(dirty) == rows(clean)

    def test_control_kept_in_they_end_the_run(
        self, corrupt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = images.check

        def blind(*arguments: Any, **options: Any) -> Any:
            found = real(*arguments, **options)
            none = replace(found.bad, _rows=found.bad._rows[:0], _codes=found.bad._codes[:0])
            return replace(found, good=np.ones_like(found.good), bad=none)

        monkeypatch.setattr(images, "check", blind)
        with pytest.raises(DataError, match="could not be read any more"):
            shortly(corrupt, tmp_path / "run")

    def test_above_one_in_a_hundred_it_stops(self, corrupt: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"19 of 63 images cannot be used.*accepted 1.0%.*--max-bad 0\.31"):
            shortly(corrupt, tmp_path / "run")
        assert stands(tmp_path / "run") == {}, "what was refused may be tried again"

    def test_a_run_that_accepted_them_is_gone_on_with(self, corrupt: Path, short: Run, tmp_path: Path) -> None:
        begun = interrupted(shortly(corrupt, tmp_path / "run", options=QUIET.changed(max_bad=0.31)), tmp_path / "begun")
        again = shutil.copytree(begun.path, tmp_path / "again")
        assert weights(resume(begun.path, options=QUIET)) == weights(short)
        assert weights(shortly(corrupt, again, options=QUIET.changed(max_bad=0.5))) == weights(short), "the same run"

    def test_links_that_leave_the_folder_are_followed_again(self, data: Path, tmp_path: Path) -> None:
        """The control: without the word there is nothing to train on."""
        linked = tmp_path / "linked"
        linked.mkdir()
        (linked / "train").symlink_to(data / "train")
        with pytest.raises(DataError, match="--follow-outside"):
            shortly(linked, tmp_path / "control")
        run = shortly(linked, tmp_path / "run", options=QUIET.changed(follow_outside=True))
        begun = interrupted(run, tmp_path / "begun")
        assert weights(resume(begun.path, options=QUIET)) == weights(run)

    def test_control_more_than_it_accepted_has_to_be_asked_for(self, corrupt: Path, short: Run, tmp_path: Path) -> None:
        run = shortly(corrupt, tmp_path / "run", options=QUIET.changed(max_bad=0.31))
        begun = interrupted(run, tmp_path / "begun")
        about = json.loads((begun.path / "environment.json").read_text())
        about["launch"]["max_bad"] = 0.1
        (begun.path / "environment.json").write_text(json.dumps(about))
        with pytest.raises(DataError, match=r"accepted 10.0%.*--max-bad 0\.31"):
            resume(begun.path, options=QUIET)
        assert main(["resume", str(begun.path), "--max-bad", "0.31", "--workers", "0"]) == 0
        assert weights(begun) == weights(short)


@pytest.fixture(scope="module")
def tables(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in the same order under true, exchanged and no labels."""
    root = tmp_path_factory.mktemp("tables")
    shutil.copytree(data, root / "images")
    paths = sorted((root / "images").rglob("*.png"))
    found = {}
    for kind in ("true", "exchanged", "none"):
        lines = ["path,split" + ",label" * (kind != "none")]
        for i, path in enumerate(paths):
            label = {"true": f",{path.parent.name}", "exchanged": f",{CLASSES[i % 2]}", "none": ""}[kind]
            lines.append(f"{path.relative_to(root)},{path.parts[-3]}{label}")
        found[kind] = root / f"{kind}.csv"
        found[kind].write_text("\n".join(lines) + "\n")
    return found


@pytest.mark.parametrize(
    "method", ["debug", "debug_simmim", "debug_mocov3", "debug_dino", "debug_distill", "debug_seed"]
)
def test_pre_training_never_looks_at_labels(method: str, tables: dict[str, Path], tmp_path: Path) -> None:
    few = {"budget.duration": {"unit": "steps", "n": 2}, "optimizer.warmup": {"unit": "steps", "n": 1}}
    few |= {"budget.batch_size": 4}
    kinds = tables if method == "debug" else ("true", "exchanged")
    runs = [pretrain(method, data=tables[kind], out=tmp_path / kind, options=QUIET, set=few) for kind in kinds]
    assert len({weights(run) for run in runs}) == 1


def test_control_fine_tuning_does(tables: dict[str, Path], tmp_path: Path) -> None:
    runs = [shortly_tuned(tables[kind], tmp_path / kind) for kind in ("true", "exchanged")]
    assert weights(runs[0]) != weights(runs[1])


@pytest.mark.parametrize("train", [shortly, shortly_tuned])
def test_the_test_split_is_never_trained_on(train: Callable[..., Run], data: Path, tmp_path: Path) -> None:
    others = shutil.copytree(data, tmp_path / "others")
    for path in others.glob("test/*/*.png"):
        write_image(path, int(path.stem) + 9000, light=path.parent.name == "dark")
    first, second = train(data, tmp_path / "first"), train(others, tmp_path / "second")
    assert weights(first) == weights(second)
    for path in others.glob("train/*/*.png"):
        write_image(path, int(path.stem) + 9000, light=path.parent.name == "light")
    assert weights(train(others, tmp_path / "third")) != weights(first), "the control"


class TestLabels:
    def test_few_are_balanced_and_decided_by_the_seed(self, data: Path, tuned: Run) -> None:
        found = {}
        index = open_index(data)
        for seed, init in ((0, None), (0, str(tuned.path)), (1, None)):
            recipe = resolved("debug_supervised", {"seed": seed})
            launch = Launch("finetune", recipe.fingerprint(), str(data), init, num_labels=12)
            ids = gather_material(index, recipe, launch, QUIET, Teller(quiet=True)).ids
            assert np.bincount(index.labels[ids]).tolist() == [6, 6]
            found[seed, init is None] = ids.tolist()
        assert found[0, True] == found[0, False], "wherever training starts from, so that starts can be compared"
        assert found[0, True] != found[1, True]

    def test_more_than_there_are_is_refused(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"has 16 images, 17 are wanted.*--num-labels 32 or less"):
            shortly_tuned(data, tmp_path / "run", num_labels=34)

    def test_without_any_there_is_nothing_to_fine_tune_on(self, tables: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"none.csv has no labels.*give class folders"):
            shortly_tuned(tables["none"], tmp_path / "run")


class TestSmallData:
    def test_one_image(self, tmp_path: Path) -> None:
        write_image(tmp_path / "images/1.png", 1, light=True)
        run = shortly(tmp_path / "images", tmp_path / "run", batch_size=1)
        looks = [row["probe"] for row in run.metrics() if "probe" in row]
        assert [look["verdict"] for look in looks] == ["too early", "too early"]
        assert all(look.keys() == {"verdict", "advice"} for look in looks), "one image has no spread to tell of"
        assert (run.encoder / "model.safetensors").is_file()

    def test_one_class(self, tmp_path: Path) -> None:
        for i in range(8):
            write_image(tmp_path / f"images/only/{i}.png", i, light=True)
        assert shortly(tmp_path / "images", tmp_path / "run").metrics()[-1]["probe"]["verdict"]
        with pytest.raises(DataError, match="all labelled images are of a single class, 'only'"):
            shortly_tuned(tmp_path / "images", tmp_path / "tuned", num_labels=None)

    def test_no_labels_and_still_a_verdict(self, tables: dict[str, Path], tmp_path: Path) -> None:
        run = shortly(tables["none"], tmp_path / "run")
        looks = [row["probe"] for row in run.metrics() if "probe" in row]
        assert [set(look) for look in looks] == [{"verdict", "advice", "feature_std", "effective_rank"}] * 2
        assert looks[-1]["advice"].startswith(looks[-1]["verdict"])

    def test_a_batch_larger_than_the_data(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"batch size 33 is larger than the 32 training images.*--batch-size 32"):
            shortly(data, tmp_path / "run", batch_size=33)
        assert shortly(data, tmp_path / "run", batch_size=32).metrics()[0]["epoch"] == 1.0


def test_a_run_of_no_length_says_so_and_leaves_the_encoder_as_it_began(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instant = SHORT | {"budget.duration": {"unit": "steps", "n": 6}, "optimizer.warmup": {"unit": "share", "n": 0.1}}
    loud = Options(workers=0)
    run = shortly(data, tmp_path / "none", set=instant, epochs=0, options=loud)
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing is trained, and the encoder is as it began" in said
    saved = load_encoder(run.path).encoder
    began = start_encoder(from_json(run.recipe_json(), where=""), Launch("pretrain", "", str(data)))[0].state_dict()
    assert all(torch.equal(began[name], tensor) for name, tensor in saved.state_dict().items())
    shortly(data, tmp_path / "some", set=instant, options=loud)
    assert "nothing is trained" not in capsys.readouterr().out, "the control"


class TestRefuses:
    def test_a_warm_up_longer_than_the_run(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"a warm-up of 7 steps in a run of 6"):
            shortly(data, tmp_path / "run", set=SHORT | {"optimizer.warmup": {"unit": "steps", "n": 7}})

    @pytest.mark.parametrize("train", [shortly, shortly_tuned])
    def test_a_start_that_leads_nowhere_and_never_begins_from_scratch(
        self, train: Callable[..., Run], data: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="no file or folder"):
            train(data, tmp_path / "run", init=tmp_path / "nothing")
        with pytest.raises(CheckpointError, match="no finished encoder"):
            train(data, tmp_path / "run", init=data)
        assert stands(tmp_path / "run") == {}

    def test_a_start_that_is_not_finished_or_is_damaged(self, short: Run, data: Path, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        with pytest.raises(CheckpointError, match=r"no finished encoder.*vitlet resume RUN"):
            shortly_tuned(data, tmp_path / "run", init=begun.path)
        damaged = Run(shutil.copytree(short.path, tmp_path / "damaged"))
        content = bytearray((damaged.encoder / "model.safetensors").read_bytes())
        content[-5] ^= 1
        (damaged.encoder / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="missing or damaged"):
            shortly_tuned(data, tmp_path / "run", init=damaged.path)
        assert stands(tmp_path / "run") == {}

    def test_a_recipe_of_the_other_verb(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="vitlet finetune debug_supervised"):
            pretrain("debug_supervised", data=data, out=tmp_path / "run")
        with pytest.raises(UsageError, match="vitlet pretrain debug"):
            finetune("debug", init=None, data=data, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_data_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no file or folder"):
            pretrain("debug", data=tmp_path / "nothing", out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_precision_that_the_processor_lacks_is_said_and_recorded(
    data: Path, tmp_path: Path, short: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shortly(data, tmp_path / "run", precision="fp16", options=Options(workers=0, device="cpu"))
    assert "this cpu has no fast fp16; training in fp32 instead" in capsys.readouterr().out
    assert run.recipe_json()["budget"]["precision"] == "fp32"
    assert weights(run) == weights(short)
    again = stands(run.path)
    shortly(data, run.path, precision="fp16", options=Options(workers=0, device="cpu"))
    assert stands(run.path) == again, "the same command is the same run"


def test_starting_from_an_encoder_starts_from_its_weights(short: Run, data: Path, tmp_path: Path) -> None:
    """With a learning rate of next to nothing they are still there at the end."""
    still = {"optimizer.base_lr": 1e-30, "optimizer.final_lr": 0.0}
    for train, shape in ((shortly, SHORT), (shortly_tuned, SMALLER)):
        run = train(data, tmp_path / train.__name__, init=short.path, set=shape | still, seed=5)
        before, after = (load_encoder(r.path).encoder.state_dict() for r in (short, run))
        names = [name for name in after if not name.startswith("vit.norm.")]
        assert len(names) > 10
        assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-20) for name in names)
