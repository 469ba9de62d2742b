"""Several starts under the same protocols: what they share, and what alone differs."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets.cifar
from small_runs import QUIET, interrupted, stands, write_public

from in_place import in_place
from vitlet.console import Teller
from vitlet.data.index import open_index
from vitlet.data.subsets import divide
from vitlet.errors import UsageError
from vitlet.evaluation.features import encoder_digest
from vitlet.jobs import arms as arms_module
from vitlet.jobs import side_by_side
from vitlet.jobs.arms import Start, Terms, finetune_arms, frozen_arms, untrained
from vitlet.jobs.images import Labelled, judged
from vitlet.jobs.outcome import write_model
from vitlet.jobs.training import pretrain
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.recipe import ConvNetConfig
from vitlet.run import Run
from vitlet.units import Steps
from vitlet.weights.folder import read_model
from vitlet.weights.source import evaluation_view, load_encoder

SEEDS = (0, 1, 2)
SILENT = Teller(quiet=True)


@pytest.fixture
def images(data: Path) -> Labelled:
    index = open_index(data)
    verdicts = judged(index, QUIET, SILENT)
    return Labelled(index, verdicts, *divide(index, verdicts.good))


@pytest.fixture
def terms(data: Path, tmp_path: Path) -> Terms:
    return Terms(data=data, out=tmp_path, seeds=SEEDS, num_labels=8, settings={})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every probe was given; the probes themselves are the real ones, made here."""
    monkeypatch.setattr(side_by_side, "processes", in_place)
    real, calls = arms_module.probe_encoder, []

    def noted(encoder: Any, images: Labelled, learned: np.ndarray, **options: Any) -> Any:
        digest, test = encoder_digest(encoder, view=options["view"]), images.test.tolist()
        calls.append({"encoder": digest, "train": learned.tolist(), "test": test, "view": options["view"]})
        return real(encoder, images, learned, **options)

    monkeypatch.setattr(arms_module, "probe_encoder", noted)
    return calls


def test_only_the_weights_differ_between_starts(
    pretrained: Run, tuned: Run, terms: Terms, images: Labelled, asked: list[dict[str, Any]]
) -> None:
    starts = [Start("a", "A", pretrained.path), Start("b", "B", tuned.path), Start("random", "random weights", None)]
    arms = frozen_arms(starts, terms, images, SILENT, protocols=["knn"])["knn"]
    assert [(arm.name, arm.title, arm.seeds) for arm in arms] == [(s.name, s.title, SEEDS) for s in starts]
    assert all(0 <= value <= 1 for arm in arms for value in arm.values)
    first, second, random = asked[::3], asked[1::3], asked[2::3]
    for a, b, c in zip(first, second, random, strict=True):
        assert a["train"] == b["train"] == c["train"], "one seed, the same labels"
        assert a["test"] == b["test"] == c["test"] == images.test.tolist()
        assert a["view"] == b["view"] == c["view"]
        assert np.bincount(images.index.labels[a["train"]]).tolist() == [4, 4]
        assert not set(a["train"]) & set(a["test"])
    assert len({tuple(call["train"]) for call in first}) == 3, "another seed, other labels"
    assert len({call["encoder"] for call in first}) == len({call["encoder"] for call in second}) == 1
    assert len({call["encoder"] for call in random}) == 3, "random weights are drawn anew"


@pytest.mark.parametrize("protocol", ["knn", "logistic"])
def test_with_all_labels_a_trained_encoder_is_probed_once(
    protocol: Any, pretrained: Run, terms: Terms, images: Labelled, asked: list[dict[str, Any]]
) -> None:
    """Random weights are drawn anew all the same, and with few labels, the control, so are labels."""
    starts = [Start("a", "A", pretrained.path), Start("random", "random weights", None)]
    for count, once in ((None, True), (len(images.train), True), (8, False)):
        asked.clear()
        counted = dataclasses.replace(terms, num_labels=count)
        a, random = frozen_arms(starts, counted, images, SILENT, protocols=[protocol])[protocol]
        assert (a.once, random.once) == (once, False)
        assert (len(a.values), len(random.values), len(asked)) == ((1, 3, 4) if once else (3, 3, 6))
        assert a.seeds == (SEEDS[:1] if once else SEEDS)


