"""Going on: when, from where, to the same bits; and what another command in the same folder is answered.

How a checkpoint survives a kill within its writing stands in `tests/faults`; here the whole job is killed.
"""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness import kill_when
from small_runs import (
    QUIET,
    SHORT,
    SMALLER,
    interrupted,
    losses,
    on_two_ranks,
    rows,
    stands,
    weights,
    write_image,
    write_images,
)

from forked import fork, wait
from vitlet.cli import main
from vitlet.data.decode import BadImage
from vitlet.data.index import Index
from vitlet.errors import CheckpointError, DataError, UsageError
from vitlet.jobs import assembly, training
from vitlet.jobs.options import Options
from vitlet.jobs.packing import pack
from vitlet.jobs.training import finetune, pretrain, resume
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.weights.folder import read_model, write_model

TOLERANT = QUIET.changed(max_bad=0.1)
FIRST, LAST = "step-00000003", "step-00000006"


def shortly(data: Path, out: Path, **changes: Any) -> Run:
    """The training that `short` is, with some arguments more."""
    return pretrain("debug", **{"data": data, "out": out, "options": QUIET, "set": SHORT} | changes)


def same_outcome(run: Run, other: Run) -> bool:
    """Weights, optimizer, metrics and model, bit for bit."""
    model = [(r.encoder / "model.safetensors").read_bytes() for r in (run, other)]
    return weights(run) == weights(other) and rows(run) == rows(other) and model[0] == model[1]


