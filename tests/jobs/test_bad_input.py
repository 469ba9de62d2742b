"""Data and encoders that do not fit, through every command that trains or measures: each case in its own words.

Nothing is computed before: the loader of images is taken away, and the control is that every command comes as far as
that with data that fit.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, SMALLER, write_image, write_images

import vitlet
from in_place import in_place
from vitlet.data import loader
from vitlet.errors import CheckpointError, DataError, UsageError, VitletError
from vitlet.jobs import side_by_side
from vitlet.jobs.analysing import analyse
from vitlet.jobs.options import Options
from vitlet.jobs.studying import study
from vitlet.jobs.suites import Suite
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import new_classifier
from vitlet.recipe import EncoderConfig
from vitlet.run import Run
from vitlet.weights.folder import write_model
from vitlet.weights.source import evaluation_view

QUICK: dict[str, Any] = {
    "budget.batch_size": 8,
    "budget.duration": {"unit": "steps", "n": 2},
    "budget.checkpoint_every": {"unit": "steps", "n": 2},
    "optimizer.warmup": {"unit": "steps", "n": 1},
}
TUNING: dict[str, Any] = {"recipe": "debug_supervised", "seeds": 1, "set": QUICK}


def image_key(split: str, name: str, i: int) -> int:
    """A number that differs for each image."""
    return 1000 * len(split) + 100 * len(name) + 10 * ord(name[0]) + i


def write_split(root: Path, split: str, *classes: str, count: int = 8) -> None:
    for name in classes:
        for i in range(count):
            write_image(root / split / name / f"{i}.png", image_key(split, name, i), light=name == "light")


def no_labels(root: Path) -> Path:
    for i in range(12):
        write_image(root / f"{i}.png", i, light=i % 2 == 1)
    return root


def single_class(root: Path) -> Path:
    write_split(root, "train", "dark")
    write_split(root, "test", "dark")
    return root


def class_in_test_only(root: Path) -> Path:
    write_split(root, "train", "dark", "light")
    write_split(root, "val", "dark", "light", "grey")
    return root


def different_classes(root: Path) -> Path:
    write_split(root, "train", "dark", "light")
    write_split(root, "test", "dark", "bright")
    return root


def unlabelled_training(root: Path) -> Path:
    write_split(root, "images", "dark", "light")
    rows = ["path,label,split"]
    rows += [f"images/dark/{i}.png,,train" for i in range(4)]
    rows += [f"images/{name}/{i}.png,{name},test" for name in ("dark", "light") for i in range(4, 8)]
    (root / "table.csv").write_text("\n".join(rows))
    return root / "table.csv"


def nothing_to_learn(root: Path) -> Path:
    write_split(root, "test", "dark", "light")
    return root


def vanished_class(root: Path) -> Path:
    """The control of this case is `three_classes`."""
    for file in three_classes(root).glob("*/grey/*.png"):
        file.rename(file.with_suffix(".mp4"))
    return root


def nothing_to_count(root: Path) -> Path:
    write_split(root, "train", "dark", "light", count=1)
    return root


CASES: dict[Callable[[Path], Path], str] = {
    no_labels: r"has no labels.*Fix: give class folders",
    single_class: r"all labelled images are of a single class, 'dark'.*two classes",
    class_in_test_only: r"1 of 3 classes are only in val or test.*no images of: grey.*add training images",
    different_classes: r"train and the other splits have different classes.*no images of: bright; only train has: l",
    unlabelled_training: r"none of the 4 training images has a label.*add labels",
    nothing_to_learn: r"no images to train on.*All images belong to other splits.*split column",
    vanished_class: r"1 class without an image: grey.*add images",
    nothing_to_count: r"the held-out train split is empty.*two images or more of a class, or a test split",
}


def three_classes(root: Path) -> Path:
    write_split(root, "train", "dark", "light", "grey")
    write_split(root, "test", "dark", "light", "grey")
    return root


def transferred(encoder: Path, data: Path, out: Path, options: Options) -> None:
    """A data set that cannot be used is a row that says so, while others go on."""
    suite = Suite.from_json({"recipe": "debug_supervised", "data": [{"name": "ours", "data": str(data)}]})
    (row,) = vitlet.transfer([encoder], suite=suite, out=out, seeds=1, options=options)["rows"]
    raise DataError(row["why"])


VERBS: dict[str, Callable[[Path, Path, Path, Options], Any]] = {
    "finetune": lambda encoder, data, out, options: vitlet.finetune(
        "debug_supervised", init=encoder, data=data, out=out, options=options, set=SMALLER
    ),
    "probe knn": lambda encoder, data, out, options: vitlet.probe(encoder, data=data, options=options),
    "probe linear": lambda encoder, data, out, options: vitlet.probe(
        encoder, data=data, protocol="linear", layers="all", options=options
    ),
    "compare": lambda encoder, data, out, options: vitlet.compare(
        [encoder], data=data, out=out, label_fractions=[1], options=options, **TUNING
    ),
    "sweep keep-blocks": lambda encoder, data, out, options: vitlet.sweep_keep_blocks(
        [encoder], data=data, out=out, options=options, **TUNING
    ),
    "sweep distill-layers": lambda encoder, data, out, options: vitlet.sweep_distill_layers(
        "debug_distill", data=data, teacher=str(encoder), layers=[((3, 2),)], out=out, set=QUICK,
        finetune="debug_supervised", seeds=1, finetune_set=QUICK, options=options,
    ),
    "transfer": transferred,
    "study": lambda encoder, data, out, options: study(
        [encoder, encoder], data=data, out=out, labels=(8,), seeds=1, settings=QUICK, num_images=8, options=options
    ),
    "learn": lambda encoder, data, out, options: vitlet.learn(
        data=data, out=out, views=64, num_labels=8, seeds=1, methods=("mae_micro",), settings=QUICK, options=options
    ),
}  # fmt: skip


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is loaded, neither to train nor to look at."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("images were read")

    monkeypatch.setattr(loader, "_load", refuse)
    monkeypatch.setattr(side_by_side, "processes", in_place)


@pytest.fixture
def encoder(pretrained: Run, tmp_path: Path) -> Path:
    """A copy of `pretrained`, for probes write into it."""
    return Path(shutil.copytree(pretrained.path, tmp_path / "encoder"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Path]], Path]:
    """The data of a case, which is written once for all verbs."""
    base = tmp_path_factory.mktemp("cases")
    return functools.cache(lambda case: case(base / case.__name__))


def fitting(root: Path) -> Path:
    return write_images(root, train=40, test=8)


def partly_broken(root: Path) -> Path:
    data = fitting(root)
    for i in range(5):
        (data / f"train/dark/broken-{i}.png").write_bytes(b"")
    return data


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("verb", VERBS)
class TestLabels:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
    def test_are_answered_for(
        self, verb: str, case: Callable[[Path], Path], images: Callable[..., Path], encoder: Path, tmp_path: Path
    ) -> None:
        if verb == "finetune" and case is nothing_to_count:
            pytest.skip("training without a number at the end is possible, and said")
        with pytest.raises(DataError, match=CASES[case]) as caught:
            VERBS[verb](encoder, images(case), tmp_path / "out", QUIET)
        assert caught.value.exit_code == 3
        assert "Fix: " in str(caught.value)

    def test_control_of_data_that_fit_images_are_read(
        self, verb: str, images: Callable[..., Path], encoder: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(AssertionError, match="images were read"):
            VERBS[verb](encoder, images(fitting), tmp_path / "out", QUIET)

    def test_so_many_bad_images_are_accepted_as_was_said(
        self, verb: str, images: Callable[..., Path], encoder: Path, tmp_path: Path
    ) -> None:
        data = images(partly_broken)
        with pytest.raises(DataError, match=r"5 of 101 images cannot be used.*--max-bad 0\.05"):
            VERBS[verb](encoder, data, tmp_path / "out", QUIET)
        with pytest.raises(AssertionError, match="images were read"):
            VERBS[verb](encoder, data, tmp_path / "out", QUIET.changed(max_bad=0.1))


def years_and_videos(root: Path) -> Path:
    """Folders that are no classes, one of them without an image."""
    for year in (2023, 2024):
        for i in range(12):
            write_image(root / str(year) / f"{i}.png", year + 10 * i, light=i % 2 == 1)
    (root / "videos").mkdir()
    (root / "videos/film.mp4").write_bytes(b"x")
    return root


class TestFoldersThatAreNoClasses:
    NOTES = (
        "Folders are read as 2 classes: 2023, 2024",
        "1 folder without an image: videos. What learns labels refuses it",
    )

    def test_do_not_matter_where_no_label_is_needed(
        self, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        photos, options = years_and_videos(tmp_path / "photos"), Options(workers=0)
        run = vitlet.pretrain("debug", data=photos, out=tmp_path / "run", set=SMALLER, options=options)
        assert "finished" in json.loads((run.path / "environment.json").read_text())
        assert json.loads((run.path / "data_check.json").read_text())["notes"] == [*self.NOTES]
        vitlet.embed(encoder, data=photos, out=tmp_path / "embedded.parquet", options=options)
        vitlet.check(photos, options=options)
        told = " ".join(capsys.readouterr().out.split())
        assert [told.count(f"note: {note}") for note in self.NOTES] == [3, 3]
        analyse([str(encoder)], data=photos, out=tmp_path / "looks", options=options)
        assert "layers are not probed: 1 class without an image: videos" in " ".join(capsys.readouterr().out.split())

    def test_are_refused_where_labels_are_compared_or_written(self, tmp_path: Path) -> None:
        """The control is the tree with an image beside the folders, which is read without labels."""
        photos = years_and_videos(tmp_path / "photos")
        for refuse in (
            lambda: vitlet.demo(data=photos, out=tmp_path / "demo", options=QUIET),
            lambda: vitlet.pack(photos, out=tmp_path / "shards", options=QUIET),
        ):
            with pytest.raises(DataError, match=r"1 class without an image: videos.*put an image beside them"):
                refuse()
        assert not (tmp_path / "shards").exists()
        write_image(photos / "cover.png", 1, light=True)
        assert vitlet.pack(photos, out=tmp_path / "shards", options=QUIET)["num_images"] == 25


def test_an_analysis_says_why_layers_are_not_probed(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It needs no labels for the rest, so they are no error."""
    data = unlabelled_training(tmp_path / "images")
    analyse([str(encoder)], data=data, out=tmp_path / "out", options=Options(workers=0))
    told = " ".join(capsys.readouterr().out.split())
    assert "note: layers are not probed: the training split is empty (table.csv)" in told


