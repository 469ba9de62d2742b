"""Whole trainings and probes over the ranks of torchrun: each is made once, and the table is that of one process."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, SMALLER, TINY_DETECTOR, write_images

from forked import wait_until
from in_place import in_place
from vitlet.distributed import across
from vitlet.distributed.world import World
from vitlet.errors import DataError, UsageError, WorkerError
from vitlet.jobs import learning, side_by_side
from vitlet.jobs.comparing import compare
from vitlet.jobs.learning import learn
from vitlet.jobs.overfitting import overfit
from vitlet.jobs.side_by_side import results_side_by_side
from vitlet.jobs.spread import among_ranks, by_first_rank
from vitlet.jobs.studying import study
from vitlet.jobs.suites import Suite
from vitlet.jobs.sweeping import sweep_distill_layers
from vitlet.jobs.training import pretrain
from vitlet.jobs.transferring import transfer
from vitlet.run import Run
from vitlet.units import Images

BRIEF = {"budget.duration": Images(n=64), "budget.batch_size": 8}
ENCODERS = ("first", "second")
STUDENT = SMALLER | {"encoder.depth": 3, "objective.mae.decoder_width": 16, "objective.mae.decoder_heads": 2}


@among_ranks
def results(
    calls: list[tuple[Any, ...]], *, options: Any = QUIET, after: dict[int, list[int]] | None = None
) -> list[Any]:
    return results_side_by_side(calls, options=options, watch=lambda _: None, after=after or {})


def rank() -> str:
    return os.environ["RANK"]


def note(file: Path, seconds: float = 0.0) -> str:
    file.with_suffix(".begun").touch()
    time.sleep(seconds)
    with file.open("a") as stream:
        stream.write(rank())
    return rank()


def note_together(file: Path, other: Path) -> str:
    """`note`, which does not end before `other` is begun: another rank has to do that."""
    file.with_suffix(".begun").touch()
    wait_until(other.with_suffix(".begun").exists)
    return note(file)


def test_each_call_is_made_once_and_every_rank_has_all_results(tmp_path: Path, on_ranks: Callable[..., None]) -> None:
    def body() -> None:
        first, second, *others = (tmp_path / str(number) for number in range(6))
        calls = [(note_together, first, second), (note_together, second, first), *((note, file) for file in others)]
        (tmp_path / f"found-{rank()}").write_text(json.dumps(results(calls)))

    on_ranks(body, size=2)
    made = [(tmp_path / str(number)).read_text() for number in range(6)]
    assert sorted({*made}) == ["0", "1"], "each rank made some, and none made what another did"
    assert [json.loads((tmp_path / f"found-{of}").read_text()) for of in "01"] == [made, made]


def test_what_a_rank_makes_it_makes_apart(on_ranks: Callable[..., None]) -> None:
    """The control is the world around it."""
    sizes = lambda: [World.here().size, across.size()]  # noqa: E731

    @among_ranks
    def job(*, options: Any = QUIET) -> None:
        assert sizes() == [2, 2]
        assert results([(sizes,), (sizes,)]) == [[1, 1], [1, 1]]
        with World.joined() as world:
            assert world is World.here(), "a job within a job stays in its world"
        assert sizes() == [2, 2]

    on_ranks(job, size=2)


def test_the_first_rank_works_alone_and_each_has_its_result(tmp_path: Path, on_ranks: Callable[..., None]) -> None:
    """The control is the same work without the decorator."""

    def work(file: Path) -> Path:
        with World.joined() as world:
            (tmp_path / f"{file.name}-{world.size}").touch()
        return Path(f"{file}-{note(file)}")

    alone = by_first_rank(work)

    def body() -> None:
        assert alone(tmp_path / "alone") == tmp_path / "alone-0"
        assert work(tmp_path / "each") == tmp_path / f"each-{rank()}"
        assert by_first_rank(lambda: {"images": 3})() == {"images": 3}

    on_ranks(body, size=2)
    assert (tmp_path / "alone").read_text() == "0"
    assert sorted((tmp_path / "each").read_text()) == ["0", "1"]
    assert [path.name for path in tmp_path.glob("*-[12]")] == ["alone-1", "each-2"]


def test_every_rank_raises_what_the_first_did(on_ranks: Callable[..., None]) -> None:
    @by_first_rank
    def fail() -> None:
        raise DataError("planted", fix=f"on rank {rank()}")

    def body() -> None:
        with pytest.raises(DataError, match=r"planted. Fix: on rank 0$"):
            fail()

    on_ranks(body, size=2)


@pytest.mark.parametrize("waits", [True, False])
def test_a_call_waits_for_the_one_it_needs(waits: bool, tmp_path: Path, on_ranks: Callable[..., None]) -> None:
    """The control does not wait, and there is no file yet."""
    calls = [(Path.read_text, tmp_path / "first"), (note, tmp_path / "first", 1.0)]

    def body() -> None:
        try:
            read, written = results(calls, after={0: [1]} if waits else {})
            assert read == written
        except (FileNotFoundError, WorkerError) as error:
            (tmp_path / type(error).__name__).touch()

    on_ranks(body, size=2)
    assert (tmp_path / "FileNotFoundError").exists() is not waits


def test_after_a_failure_nothing_is_begun_and_every_rank_says_so(tmp_path: Path, on_ranks: Callable[..., None]) -> None:
    def fail() -> None:
        wait_until((tmp_path / "beside.begun").exists)  # by the other rank
        raise UsageError("planted", fix="none")

    def body() -> None:
        calls = [(fail,), (note, tmp_path / "beside", 2.0), *((note, tmp_path / "later") for _ in range(4))]
        try:
            results(calls)
        except (UsageError, WorkerError) as error:
            (tmp_path / f"error-of-{rank()}").write_text(f"{type(error).__name__} {error}")

    on_ranks(body, size=2)
    told = [(tmp_path / f"error-of-{of}").read_text() for of in "01"]
    assert told == ["UsageError planted. Fix: none"] * 2
    assert (tmp_path / "beside").exists()
    assert not (tmp_path / "later.begun").exists()


def a_comparison(pretrained: Run, data: Path, out: Path) -> dict[str, Any]:
    return compare([pretrained.path], data=data, out=out, label_fractions=(1.0,), recipe="debug_supervised",
                   seeds=2, options=QUIET, set=SMALLER)  # fmt: skip


def a_transfer(pretrained: Run, data: Path, out: Path) -> dict[str, Any]:
    grid = {"lr": [1e-3, 3e-3], "epochs": [[1, 0]], "layer_decay": [1.0]}
    entries = [{"name": "ours", "data": str(data)}]
    suite = Suite.from_json({"name": "small", "recipe": "debug_supervised", "grid": grid, "data": entries})
    return transfer([pretrained.path, "none"], suite=suite, out=out, seeds=2, options=QUIET)


def a_sweep(pretrained: Run, data: Path, out: Path) -> dict[str, Any]:
    return sweep_distill_layers("debug_distill", data=data, teacher=str(pretrained.path), layers=[((1, 1),)], out=out,
                                seeds=1, set=STUDENT, finetune="debug_supervised", finetune_set=SMALLER,
                                options=QUIET)  # fmt: skip


def an_overfitting(_: Run, data: Path, out: Path) -> dict[str, Any]:
    return overfit(data=data, out=out, images=2, steps=2, settings=TINY_DETECTOR, options=QUIET)


def a_table(_: Run, data: Path, out: Path) -> dict[str, Any]:
    """Of a method that waits for its teacher, and the one it extends."""
    return learn(data=data, out=out, views=128, num_labels=8, seeds=2, methods=("mae_micro", "dmae_micro"),
                 settings=BRIEF, options=QUIET)  # fmt: skip


def a_study(_: Run, data: Path, out: Path) -> dict[str, Any]:
    """Of what `encoders` made beside the images."""
    paths = [data.parent / name for name in ENCODERS]
    return study(paths, data=data, out=out, labels=(8,), seeds=2, settings=BRIEF, num_images=32, options=QUIET)


def encoders(data: Path) -> None:
    """Two that are pre-trained for two steps."""
    for seed, name in enumerate(ENCODERS):
        out = data.parent / name
        pretrain("mae_micro", data=data, out=out, seed=seed, set={"budget.duration": Images(n=128)}, options=QUIET)


def numbers(found: Any) -> Any:
    """The document without times and what machine it was made on."""
    if isinstance(found, dict):
        drop = ("seconds", "machine", "took")
        return {key: numbers(value) for key, value in found.items() if not any(word in key for word in drop)}
    return [numbers(value) for value in found] if isinstance(found, list) else found


_OTHERS = (a_transfer, a_sweep, an_overfitting, a_table, a_study)


@pytest.mark.parametrize("job", [a_comparison, *(pytest.param(job, marks=pytest.mark.long) for job in _OTHERS)])
def test_two_ranks_find_what_one_process_does(
    job: Callable[..., dict[str, Any]],
    pretrained: Run,
    data: Path,
    annotated: Path,
    tmp_path: Path,
    on_ranks: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(side_by_side, "processes", in_place)
    monkeypatch.setattr(learning, "PROBES", 2)
    if job is an_overfitting:
        data = annotated
    if job in (a_table, a_study):  # a batch of mae_micro has 64 images
        data = write_images(tmp_path / "many", train=36, test=6)
    if job is a_study:
        encoders(data)

    def body() -> None:
        found = job(pretrained, data, tmp_path / "two")
        (tmp_path / f"found-{rank()}").write_text(json.dumps(found))

    on_ranks(body, size=2)
    alone = numbers(json.loads(json.dumps(job(pretrained, data, tmp_path / "alone"))))
    both = [numbers(json.loads((tmp_path / f"found-{of}").read_text())) for of in "01"]
    text = json.dumps(alone).replace(str(tmp_path / "alone"), "OUT")
    assert [json.dumps(found).replace(str(tmp_path / "two"), "OUT") for found in both] == [text, text]
    files = lambda out: sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file() and p.name != ".lock")  # noqa: E731
    assert [f for f in files(tmp_path / "two") if "tensorboard" not in f.parts] == [
        f for f in files(tmp_path / "alone") if "tensorboard" not in f.parts
    ]
