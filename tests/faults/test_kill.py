"""kill -9 at any moment: the run that goes on ends with the same bits as the run that was never killed."""

import contextlib
import multiprocessing
import os
import platform
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from harness import CRASHED, Job, Page, children_of, crash_at, digest, kill_when, leftovers, rows_without_timing
from PIL import Image

from forked import BROKEN, fork, wait, wait_until
from vitlet.augmentation import Centre, View
from vitlet.data import loader, workers
from vitlet.data.index import open_index
from vitlet.data.workers import parallel
from vitlet.disk import temporary_place
from vitlet.distributed.members import Member
from vitlet.host import end_with_parent
from vitlet.methods.objective import Objective
from vitlet.normalisation import IMAGENET
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.checkpoint import Checkpoint

KILLS, INSIDE = 100, 60
SECONDS = 60.0
CALLS_OF_A_SAVE = 26


@dataclass
class Tally:
    """What a series of kills did."""

    kills: int = 0
    inside: int = 0
    runs: int = 0
    most_repeated: int = 0
    failures: list[str] = field(default_factory=list)


def kill_one(job: Job, run: Run, page: Page, draw: random.Random) -> tuple[bool, bool]:
    """One attempt: (it was killed, it was killed inside saving)."""
    if draw.random() < 0.75:
        target, late = draw.randrange(CALLS_OF_A_SAVE * 3), draw.random() < 0.5

        def linger(name: str, call: Callable, *args: object, **kwargs: object) -> object:
            """Wait to be killed, before or after the call that it shall be."""
            here = page["saving"] == 1 and page["calls"] + 1 >= target
            if here and not late:
                page["reached"] = 1
                signal.pause()
            result = call(*args, **kwargs)
            if here and late:
                page["reached"] = 1
                signal.pause()
            return result

        pid = job.fork(run, page, wrapper=linger)
        killed = kill_when(pid, lambda: page["reached"] == 1)
    else:
        moment = time.monotonic() + draw.uniform(0.0, 0.25)
        pid = job.fork(run, page)
        killed = kill_when(pid, lambda: time.monotonic() >= moment)
    status = wait(pid)
    assert status == (-signal.SIGKILL if killed and status else 0), f"status {status}"
    return status != 0, page["saving"] == 1


def kill_series(job: Job, folder: Path, *, kills: int, inside: int, seed: int) -> Tally:
    """Kill trainings again and again until there were enough; judge each against one that was never killed."""
    draw, page, tally = random.Random(seed), Page(), Tally()
    reference = Run(folder / "reference")
    assert job.finish(reference, page) == 0
    expected = rows_without_timing(reference)
    while tally.kills < kills or tally.inside < inside:
        tally.runs += 1
        run = Run(folder / f"run-{tally.runs}")
        finished, last_step = False, -1
        while not finished and not tally.failures:
            enough = tally.kills >= kills and tally.inside >= inside
            try:
                was_killed, was_inside = (
                    (job.finish(run, page) != 0, False) if enough else kill_one(job, run, page, draw)
                )
            except AssertionError:
                tally.failures.append((folder / "error.txt").read_text())
                break
            if page["start"] >= 0 and last_step >= 0:
                tally.most_repeated = max(tally.most_repeated, last_step - page["start"])
            last_step = max(page["step"], page["start"]) + (page["saving"] >= 0 and page["step"] >= 0)
            tally.kills, tally.inside, finished = tally.kills + was_killed, tally.inside + was_inside, not was_killed
        if not tally.failures:
            if rows_without_timing(run) != expected:
                tally.failures.append("metrics differ")
            if job.save is None and digest(run, job.total) != digest(reference, job.total):
                tally.failures.append("weights or optimizer differ")
        if tally.failures:
            break
        shutil.rmtree(run.path)
    return tally