def save(folder: Path, shape: EncoderConfig, *, classes: tuple[str, ...] = ()) -> Path:
    encoder = Encoder(shape)
    head = new_classifier(encoder, num_classes=len(classes), pool="mean", seed=0) if classes else None
    view = evaluation_view(shape.image_size)
    write_model(folder, encoder=encoder, evaluation=view, facts={}, classifier=head, classes=classes)
    return folder


SHAPE = EncoderConfig(image_size=32, patch_size=4, width=24, depth=3, heads=2)
OTHER_SIZE, OTHER_PATCHES = SHAPE.changed(image_size=16), SHAPE.changed(patch_size=8)


@pytest.mark.usefixtures("nothing_is_read")
class TestEncoders:
    @pytest.mark.parametrize(
        ("verb", "message"),
        [
            ("finetune", "the initial encoder sees 16 px.*works on 32 px.*same image size"),
            ("compare", "is a vision transformer for 16 px.*for 32 px.*--recipe NAME"),
            ("sweep keep-blocks", "is a vision transformer for 16 px.*for 32 px.*--recipe NAME"),
            ("sweep distill-layers", "the teacher sees 16 px in patches of 4, the student 32 px.*a teacher of 32 px"),
            ("transfer", r"encoder-16 sees 16 px \(data set ours\).*works on 32 px.*a suite of your own"),
            ("study", "is a vision transformer for 16 px.*for 32 px"),
        ],
    )
    def test_of_another_image_size(self, verb: str, message: str, data: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            VERBS[verb](save(tmp_path / "encoder-16", OTHER_SIZE), data, tmp_path / "out", QUIET)
        assert caught.value.exit_code == 2

    def test_of_another_patch_size_where_patches_must_be_the_same(self, data: Path, tmp_path: Path) -> None:
        first, second = save(tmp_path / "four", SHAPE), save(tmp_path / "eight", OTHER_PATCHES)
        with pytest.raises(UsageError, match=r"have different shapes.*a sweep for each"):
            vitlet.sweep_keep_blocks([first, second], data=data, out=tmp_path / "out", **TUNING)
        with pytest.raises(UsageError, match=r"in patches of 8, the student 32 px in patches of 4.*patches of 4 px"):
            VERBS["sweep distill-layers"](second, data, tmp_path / "out", QUIET)
        with pytest.raises(CheckpointError, match=r"is not vit_tiny_patch16_224.*Patch size, width and depth are 8"):
            vitlet.probe(f"timm:vit_tiny_patch16_224@{second / 'model.safetensors'}", data=data, options=QUIET)

    def test_of_another_patch_size_bring_their_own_elsewhere(self, data: Path, tmp_path: Path) -> None:
        for verb in ("finetune", "probe knn", "compare"):
            with pytest.raises(AssertionError, match="images were read"):
                VERBS[verb](save(tmp_path / "eight", OTHER_PATCHES), data, tmp_path / verb, QUIET)

    @pytest.mark.parametrize(
        ("classes", "case", "error", "message"),
        [
            ((), write_images, UsageError, "is an encoder without a classifier.*vitlet finetune"),
            (("dark", "light"), no_labels, DataError, "has no labelled images.*label column"),
            (("dark", "light"), three_classes, DataError, "1 class of the data unknown to the head: grey"),
            (("dark", "grey", "light"), vanished_class, DataError, "1 class without an image: grey"),
            (("0", "1", "2"), three_classes, DataError, "3 classes of the data unknown to the head"),
        ],
    )  # fmt: skip
    def test_with_a_head_for_other_classes(
        self,
        classes: tuple[str, ...],
        case: Callable[..., Path],
        error: type[VitletError],
        message: str,
        tmp_path: Path,
    ) -> None:
        model = save(tmp_path / "model", SHAPE.changed(final_norm=not classes), classes=classes)
        data = case(tmp_path / "images", train=4) if case is write_images else case(tmp_path / "images")
        with pytest.raises(error, match=message):
            vitlet.evaluate(model, data=data, options=QUIET)

    def test_control_a_head_for_more_classes_is_counted(self, data: Path, tmp_path: Path) -> None:
        model = save(tmp_path / "model", SHAPE.changed(final_norm=False), classes=("dark", "grey", "light"))
        with pytest.raises(AssertionError, match="images were read"):
            vitlet.evaluate(model, data=data, options=QUIET)