class TestAnInterruptedRun:
    def test_goes_on_when_the_command_is_given_again(self, short: Run, data: Path, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        assert checkpoint.folders(begun)[0].name == FIRST
        assert same_outcome(shortly(data, begun.path), short)
        assert f"resuming {begun.path} after step 3" in begun.log_file.read_text()

    def test_goes_on_with_resume_and_other_workers(self, short: Run, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        assert resume(begun.path, options=QUIET.changed(workers=1)) == begun
        assert same_outcome(begun, short)

    def test_goes_on_with_the_options_of_its_last_start(self, short: Run, data: Path, tmp_path: Path) -> None:
        """The command that a stop advises has to fit into memory too."""

        def micro_batch() -> int | None:
            return json.loads((begun.path / "environment.json").read_text())["options"]["micro_batch"]

        small = QUIET.changed(micro_batch=4)
        begun = interrupted(shortly(data, tmp_path / "run", options=small), tmp_path / "begun")
        resume(begun.path, options=QUIET)
        assert micro_batch() == 4
        assert losses(begun) == pytest.approx(losses(short), rel=1e-5)
        begun = interrupted(shortly(data, tmp_path / "run", options=small), tmp_path / "again")
        assert main(["resume", str(begun.path), "--micro-batch", "2", "--workers", "0"]) == 0
        assert micro_batch() == 2
        shortly(data, interrupted(begun, tmp_path / "third").path)
        begun = Run(tmp_path / "third")
        assert micro_batch() is None, "the command itself says everything"

    def test_begins_where_no_checkpoint_was_reached(self, short: Run, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        shutil.rmtree(begun.checkpoints)
        assert same_outcome(resume(begun.path, options=QUIET), short)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({}, "no values for `launch`"),
            ({"launch": {"verb": "pretrain", "recipe": "debug"}}, "data: field required"),
            ({"launch": {"verb": "pretrain", "recipe": "debug", "data": 3}}, "data: input should be a valid string"),
            ({"launch": {"verb": "pretrain", "recipe": "debug", "data": "d", "more": 1}}, "more: unexpected"),
        ],
    )
    def test_whose_start_is_unreadable_is_refused(
        self, change: dict[str, Any], why: str, short: Run, tmp_path: Path
    ) -> None:
        begun = interrupted(short, tmp_path / "begun")
        (begun.path / "environment.json").write_text(json.dumps(change))
        before = stands(begun.path)
        with pytest.raises(CheckpointError, match=why):
            resume(begun.path, options=QUIET)
        assert stands(begun.path) == before

    def test_that_was_stopped_before_its_model_was_written_gets_one(self, short: Run, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        shutil.copytree(short.checkpoints / LAST, begun.checkpoints / LAST)
        assert same_outcome(resume(begun.path, options=QUIET), short)
        assert begun.environment.id == short.environment.id
        assert "finished" in json.loads((begun.path / "environment.json").read_text())

    def test_names_a_damaged_checkpoint_and_goes_on_from_the_one_before(self, short: Run, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        shutil.copytree(short.checkpoints / LAST, begun.checkpoints / LAST)
        (begun.checkpoints / LAST / checkpoint.STATE).write_bytes(b"")
        assert same_outcome(resume(begun.path, options=QUIET), short)
        assert f"warning: checkpoint {begun.checkpoints / LAST}" in begun.log_file.read_text()

    def test_that_is_killed_changes_no_bit(self, short: Run, data: Path, tmp_path: Path) -> None:
        run, errors = Run(tmp_path / "run"), tmp_path / "error.txt"
        child = fork(lambda: [shortly(data, run.path), signal.pause()], error_file=errors)
        assert kill_when(child, (run.checkpoints / FIRST).exists)
        assert wait(child) == -signal.SIGKILL
        assert same_outcome(shortly(data, run.path), short)
        assert [p.name for p in run.path.rglob(".*")] == [".lock"]


class TestAFinishedRun:
    @pytest.mark.parametrize("again", ["command", "resume"])
    def test_is_left_as_it_is(self, again: str, tuned: Run, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = stands(tuned.path)
        options = Options(workers=0)
        if again == "resume":
            assert resume(tuned.path, options=options) == tuned
        else:
            init = tuned.path.parent / "pretrained"
            finetune("debug_supervised", init=init, data=data, out=tuned.path, num_labels=16, options=options)
        assert stands(tuned.path) == before
        assert "tuned is finished and stays as it is" in capsys.readouterr().out

    def test_needs_neither_its_checkpoints_nor_its_start(self, tuned: Run, data: Path, tmp_path: Path) -> None:
        start = Run(shutil.copytree(tuned.path, tmp_path / "start"))
        run = finetune("debug_supervised", init=start.path, data=data, out=tmp_path / "run", options=QUIET, set=SMALLER)
        shutil.rmtree(run.checkpoints)
        shutil.rmtree(start.path)
        before = stands(run.path)
        resume(run.path, options=QUIET)
        assert stands(run.path) == before

    def test_on_other_data_is_not_taken_for_the_one_that_is_asked_for(self, tmp_path: Path) -> None:
        data = write_images(tmp_path / "images", train=12)
        run = shortly(data, tmp_path / "run")
        before = stands(run.path)
        write_image(data / "train/dark/new.png", 77, light=False)
        with pytest.raises(DataError, match=r"images has changed since the run began.*--accept-data-change"):
            shortly(data, run.path)
        shortly(data, run.path, options=QUIET.changed(accept_data_change=True))
        assert stands(run.path) == before


def train_again(model: Run) -> None:
    """Other weights of the same shape in the same place."""
    saved = read_model(model.encoder)
    saved.encoder.vit.cls_token.data[..., 0] += 1  # type: ignore[union-attr]
    write_model(model.encoder, encoder=saved.encoder, evaluation=saved.evaluation, facts=saved.facts)


class TestAStartThatWasTrainedAgain:
    """In the same place: the path says nothing about it."""

    @pytest.fixture
    def start(self, short: Run, tmp_path: Path) -> Run:
        return Run(shutil.copytree(short.path, tmp_path / "start"))

    def tuned(self, start: Run, data: Path, **changes: Any) -> Run:
        words = {"init": start.path, "data": data, "out": start.path.parent / "run", "options": QUIET, "set": SMALLER}
        return finetune("debug_supervised", **words | changes)

    def test_is_not_taken_for_the_one_that_a_finished_run_had(self, start: Run, data: Path) -> None:
        run = self.tuned(start, data)
        before, old = stands(run.path), weights(run)
        assert stands(self.tuned(start, data).path) == before, "the control: the same start, nothing to do"
        train_again(start)
        with pytest.raises(UsageError, match=r"was started from other weights.*start was trained again.*--fresh"):
            self.tuned(start, data)
        assert stands(run.path) == before
        assert weights(self.tuned(start, data, options=QUIET.changed(fresh=True))) != old

    def test_is_not_gone_on_from(self, start: Run, data: Path, tmp_path: Path) -> None:
        begun = interrupted(self.tuned(start, data), tmp_path / "begun")
        train_again(start)
        before = stands(begun.path)
        with pytest.raises(CheckpointError, match="is not the encoder that the run was started from"):
            resume(begun.path, options=QUIET)
        assert stands(begun.path) == before

    def test_is_another_start_of_pre_training_too(self, start: Run, data: Path, tmp_path: Path) -> None:
        shortly(data, tmp_path / "more", init=start.path)
        train_again(start)
        with pytest.raises(UsageError, match="was started from other weights"):
            shortly(data, tmp_path / "more", init=start.path)

    def test_matters_only_by_what_is_kept_of_it(self, start: Run, data: Path) -> None:
        run = self.tuned(start, data, keep_blocks=0)
        before = stands(run.path)
        train_again(start)
        assert stands(self.tuned(start, data, keep_blocks=0).path) == before


class Listener(ThreadingHTTPServer):
    """A server on loopback that has nothing and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Refusing)
        self.address = f"http://127.0.0.1:{self.server_port}/shards"


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


class TestAnAddressInARunOfOthers:
    @pytest.fixture
    def listener(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
        for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        with Listener() as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server
            server.shutdown()

    @pytest.fixture
    def foreign(self, short: Run, listener: Listener, tmp_path: Path) -> Run:
        begun = interrupted(short, tmp_path / "begun")
        environment = json.loads((begun.path / "environment.json").read_text())
        environment["launch"]["data"] = listener.address
        (begun.path / "environment.json").write_text(json.dumps(environment))
        return begun

    def test_is_not_connected_to(self, foreign: Run, listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
        before = stands(foreign.path)
        assert main(["resume", str(foreign.path)]) == 2
        assert f"Fix: vitlet resume {foreign.path} --data {listener.address}" in capsys.readouterr().err
        assert listener.asked == []
        assert stands(foreign.path) == before

    def test_is_where_the_user_repeats_it(self, foreign: Run, listener: Listener) -> None:
        """The control, too: without the refusal a connection would be seen."""
        pytest.importorskip("aiohttp", reason="aiohttp (extra remote) is not installed")
        assert main(["resume", str(foreign.path), "--data", listener.address]) == 3
        assert listener.asked

    def test_is_not_where_another_is_given(self, foreign: Run, listener: Listener, tmp_path: Path) -> None:
        pytest.importorskip("aiohttp", reason="aiohttp (extra remote) is not installed")
        others = write_images(tmp_path / "others", train=8)
        with pytest.raises(UsageError, match="was begun on other data"):
            resume(foreign.path, data=others, options=QUIET)
        assert listener.asked == []
        with pytest.raises(DataError, match="cannot list"):
            resume(foreign.path, data=f"{listener.address}-of-the-user", options=QUIET)
        assert {asked.split("/")[1] for asked in listener.asked} == {"shards-of-the-user"}


@pytest.fixture(scope="module")
def shards(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(data, out=out, options=QUIET)
    return out


class TestACopyOfTheDataElsewhere:
    """Shards of the folder: the same names, sizes, labels and splits."""

    def test_is_gone_on_with_by_the_same_command(self, short: Run, shards: Path, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        shortly(shards, begun.path)
        assert same_outcome(begun, short)
        assert "after step 3" in begun.log_file.read_text()

    def test_is_gone_on_with_by_resume_where_the_first_is_no_more(
        self, short: Run, data: Path, shards: Path, tmp_path: Path
    ) -> None:
        """And in the other direction."""
        gone = Path(shutil.copytree(shards, tmp_path / "gone"))
        run = shortly(gone, tmp_path / "run")
        assert same_outcome(run, short)
        begun = interrupted(run, tmp_path / "begun")
        shutil.rmtree(gone)
        with pytest.raises(DataError, match="there is no"):
            resume(begun.path, options=QUIET)
        assert same_outcome(resume(begun.path, data=data, options=QUIET), short)
        assert "after step 3" in begun.log_file.read_text()

    @pytest.mark.parametrize("again", ["command", "resume"])
    def test_leaves_a_finished_run_as_it_is(self, again: str, short: Run, shards: Path, tmp_path: Path) -> None:
        run = Run(shutil.copytree(short.path, tmp_path / "run"))
        shutil.rmtree(run.checkpoints)
        before = stands(run.path)
        shortly(shards, run.path) if again == "command" else resume(run.path, data=shards, options=QUIET)
        assert stands(run.path) == before

    @pytest.mark.parametrize("state", ["begun", "finished", "without checkpoint"])
    def test_that_is_none_is_refused(self, state: str, short: Run, data: Path, shards: Path, tmp_path: Path) -> None:
        """Smaller images; or the run has recorded nothing that could be compared."""
        run = interrupted(short, tmp_path / "run") if state != "finished" else short
        others = tmp_path / "smaller"
        pack(data, out=others, short_side=16, options=QUIET)
        if state == "without checkpoint":
            shutil.rmtree(run.checkpoints)
            others = shards
        before = stands(run.path)
        with pytest.raises(UsageError, match=r"holds another run\. data differ"):
            shortly(others, run.path, options=QUIET.changed(accept_data_change=True))
        with pytest.raises(UsageError, match="was begun on other data"):
            resume(run.path, data=others, options=QUIET.changed(accept_data_change=True))
        assert stands(run.path) == before


def test_the_same_folder_may_be_repeated(short: Run, data: Path, tmp_path: Path) -> None:
    begun = interrupted(short, tmp_path / "begun")
    assert same_outcome(resume(begun.path, data=data, options=QUIET), short)


class TestATeacherThatWasTrainedAgain:
    """In the same place: the recipe names the path alone."""

    @pytest.fixture
    def teacher(self, short: Run, tmp_path: Path) -> Run:
        return Run(shutil.copytree(short.path, tmp_path / "teacher"))

    def taught(self, teacher: Run, data: Path, **changes: Any) -> Run:
        settings = SMALLER | {"objective.teacher": str(teacher.path), "objective.layers": [[1, 1]]}
        words = {"data": data, "out": teacher.path.parent / "run", "options": QUIET, "set": settings}
        return pretrain("debug_distill", **words | changes)

    def test_is_not_taken_for_the_one_that_a_finished_run_had(self, teacher: Run, data: Path) -> None:
        run = self.taught(teacher, data)
        before, old = stands(run.path), weights(run)
        assert stands(self.taught(teacher, data).path) == before, "the control: the same teacher, nothing to do"
        train_again(teacher)
        with pytest.raises(UsageError, match=r"was taught by other weights.*teacher .* was trained again.*--fresh"):
            self.taught(teacher, data)
        assert stands(run.path) == before
        assert weights(self.taught(teacher, data, options=QUIET.changed(fresh=True))) != old

    def test_is_not_gone_on_with(self, teacher: Run, data: Path, tmp_path: Path) -> None:
        begun = interrupted(self.taught(teacher, data), tmp_path / "begun")
        train_again(teacher)
        before = stands(begun.path)
        with pytest.raises(CheckpointError, match="is not the teacher that the run began with"):
            resume(begun.path, options=QUIET)
        assert stands(begun.path) == before

    def test_matters_no_more_when_the_run_is_finished(self, teacher: Run, data: Path) -> None:
        run = self.taught(teacher, data)
        before = stands(run.path)
        shutil.rmtree(teacher.path)
        resume(run.path, options=QUIET)
        assert stands(run.path) == before

    @pytest.mark.parametrize("has_teacher", [True, False])
    def test_a_run_from_before_it_was_written_down_goes_on(
        self, has_teacher: bool, teacher: Run, short: Run, data: Path, tmp_path: Path
    ) -> None:
        """By the command and by `resume`; nobody knows what the teacher was."""
        run = self.taught(teacher, data) if has_teacher else short
        for number, again in enumerate((self.taught if has_teacher else shortly_from, resumed)):
            begun = interrupted(run, tmp_path / f"begun-{number}")
            environment = json.loads((begun.path / "environment.json").read_text())
            assert bool(environment["launch"].pop("teacher")) == has_teacher
            (begun.path / "environment.json").write_text(json.dumps(environment))
            assert same_outcome(again(teacher, data, out=begun.path), run)


def shortly_from(_: Run, data: Path, *, out: Path) -> Run:
    return shortly(data, out)


def resumed(_: Run, __: Path, *, out: Path) -> Run:
    return resume(out, options=QUIET)


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "longer"])
def test_changed_data_is_refused(change: str, short: Run, data: Path, tmp_path: Path) -> None:
    begun, own = interrupted(short, tmp_path / "begun"), shutil.copytree(data, tmp_path / "images")
    environment = json.loads((begun.path / "environment.json").read_text())
    environment["launch"]["data"] = str(own)
    (begun.path / "environment.json").write_text(json.dumps(environment))
    before, file = stands(begun.path), own / "train/dark/00.png"
    match change:
        case "added":
            write_image(own / "train/dark/new.png", 77, light=False)
        case "removed":
            file.unlink()
        case "renamed":
            file.rename(file.with_name("zz.png"))
        case "longer":
            file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"images has changed since the run began.*--accept-data-change"):
        resume(begun.path, options=QUIET)
    assert stands(begun.path) == before
    if change == "added":
        resume(begun.path, options=QUIET.changed(accept_data_change=True))
        assert checkpoint.folders(begun)[0].name == LAST


class TestOtherUsableImagesOfTheSameFiles:
    """An image can be read at one start and not at another: name and size, which the fingerprint sees, are the same."""

    @pytest.fixture
    def own(self, tmp_path: Path) -> Path:
        return write_images(tmp_path / "images", train=16)

    @pytest.fixture(params=["bytes"])
    def without(self, own: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
        """Trained on all images but one, which could not be used; it can be now."""
        with unreadable(own / "train/dark/00.png", cause=request.param):
            return shortly(own, tmp_path / "run", options=TOLERANT)

    @pytest.fixture
    def begun(self, without: Run, tmp_path: Path) -> Run:
        return interrupted(without, tmp_path / "begun")

    @pytest.mark.parametrize("without", ["bytes", "one failed read"], indirect=True)
    def test_one_that_could_not_be_read_stays_left_out(self, begun: Run, without: Run) -> None:
        """For either cause: the file was damaged and is repaired, or it is as it was and was not sent once."""
        assert json.loads(begun.left_out_file.read_text())["rows"] == [0]
        before = begun.left_out_file.stat().st_mtime_ns
        resume(begun.path, options=TOLERANT)
        assert same_outcome(begun, without), "as if it had never been interrupted"
        said = begun.log_file.read_text()
        assert said.count("note: 1 image that could not be used when the run began can be now: left out again") == 1
        assert "such as train/dark/00.png" in said
        check = json.loads((begun.path / "data_check.json").read_text())
        assert (check["num_good"], check["balance"]["train"]) == (31, {"dark": 15, "light": 16})
        assert check["bad"] == [["train/dark/00.png", "it could not be used when the run began"]]
        assert begun.left_out_file.stat().st_mtime_ns == before

    def test_without_the_record_it_is_another_image(self, begun: Run) -> None:
        """The control: a run begun before there was one."""
        begun.left_out_file.unlink()
        before = stands(begun.path)
        with pytest.raises(DataError, match=r"other usable images.*31 training images before, 32 now.*--accept-data"):
            resume(begun.path, options=TOLERANT)
        assert stands(begun.path) == before

    def test_it_is_taken_in_where_that_is_asked_for(self, begun: Run) -> None:
        resume(begun.path, options=TOLERANT.changed(accept_data_change=True))
        assert "note: going on with other images: 31 training images before, 32 now" in begun.log_file.read_text()
        assert json.loads(begun.left_out_file.read_text())["rows"] == []

    def test_one_that_was_used_and_cannot_be_read_is_missed(self, begun: Run, own: Path) -> None:
        """Also where another can be read instead, so that the number is the same."""
        with unreadable(own / "train/dark/01.png"):
            before = stands(begun.path)
            with pytest.raises(DataError, match=r"other usable images.*31 training images before, 30 now"):
                resume(begun.path, options=TOLERANT)
            assert {k: v for k, v in stands(begun.path).items() if k != "log.txt"} == {
                k: v for k, v in before.items() if k != "log.txt"
            }

    def test_the_same_ones_are_none(self, begun: Run, own: Path) -> None:
        with unreadable(own / "train/dark/00.png"):
            resume(begun.path, options=TOLERANT)
        said = begun.log_file.read_text()
        assert "other images" not in said
        assert "when the run began" not in said

    @pytest.mark.parametrize("rows", ["[99]", "[-1]", '["0"]', "null", "[0"])
    def test_a_damaged_record_is_refused(self, begun: Run, rows: str) -> None:
        whole = begun.left_out_file.read_text()
        begun.left_out_file.write_text(whole.replace(json.dumps([0], indent=2).replace("\n", "\n  "), rows))
        assert begun.left_out_file.read_text() != whole
        with pytest.raises(CheckpointError, match=r"left_out\.json is (damaged.*--accept-data-change|not JSON)"):
            resume(begun.path, options=TOLERANT)
        resume(begun.path, options=TOLERANT.changed(accept_data_change=True))


@contextlib.contextmanager
def unreadable(file: Path, *, cause: str = "bytes") -> Iterator[None]:
    """For a while the file has other bytes of the same number, or reading it fails."""
    if cause == "bytes":
        content = file.read_bytes()
        file.write_bytes(bytes(len(content)))
        yield
        file.write_bytes(content)
        return
    read = Index.read

    def failing(self: Index, i: int) -> bytes:
        if str(file).endswith(self.path(i)):
            raise BadImage(self.path(i), "cannot read the file: Input/output error")
        return read(self, i)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "read", failing)
        yield


@pytest.fixture(scope="module")
def few(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Fine-tuned from random weights on 12 labels; only to be read."""
    out = tmp_path_factory.mktemp("few") / "run"
    return finetune("debug_supervised", init=None, data=data, out=out, num_labels=12, options=QUIET, set=SMALLER)


class TestAnotherRunInTheSameFolder:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"seed": 1}, "recipe"),
            ({"set": SMALLER | {"optimizer.base_lr": 0.5}}, "recipe"),
            ({"num_labels": 14}, "num_labels"),
            ({"num_labels": None}, "num_labels"),
            ({"init": "pretrained"}, "init"),
            ({"data": "others"}, "data"),
        ],
    )
    def test_is_refused_by_what_differs(
        self, changes: dict[str, Any], named: str, few: Run, data: Path, pretrained: Run, tmp_path: Path
    ) -> None:
        asked = {"init": None, "data": data, "num_labels": 12, "set": SMALLER} | changes
        places = {"pretrained": pretrained.path, "others": write_images(tmp_path / "others", train=8)}
        asked = {key: places.get(value, value) if isinstance(value, str) else value for key, value in asked.items()}
        before = stands(few.path)
        with pytest.raises(UsageError, match=rf"holds another run\. {named} differ.*--fresh to replace it") as caught:
            finetune("debug_supervised", out=few.path, options=QUIET, **asked)
        assert caught.value.exit_code == 2
        assert stands(few.path) == before

    def test_of_the_other_verb(self, short: Run, data: Path) -> None:
        before = stands(short.path)
        with pytest.raises(UsageError, match=r"holds another run\. verb, recipe differ"):
            finetune("debug_supervised", init=None, data=data, out=short.path, options=QUIET)
        assert stands(short.path) == before

    def test_replaces_it_where_that_is_asked_for(self, short: Run, data: Path, tmp_path: Path) -> None:
        run = shortly(data, tmp_path / "run", seed=1)
        (run.path / "results").mkdir()
        (run.path / "results/old.json").write_text("{}")
        former = run.environment.id
        shortly(data, run.path, options=QUIET.changed(fresh=True))
        assert run.environment.id != former
        assert same_outcome(run, short)
        assert not (run.path / "results/old.json").exists()

    def test_fresh_is_no_matter_of_resuming(self, short: Run, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        resume(begun.path, options=QUIET.changed(fresh=True))
        assert len([line for line in begun.log_file.read_text().splitlines() if "after step 3" in line]) == 1

    def test_is_not_the_same_one_in_another_precision(
        self, short: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Begun where there is no bf16 and so in fp32, gone on with by the same command where there is."""
        monkeypatch.setattr(training, "has_bf16", lambda _: False)
        run = shortly(data, tmp_path / "run", precision="bf16")
        begun = interrupted(run, tmp_path / "begun")
        monkeypatch.setattr(training, "has_bf16", lambda _: True)
        assert same_outcome(shortly(data, begun.path, precision="bf16"), short)
        with pytest.raises(UsageError, match="recipe differ"):
            shortly(data, begun.path, precision="fp32")
        assert shortly(data, tmp_path / "new", precision="bf16").recipe_json()["budget"]["precision"] == "bf16"

    def test_an_edited_recipe_is_not_trained_on_with_old_weights(self, short: Run, tmp_path: Path) -> None:
        begun = interrupted(short, tmp_path / "begun")
        recipe = begun.recipe_json()
        recipe["optimizer"]["base_lr"] = 0.123
        begun.recipe_file.write_text(json.dumps(recipe))
        with pytest.raises(CheckpointError, match="belongs to another recipe"):
            resume(begun.path, options=QUIET)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_other_things_is_left_alone(fresh: bool, data: Path, tmp_path: Path) -> None:
    precious = write_images(tmp_path / "precious", train=1)
    before = stands(precious)
    with pytest.raises(UsageError, match=r"is not empty and not a run.*nothing was changed"):
        shortly(data, precious, options=QUIET.changed(fresh=fresh))
    assert stands(precious) == before


def test_what_is_no_run_cannot_be_resumed(data: Path, tmp_path: Path) -> None:
    for place in (data, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="no run at"):
            resume(place)


@pytest.fixture(scope="module")
def by_two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The training that `short` is, by the command line, over two processes on gloo; in the place of another run."""
    out = tmp_path_factory.mktemp("ranks") / "run"
    shortly(data, out, seed=9)
    on_two_ranks("pretrain", "debug", "--data", data, "--out", out, "--fresh", folder=out.parent, settings=SHORT)
    return Run(out)


def test_two_ranks_learn_what_one_learns(by_two: Run, short: Run) -> None:
    assert by_two.recipe_json() == short.recipe_json()
    assert losses(by_two) == pytest.approx(losses(short), rel=1e-6)
    assert [row["step"] for row in by_two.metrics()] == [row["step"] for row in short.metrics()]


def test_a_run_of_two_ranks_is_gone_on_with_by_one(by_two: Run, short: Run, data: Path, tmp_path: Path) -> None:
    begun = interrupted(by_two, tmp_path / "begun")
    assert losses(shortly(data, begun.path)) == pytest.approx(losses(short), rel=1e-6)


def test_a_restart_by_torchrun_keeps_what_the_first_attempt_made(
    short: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun gives the same words again, --fresh among them, after a rank was lost."""
    begun = interrupted(short, tmp_path / "begun")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    shortly(data, begun.path, options=QUIET.changed(fresh=True))
    assert "after step 3" in begun.log_file.read_text()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    shortly(data, begun.path, options=QUIET.changed(fresh=True))
    assert "after step 3" not in begun.log_file.read_text()


def test_of_two_ranks_only_the_first_makes_room_for_a_fresh_run(
    short: Run, data: Path, tmp_path: Path, on_ranks: Callable[..., None]
) -> None:
    """The other, although it comes first, must neither delete the old run nor, later, the new one."""
    run = shortly(data, tmp_path / "run", seed=9)

    def body() -> None:
        rank, real = os.environ["RANK"], assembly.remove_folder

        def noted(path: Path) -> None:
            (tmp_path / f"removed-by-{rank}").touch()
            real(path)

        assembly.remove_folder = noted
        time.sleep(0.5 * (rank == "0"))
        shortly(data, run.path, options=QUIET.changed(fresh=True))

    on_ranks(body, size=2)
    assert [p.name for p in tmp_path.glob("removed-by-*")] == ["removed-by-0"]
    assert losses(run) == pytest.approx(losses(short), rel=1e-6)
