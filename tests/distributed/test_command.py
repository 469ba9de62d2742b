"""The real command under torchrun: whatever is lost, everything is gone in the promised time, and the run goes on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import digest, rows_without_timing, tiny_images

from forked import wait_until
from vitlet.run import Run
from vitlet.train import checkpoint

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

PROMISED_SECONDS = 10.0
TIMEOUT_SECONDS = 5
STEPS = 120
MARK = "VITLET_TEST_LAUNCH"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_images(tmp_path_factory.mktemp("images"), count=20, size=32)


class Launch:
    """`torchrun … -m vitlet pretrain debug`, once for each host, and all processes that come of it."""

    def __init__(self, images: Path, run: Run, *, ranks: int = 2, hosts: int = 1, restarts: int = 0) -> None:
        self.run, self.mark = run, uuid.uuid4().hex
        words = [f"--nproc-per-node={ranks // hosts}", f"--nnodes={hosts}", f"--max-restarts={restarts}"]
        if hosts == 1:
            words.append("--standalone")
        else:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                endpoint = f"127.0.0.1:{free.getsockname()[1]}"
            words += ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--local-addr=127.0.0.1"]
        settings = {"budget.duration": f'{{"unit":"steps","n":{STEPS}}}', "budget.log_every": "1"}
        settings["budget.checkpoint_every"] = '{"unit":"steps","n":10}'
        command = [sys.executable, "-m", "torch.distributed.run", *words, "-m", "vitlet", "pretrain", "debug"]
        command += [f"--data={images}", f"--out={run.path}", "--device=cpu", "--workers=1"]
        command += [f"--set={key}={value}" for key, value in settings.items()]
        environment = {MARK: self.mark, "VITLET_RANK_TIMEOUT": str(TIMEOUT_SECONDS), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        self.output = run.path.with_suffix(".said")
        self.began = time.monotonic()
        with self.output.open("w") as output:
            self.agents = [
                subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
                for _ in range(hosts)
            ]

    def processes(self) -> dict[int, dict[str, str]]:
        """The environments of those that live, by process."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # one that ends just now, or of somebody else
                words = (place / "environ").read_bytes().decode(errors="replace").split("\0")
                values = dict(word.split("=", 1) for word in words if "=" in word)
                if values.get(MARK) == self.mark:
                    found[int(place.name)] = values
        return found

    def rank(self, number: int) -> int:
        """Process of a rank, once it trains; its loader's workers have its environment too."""
        mine = [pid for pid, values in self.processes().items() if values.get("RANK") == str(number)]
        parents = {
            int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1]): pid for pid in mine
        }
        (found,) = [pid for parent, pid in parents.items() if parent not in mine]
        return found

    def wait_for_step(self, step: int) -> float:
        """Return the seconds that this launch took until then."""

        def came() -> bool:
            assert all(agent.poll() is None for agent in self.agents), self.said()
            return self.run.metrics_file.exists() and any(row["step"] >= step for row in self.run.metrics())

        wait_until(came, seconds=120)
        return time.monotonic() - self.began

    def require_gone(self, within: float) -> None:
        """Let all processes end, in a time that does not allow for a wait that nobody promised."""
        until = time.monotonic() + within
        while left := self.processes():
            for agent in self.agents:
                agent.poll()
            assert time.monotonic() < until, f"{len(left)} processes are left after {within:.0f} s: {self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        return self.output.read_text()

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for agent in self.agents:
            agent.wait()


@contextlib.contextmanager
def launched(images: Path, run: Run, **how: int) -> Iterator[Launch]:
    launch = Launch(images, run, **how)
    try:
        yield launch
    finally:
        launch.end()


def test_a_killed_rank_changes_no_bit_of_the_run(images: Path, tmp_path: Path) -> None:
    runs = Run(tmp_path / "alone"), Run(tmp_path / "killed")
    with launched(images, runs[0]) as alone:
        assert alone.agents[0].wait(timeout=200) == 0, alone.said()
    with launched(images, runs[1], restarts=1) as killed:
        killed.wait_for_step(STEPS // 3)
        lost = killed.rank(1)
        os.kill(lost, signal.SIGKILL)
        assert killed.agents[0].wait(timeout=200) == 0, killed.said()
        assert f"rank 1 is gone (process {lost})" in killed.said()
    assert [row["step"] for row in runs[1].metrics() if "loss" in row] == list(range(1, STEPS + 1))
    assert rows_without_timing(runs[1]) == rows_without_timing(runs[0])
    assert digest(runs[1], STEPS) == digest(runs[0], STEPS)


@pytest.mark.parametrize(
    ("fault", "ranks", "hosts", "allowed"),
    [
        ("kill", 2, 1, 0),
        ("kill", 4, 1, 0),
        ("kill torchrun", 2, 1, 0),
        ("freeze", 2, 1, TIMEOUT_SECONDS),
        ("freeze", 2, 2, TIMEOUT_SECONDS),
        ("freeze, kill torchrun", 2, 1, TIMEOUT_SECONDS),
    ],
)
def test_all_are_gone_in_time(
    images: Path, tmp_path: Path, *, fault: str, ranks: int, hosts: int, allowed: int
) -> None:
    """Ten seconds, after the timeout for a frozen rank; on a slow machine as much longer as it takes to start."""
    run = Run(tmp_path / "run")
    with launched(images, run, ranks=ranks, hosts=hosts) as launch:
        slow = launch.wait_for_step(12)
        rank = launch.rank(ranks - 1)
        os.kill(rank, signal.SIGSTOP if "freeze" in fault else signal.SIGKILL if fault == "kill" else 0)
        if "kill torchrun" in fault:
            launch.agents[0].kill()
        launch.require_gone(allowed + PROMISED_SECONDS + slow)
        said = launch.said()
    if "kill torchrun" not in fault:
        what = "is stopped" if fault == "freeze" else "is gone"
        assert f"rank {ranks - 1} {what} (process {rank})" in said
    elif "freeze" not in fault:
        assert "stopped by signal 15" in said
    assert checkpoint.latest(run)[0] is not None, "from which the run goes on"


def test_control_a_wait_that_nobody_promised_is_seen(tmp_path: Path) -> None:
    launch = object.__new__(Launch)
    launch.mark, launch.output = uuid.uuid4().hex, tmp_path / "said"
    launch.output.touch()
    launch.agents = [subprocess.Popen(["sleep", "60"], env={MARK: launch.mark})]
    try:
        with pytest.raises(AssertionError, match="1 processes are left"):
            launch.require_gone(0.2)
    finally:
        launch.end()
    launch.require_gone(0.2)