def test_random_weights_have_the_shape_of_the_first_that_are_none(
    tuned: Run, terms: Terms, images: Labelled, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, noted = [], arms_module.probe_encoder
    monkeypatch.setattr(
        arms_module,
        "probe_encoder",
        lambda encoder, *a, **o: seen.append((encoder.config, encoder.normalisation)) or noted(encoder, *a, **o),
    )
    starts = [Start("random", "", None), Start("tuned", "", tuned.path)]
    frozen_arms(starts, terms, images, SILENT, protocols=["logistic"])
    assert len(seen) == len(asked) == 6
    assert len(set(map(str, seen))) == 1
    assert seen[0][0] == load_encoder(tuned.path).encoder.config


def test_a_pre_training_of_no_steps_wins_nothing(data: Path, terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the recipe itself begins from differs in more than training."""
    monkeypatch.setattr(side_by_side, "processes", in_place)
    run = pretrain("mae_micro", data=data, out=terms.out / "untrained", options=QUIET, epochs=0, batch_size=8)
    terms = dataclasses.replace(terms, seeds=(0,), settings={"budget.duration": Steps(n=2), "budget.batch_size": 8})
    trained = Start("no-step", "no step", run.path)
    arms = finetune_arms(
        [trained, untrained([trained])["no-step"], Start("recipe", "the recipe's", None)], terms, SILENT
    )
    no_step, random, control = (read_model(terms.out / arm.runs[0] / "encoder").encoder.vit for arm in arms)
    assert arms[0].values == arms[1].values
    assert all(torch.equal(random.state_dict()[name], tensor) for name, tensor in no_step.state_dict().items())
    assert not torch.allclose(random.blocks[0].attn.qkv.weight, control.blocks[0].attn.qkv.weight, atol=0.01)


def test_starts_that_began_alike_share_a_control_and_others_have_their_own(pretrained: Run, tuned: Run) -> None:
    """The shapes are the same; MAE begins with fixed positions, and fine-tuning draws them."""
    starts = [Start("mae", "MAE", pretrained.path), Start("b", "B", pretrained.path), Start("c", "C", tuned.path)]
    of = untrained(starts)
    assert list(of) == ["mae", "b", "c"]
    assert of["mae"] == of["b"] == Start("random-1", "random weights like MAE", pretrained.path, keep_blocks=0)
    assert of["c"] == Start("random-2", "random weights like C", tuned.path, keep_blocks=0)
    assert untrained(starts[:2])["b"].title == "random weights"


def test_the_same_again_gives_the_same(pretrained: Run, terms: Terms, images: Labelled, asked: list[Any]) -> None:
    starts = [Start("a", "A", pretrained.path), Start("random", "random weights", None)]
    first, second = (frozen_arms(starts, terms, images, SILENT, protocols=["knn", "logistic"]) for _ in range(2))
    assert list(first) == ["knn", "logistic"]
    assert [[arm.values for arm in arms] for arms in first.values()] == [
        [arm.values for arm in arms] for arms in second.values()
    ]
    assert len(asked) == 2 * 2 * 6


def test_it_is_told_how_far_the_probes_are(pretrained: Run, terms: Terms, images: Labelled, asked: list[Any]) -> None:
    told: list[int] = []

    class Listening(Teller):
        @contextlib.contextmanager
        def progress(self, title: str, *, total: int, done: int = 0) -> Iterator[Any]:
            assert (title, total, done) == ("probing", 6, 0)
            yield told.append

    starts = [Start("a", "A", pretrained.path), Start("random", "random weights", None)]
    frozen_arms(starts, terms, images, Listening(), protocols=["knn", "logistic"])
    assert told == sorted(told)
    assert (told[0] < 6, told[-1]) == (True, len(asked) // 2)


def test_a_random_convnet_stands_beside_a_convnet_and_is_drawn_anew(
    terms: Terms, images: Labelled, tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    net = ConvEncoder(ConvNetConfig(architecture="test_efficientnet", image_size=32))
    write_model(tmp_path / "net", encoder=net, evaluation=evaluation_view(32), facts={})
    starts = [Start("net", "", tmp_path / "net"), Start("random", "", None)]
    frozen_arms(starts, terms, images, SILENT, protocols=["knn"])
    trained, random = ({call["encoder"] for call in calls} for calls in (asked[::2], asked[1::2]))
    assert (len(trained), len(random)) == (1, 3)


QUICK = {
    "budget.batch_size": 8,
    "budget.duration": {"unit": "steps", "n": 2},
    "budget.checkpoint_every": {"unit": "steps", "n": 1},
    "optimizer.warmup": {"unit": "steps", "n": 1},
}


def test_what_was_begun_from_a_place_that_is_gone_is_trained_anew(
    pretrained: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal content, and unfinished: it cannot be resumed, as its start has moved."""
    monkeypatch.setattr(side_by_side, "processes", in_place)
    terms = Terms(data, tmp_path / "runs", (0,), num_labels=8, settings=QUICK, recipe="debug_supervised")
    teller = Teller(quiet=True)
    first = shutil.copytree(pretrained.path, tmp_path / "first")
    (arm,) = finetune_arms([Start("a", "A", first)], terms, teller)
    run = Run(terms.out / arm.runs[0])
    copy = interrupted(run, tmp_path / "begun")
    shutil.rmtree(run.path)
    copy.path.rename(run.path)
    moved = first.rename(tmp_path / "second")
    (again,) = finetune_arms([Start("b", "B", moved)], terms, teller)
    assert (again.runs, again.values) == (arm.runs, arm.values)


def test_what_was_begun_on_a_public_data_set_goes_on(
    pretrained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is no path: made absolute as one it would never be where the run was begun."""
    monkeypatch.setattr(side_by_side, "processes", in_place)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    data = Path(write_public(tmp_path / "tv", train=16, test=4))
    terms = Terms(data, tmp_path / "runs", (0,), num_labels=8, settings=QUICK, recipe="debug_supervised")
    start = Start("a", "A", pretrained.path)
    (arm,) = finetune_arms([start], terms, Teller(quiet=True))
    run = Run(terms.out / arm.runs[0])
    copy = interrupted(run, tmp_path / "begun")
    shutil.rmtree(run.path)
    copy.path.rename(run.path)
    (again,) = finetune_arms([start], terms, Teller(quiet=True))
    assert again.values == arm.values
    assert "resuming" in run.log_file.read_text()


def test_another_teacher_in_the_same_place_is_another_run(
    pretrained: Run, tuned: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the control: the same teacher is not."""
    monkeypatch.setattr(side_by_side, "processes", in_place)
    teacher = shutil.copytree(tuned.encoder, tmp_path / "teacher")
    taught = QUICK | {"objective.teacher": str(teacher), "objective.pool": "mean"}
    terms = Terms(data, tmp_path / "runs", (0,), num_labels=8, settings=taught, recipe="debug_supervised")
    start = Start("a", "A", pretrained.path)
    (arm,), (same,) = (finetune_arms([start], terms, SILENT) for _ in range(2))
    saved = read_model(teacher)
    assert isinstance(saved.encoder, Encoder)
    saved.encoder.vit.cls_token.data[..., 0] += 1
    write_model(
        teacher, encoder=saved.encoder, evaluation=saved.evaluation, facts={}, classifier=saved.classifier,
        classes=saved.classes,
    )  # fmt: skip
    (other,) = finetune_arms([start], terms, SILENT)
    assert same.runs == arm.runs
    assert other.runs != arm.runs


def test_after_a_failure_nothing_more_is_begun(
    pretrained: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight runs of which the first cannot begin; those beside it are finished and used again."""
    monkeypatch.setattr(side_by_side, "processes", in_place)
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 2)
    terms = Terms(data, tmp_path / "runs", tuple(range(8)), num_labels=8, settings=QUICK, recipe="debug_supervised")
    start = Start("a", "A", pretrained.path)
    (arm,) = finetune_arms([start], dataclasses.replace(terms, seeds=(0,), out=tmp_path / "first"), SILENT)
    obstacle = terms.out / arm.runs[0] / "notes.txt"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    with pytest.raises(UsageError, match="is not empty and not a run"):
        finetune_arms([start], terms, SILENT)
    (beside,) = (p for p in terms.out.iterdir() if p != obstacle.parent)
    before = stands(beside)
    obstacle.unlink()
    (arm,) = finetune_arms([start], dataclasses.replace(terms, seeds=(0, 1)), SILENT)
    assert arm.runs[1] == beside.name
    assert stands(beside) == before
