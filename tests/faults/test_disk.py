"""A disk that is full, read-only or gone: the old checkpoint stays, no torso is left, the message is exact."""

import ctypes
import os
import random
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Job, Page, digest, hold_at, kill_when, leftovers, metrics_are_json, rows_without_timing

from forked import fork, wait
from vitlet.disk import write_file, write_folder
from vitlet.errors import ResourceError, UsageError
from vitlet.run import Run
from vitlet.train import checkpoint
from vitlet.train.log import MetricsLog

_NEW_MOUNTS = 0x00020000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


def with_own_mounts(body: Callable[[], None], tmp_path: Path) -> None:
    """Run `body` in a child whose mounts nobody else sees and that vanish with it."""

    def isolated() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        body()

    status = wait(fork(isolated, error_file=tmp_path / "body.txt"), seconds=100)
    text = (tmp_path / "body.txt").read_text() if (tmp_path / "body.txt").exists() else ""
    if "unshare" in text or "must be superuser" in text or "permission denied" in text:
        pytest.skip("this container does not allow mounts")
    assert status == 0, text


def mount(folder: Path, kilobytes: int, *, option: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    options = f"{option}size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)


@pytest.mark.long
@needs_root
def test_a_disk_that_fills_while_saving(job: Job, tmp_path: Path) -> None:
    reference, page = Run(tmp_path / "reference"), Page()
    assert job.finish(reference, page) == 0
    size = sum(p.stat().st_size for p in (checkpoint.folders(reference)[0]).iterdir()) // 1024
    sizes = sorted({4, 8, 12, *random.Random(0).sample(range(16, 3 * size + 64, 4), 15)})

    def body() -> None:
        outcomes = []
        for kilobytes in sizes:
            place = tmp_path / f"disk-{kilobytes}"
            mount(place, kilobytes)
            run = Run(place)
            outcomes.append(job.finish(run, page))
            if outcomes[-1]:
                judge(run, (tmp_path / "error.txt").read_text(), outcomes[-1])
            mount(place, 10_000, option="remount,")
            assert job.finish(run, page) == 0
            assert digest(run, job.total) == digest(reference, job.total)
            assert metrics_are_json(run)
            steps = [row["step"] for row in run.metrics()]
            assert sorted(set(steps)) == steps
            subprocess.run(["umount", str(place)], check=True)
        assert outcomes[-1] == 0
        assert outcomes.count(ResourceError.exit_code) >= 8, outcomes

    def judge(run: Run, message: str, status: int) -> None:
        assert status in (ResourceError.exit_code, UsageError.exit_code), message
        assert "No space left on device" in message
        assert checkpoint.latest(run)[1] == []
        assert leftovers(run) == []
        if status == ResourceError.exit_code:
            assert "MB needed" in message
            assert "MB free" in message

    with_own_mounts(body, tmp_path)


@needs_root
def test_logs_on_a_full_disk_cost_one_warning(job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reference, page = Run(tmp_path / "reference"), Page()
    assert job.finish(reference, page) == 0

    def body() -> None:
        run = Run(tmp_path / "run")
        mount(run.path, 8)
        mount(run.checkpoints, 10_000)
        (run.path / "ballast").write_bytes(bytes(4096))
        assert job.finish(run, page) == 0, (tmp_path / "error.txt").read_text()
        assert digest(run, job.total) == digest(reference, job.total)
        assert metrics_are_json(run)
        assert run.metrics() == []

    with_own_mounts(body, tmp_path)
    assert capfd.readouterr().err.count("Training goes on.") == 1


@needs_root
def test_a_read_only_place_is_refused_before_anything_else(job: Job, tmp_path: Path) -> None:
    def body() -> None:
        mount(tmp_path / "disk", 1000, option="ro,")
        page = Page()
        for run in (Run(tmp_path / "disk"), Run(tmp_path / "disk" / "new")):
            with pytest.raises(UsageError, match=r"cannot write to .*disk.*Read-only file system"), run.lock():
                pass
            with pytest.raises(ResourceError, match="Read-only"):
                write_file(run.path / "f", b"1")
            with pytest.raises(ResourceError, match="Read-only"):
                write_folder(run.path / "d", {"f": b"1"})
        assert page["step"] == -1

    with_own_mounts(body, tmp_path)


def limited(run: Callable[[], None], *, largest: int) -> Callable[[], None]:
    """`run` where no file may grow beyond `largest` bytes: a full disk for those who are not root."""

    def body() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
        run()

    return body


def test_a_file_size_limit_while_saving(job: Job, tmp_path: Path) -> None:
    run, reference, page = Run(tmp_path / "run"), Run(tmp_path / "reference"), Page()
    assert job.but(total=3).finish(run, page) == 0
    assert job.finish(reference, page) == 0
    size = (checkpoint.folders(run)[0] / checkpoint.STATE).stat().st_size
    lengths = run.metrics_file.stat().st_size
    for largest in random.Random(1).sample(range(lengths * 6, size), 10):
        page.clear()
        assert wait(fork(limited(lambda: job.run(run, page), largest=largest), error_file=tmp_path / "error.txt")) == 5
        message = (tmp_path / "error.txt").read_text()
        assert "step-00000006" in message
        assert "File too large" in message
        assert f"{size / 1e6:,.1f} MB needed" in message
        found, passed = checkpoint.latest(run)
        assert found is not None
        assert (found.step, passed, leftovers(run)) == (3, [], [])
    assert job.finish(run, page) == 0
    assert digest(run, job.total) == digest(reference, job.total)
    assert rows_without_timing(run) == rows_without_timing(reference)


def test_a_log_goes_on_when_there_is_room_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run")

    def body() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        metrics = MetricsLog(run, offset=0)
        metrics.write(row | {"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
        for step in (2, 3):
            metrics.write(row | {"step": step})
        assert metrics.offset() == run.metrics_file.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        metrics.write(row | {"step": 4})
        metrics.close()

    row = {"step": 0, "text": "x" * 1000}
    assert wait(fork(body, error_file=tmp_path / "error.txt")) == 0
    assert [row["step"] for row in run.metrics()] == [1, 4]  # whole lines only
    assert capfd.readouterr().err.count("Training goes on.") == 1


def test_a_run_that_is_moved_away_ends_and_does_not_live_twice(job: Job, tmp_path: Path) -> None:
    run, page = Run(tmp_path / "run"), Page()
    pid = job.but(at_step=hold_at(4, page)).fork(run, page)
    assert kill_when(pid, lambda: page["step"] >= 4, 0)
    run.path.rename(tmp_path / "moved")
    page["released"] = 1
    assert wait(pid) == ResourceError.exit_code
    assert str(run.path) in (tmp_path / "error.txt").read_text()
    assert not run.path.exists()
    moved = Run(tmp_path / "moved")
    found, passed = checkpoint.latest(moved)
    assert found is not None
    assert passed == []
    assert job.finish(moved, page) == 0
    assert page["start"] == found.step


def test_a_write_that_is_interrupted_by_a_signal_is_whole(tmp_path: Path) -> None:
    """Short writes are continued."""
    real = os.write
    os.write = lambda descriptor, content: real(descriptor, bytes(content)[:7])
    try:
        write_file(tmp_path / "f", b"0123456789" * 5)
    finally:
        os.write = real
    assert (tmp_path / "f").read_bytes() == b"0123456789" * 5
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's default, on which the tests above stand