@pytest.mark.long
def test_a_hundred_kills_change_no_bit(job: Job, tmp_path: Path) -> None:
    began, cpu_began = time.monotonic(), cpu_seconds()
    tally = kill_series(job, tmp_path, kills=KILLS, inside=INSIDE, seed=0)
    took = cpu_seconds() - cpu_began
    print(f"{tally} in {took:.1f} s of CPU time, {time.monotonic() - began:.1f} s on the wall")
    assert tally.failures == []
    assert tally.kills >= KILLS
    assert tally.inside >= INSIDE
    assert tally.most_repeated <= job.every
    assert took <= SECONDS


def cpu_seconds() -> float:
    """Of this process and its children: what else the machine does must not decide a test."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


IN_PLACE = "state.safetensors"


def save_in_place(run: Run, *, step: int, objective: Objective, optimizer: torch.optim.Optimizer, facts: dict) -> Path:
    """The control: the same bytes, written straight to their final name, without a manifest."""
    tensors = checkpoint._tensors(objective, optimizer)
    content = safetensors.torch.save(tensors, {"step": str(step), "metrics_bytes": str(facts["metrics_bytes"])})
    path = run.path / IN_PLACE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for start in range(0, len(content), 4096):
        os.write(descriptor, content[start : start + 4096])
    os.fsync(descriptor)
    os.close(descriptor)
    return path


def load_in_place(run: Run, objective: Objective, optimizer: torch.optim.Optimizer) -> Checkpoint | None:
    path = run.path / IN_PLACE
    if not path.is_file():
        return None
    with safetensors.safe_open(path, "pt") as stored:
        facts = stored.metadata()
    manifest = {"step": int(facts["step"]), "metrics_bytes": int(facts["metrics_bytes"])}
    state = Checkpoint(path, manifest, safetensors.torch.load_file(path))
    checkpoint.restore(state, objective=objective, optimizer=optimizer)
    return state


def test_control_saving_in_place_does_not_survive(job: Job, tmp_path: Path) -> None:
    plain = job.but(save=save_in_place, load=load_in_place)
    page = Page()
    assert plain.finish(Run(tmp_path / "unharmed"), page) == 0  # the control works where nobody kills it
    tally = kill_series(plain, tmp_path, kills=KILLS, inside=INSIDE, seed=0)
    assert tally.failures, "the kills do not bite"


@pytest.mark.parametrize("torn", [False, True])
def test_every_crash_point_of_saving_and_pruning_leaves_a_valid_checkpoint(
    job: Job, tmp_path: Path, torn: bool
) -> None:
    before, page = Run(tmp_path / "before"), Page()
    assert job.but(total=6).finish(before, page) == 0
    assert [p.name for p in checkpoint.folders(before)] == ["step-00000006", "step-00000003"]
    reference = Run(tmp_path / "reference")
    assert job.but(total=9).finish(reference, page) == 0
    points = 0
    for number in range(200):
        run = Run(tmp_path / f"crash-{number}")
        shutil.copytree(before.path, run.path)
        status = wait(job.but(total=9).fork(run, page, wrapper=crash_at(number, page, torn=torn)))
        found, passed = checkpoint.latest(run)
        assert found is not None
        assert passed == []
        assert found.step in (6, 9)
        if status == 0:
            break
        assert status == CRASHED, (tmp_path / "error.txt").read_text() if status == BROKEN else status
        points += 1
        assert job.but(total=9).finish(run, page) == 0
        assert leftovers(run) == []
        assert digest(run, 9) == digest(reference, 9)
        assert [p.name for p in checkpoint.folders(run)][:2] == ["step-00000009", "step-00000006"]
        shutil.rmtree(run.path)
    print(f"{points} crash points")
    assert (points == 2) if torn else (points > 15)


def test_saving_flushes_then_renames_then_flushes_the_folder_and_only_then_prunes(job: Job, tmp_path: Path) -> None:
    run, page = Run(tmp_path / "run"), Page()
    opened: dict[int, str] = {}

    def note(name: str, call: Callable, *args: object, **kwargs: object) -> object:
        result = call(*args, **kwargs)
        if name == "open":
            opened[result] = str(args[0])
        if page["saving"] == 1 and name != "open":
            subject = opened.get(args[0], "") if name in ("write", "fsync") else str(args[0])
            with (tmp_path / "calls").open("a") as log:
                log.write(f"{name} {Path(subject).name.replace(str(os.getpid()), 'PID')}\n")
        return result

    assert job.but(total=6).finish(run, page) == 0
    assert wait(job.but(total=9).fork(run, page, wrapper=note)) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    temporary = temporary_place(tmp_path, "step-00000009").name.replace(str(os.getpid()), "PID")
    assert calls[:8] == [
        f"mkdir {temporary}",
        "write state.safetensors",
        "write manifest.json",
        "fsync manifest.json",
        "fsync state.safetensors",
        f"fsync {temporary}",
        f"rename {temporary}",
        "fsync checkpoints",
    ]
    assert calls.index("rename step-00000003") > calls.index("fsync checkpoints")
    assert [c for c in calls if c.startswith(("unlink", "rmdir"))][-1] == "rmdir .del-PID-step-00000003"


def too_late(_: signal.Signals) -> None:
    """A request to the kernel that comes when the parent is already gone, and so has no effect."""
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("ask", "leaves"),
    [(workers.end_with_parent, True), (too_late, True), (lambda _: None, False)],
    ids=["as it is", "killed before the child began", "control: the end of a pipe does not tell"],
)
def test_decoding_processes_end_with_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[signal.Signals], None], leaves: bool
) -> None:
    """One hangs at an image, one waits for more."""
    monkeypatch.setattr(workers, "end_with_parent", ask)

    def decode(i: int) -> None:
        if i == 0:
            time.sleep(60)

    def body() -> None:
        for i, *_ in parallel(decode, range(40), workers=2, timeout=60):
            if i == 39:
                page["reached"] = 1
                signal.pause()

    page = Page()
    pid = fork(body, error_file=tmp_path / "error.txt")
    is_set = (lambda: len(children_of(pid)) == 2) if ask is too_late else (lambda: page["reached"] == 1)
    wait_until(is_set)
    children = [Member(platform.node(), child) for child in children_of(pid)]
    try:
        assert len(children) == 2
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL
        if leaves:
            wait_until(lambda: [child.state() for child in children] == ["is gone"] * 2)
        else:
            time.sleep(1)
            assert [child.state() for child in children] == ["", ""]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # theirs is the group of their parent


@pytest.mark.parametrize(
    ("ask", "leaves"),
    [(workers.end_with_parent, True), (lambda _: None, False)],
    ids=["as it is", "control: as long as torch does not look"],
)
def test_loader_workers_end_with_their_parent_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[signal.Signals], None], leaves: bool
) -> None:
    """Until they do, they hold the connections of a killed rank, and the others do not hear of its loss.

    A process that does ask the kernel, forked beside them, tells when they have to be gone.
    """
    monkeypatch.setattr(loader, "end_with_parent", ask)
    monkeypatch.setattr("torch.utils.data._utils.worker.ManagerWatchdog.is_alive", lambda _: True)
    for i in range(8):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    index = open_index(tmp_path, cache=tmp_path / "cache")
    page = Page()

    def body() -> None:
        view = View(size=8, crop=Centre(share=1.0))
        batches = loader.evaluation_batches(
            index, np.arange(8), view=view, normalisation=IMAGENET, batch_size=1, workers=1
        )
        next(batches)
        page["reached"] = fork(asks, error_file=tmp_path / "asks.txt")
        signal.pause()

    def asks() -> None:
        end_with_parent(signal.SIGKILL)
        page["released"] = 1
        signal.pause()

    pid = fork(body, error_file=tmp_path / "error.txt")
    wait_until(lambda: page["released"] == 1 and page["reached"] > 0)
    witness = Member(platform.node(), page["reached"])
    workers = [Member(platform.node(), child) for child in children_of(pid) if child != witness.process]
    try:
        assert len(workers) == 1
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL
        wait_until(lambda: witness.state() == "is gone")
        if leaves:
            wait_until(lambda: workers[0].state() == "is gone")
        else:
            assert workers[0].state() == ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
