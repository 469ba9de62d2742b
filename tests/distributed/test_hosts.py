"""Two hosts: network namespaces with addresses and names of their own, joined by a cable that can be cut.

Each has an agent of torchrun; they meet by c10d. Needs the right to make namespaces, and is skipped without it.
"""

import ctypes
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from harness import Job, Page, kill_when
from ranked import require_same_weights, run_training
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from forked import errors, fork, wait
from vitlet.distributed.members import Member
from vitlet.distributed.world import TIMEOUT_VARIABLE, World
from vitlet.errors import VitletError
from vitlet.run import Run

pytestmark = pytest.mark.timeout(300)

NEW_NET, NEW_UTS = 0x40000000, 0x04000000
TIMEOUT_SECONDS = 3


@dataclass(frozen=True)
class Host:
    """One end of the cable."""

    name: str
    address: str
    namespace: str
    retries: int | None
    """How often the kernel sends again before it gives a connection up; None: as often as it usually does."""

    def enter(self) -> None:
        """Be on this host from now on; for a forked child."""
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(f"/var/run/netns/{self.namespace}", os.O_RDONLY)
        assert libc.setns(descriptor, NEW_NET) == 0, os.strerror(ctypes.get_errno())
        assert libc.unshare(NEW_UTS) == 0, os.strerror(ctypes.get_errno())
        socket.sethostname(self.name)
        if self.retries is not None:
            Path("/proc/sys/net/ipv4/tcp_retries2").write_text(str(self.retries))
        os.environ["GLOO_SOCKET_IFNAME"] = "cable"

    def cut(self) -> None:
        """Pull the cable."""
        ip("-n", self.namespace, "link", "set", "cable", "down")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(params=[3, None])
def hosts(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host]]:
    if shutil.which("ip") is None:
        pytest.skip("no ip command (package iproute2)")
    a, b = (
        Host(f"host-{x}", f"10.213.77.{i}", f"vitlet-{os.getpid()}-{x}", request.param) for i, x in ((1, "a"), (2, "b"))
    )
    try:
        for host in (a, b):
            ip("netns", "add", host.namespace)
        ip("-n", a.namespace, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b.namespace)
        for host in (a, b):
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "cable")
            ip("-n", host.namespace, "link", "set", "cable", "up")
            ip("-n", host.namespace, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no right to make network namespaces: {error.stderr.decode().strip()}")
    yield a, b
    for host in (a, b):
        subprocess.run(["ip", "netns", "delete", host.namespace], check=False, capture_output=True)


@pytest.mark.long
def test_a_cut_cable_ends_both_hosts_and_the_run_goes_on(
    job: Job, hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks are gone by themselves; torchrun at the far end only where the kernel gives up soon: the control."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, str(TIMEOUT_SECONDS))
    run, pages = Run(tmp_path / "run"), [Page(), Page()]

    def rank() -> None:
        torch.set_num_threads(1)
        status, number = 99, os.environ["RANK"]
        (tmp_path / f"pid-{number}").write_text(str(os.getpid()))
        try:
            world = World.join()
            run_training(job, run, world, page=pages[world.rank], at_step=lambda _: time.sleep(0.2), every=3)
            status = 0
        except VitletError as error:
            (tmp_path / f"said-{number}").write_text(str(error))
            status = error.exit_code
        finally:
            os._exit(status)

    def agent(host: Host) -> None:
        host.enter()
        is_meeting_point = host is hosts[0]
        config = LaunchConfig(
            min_nodes=2, max_nodes=2, nproc_per_node=1, max_restarts=0, start_method="fork", run_id="test",
            rdzv_backend="c10d", rdzv_endpoint=f"{hosts[0].address}:29400", local_addr=host.address,
            rdzv_configs={"is_host": is_meeting_point, "read_timeout": TIMEOUT_SECONDS},
        )  # fmt: skip
        elastic_launch(config, rank)()

    agents = [fork(lambda host=host: agent(host), error_file=tmp_path / f"agent-{host.name}.txt") for host in hosts]
    until = time.monotonic() + 60
    while min(page["step"] for page in pages) < 4:
        failed = [p.read_text()[-2000:] for p in tmp_path.glob("agent-*")]
        assert not failed
        assert time.monotonic() < until
        time.sleep(0.02)
    ranks = [Member(platform.node(), int((tmp_path / f"pid-{number}").read_text())) for number in "01"]
    hosts[0].cut()
    cut = time.monotonic()
    while not all(one.state() == "is gone" for one in ranks):
        assert time.monotonic() - cut < TIMEOUT_SECONDS + 10, [one.state() for one in ranks]
        time.sleep(0.02)
    left = dict(zip(hosts, agents, strict=True))
    while left and time.monotonic() - cut < TIMEOUT_SECONDS + 10:
        left = {host: pid for host, pid in left.items() if not os.waitpid(pid, os.WNOHANG)[0]}
        time.sleep(0.02)
    assert list(left) == ([] if hosts[0].retries else [hosts[1]])
    for pid in left.values():
        os.kill(pid, signal.SIGKILL)
        wait(pid)
    said = {number: (tmp_path / f"said-{number}").read_text() for number in "01"}
    assert "no connection to another host: rank 1 on host-" in said["0"]
    assert "no connection to another host: rank 0 on host-" in said["1"]

    run_training(job, run, World(), every=3)
    run_training(job, Run(tmp_path / "alone"), World(), every=3)
    require_same_weights(run, Run(tmp_path / "alone"))


@pytest.mark.parametrize("hosts", [None], indirect=True)
def test_a_cable_cut_outside_a_step_is_noticed_after_the_timeout(
    hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank works alone, as at the image check, while the other waits."""
    monkeypatch.setenv(TIMEOUT_VARIABLE, str(TIMEOUT_SECONDS))
    page = Page()

    def rank(number: int) -> None:
        hosts[number].enter()
        os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": hosts[0].address, "MASTER_PORT": "29400"}
        with World.joined() as world, world.first_per_host():
            page["reached"] = 1
            while not number and page["step"] < 1:
                time.sleep(0.01)

    pids = [fork(lambda number=number: rank(number), error_file=tmp_path / f"error-{number}.txt") for number in (0, 1)]
    assert kill_when(pids[1], lambda: page["reached"] == 1, 0), errors(tmp_path)
    time.sleep(TIMEOUT_SECONDS + 1)
    assert os.waitpid(pids[1], os.WNOHANG)[0] == 0, "a rank that works is waited for"
    hosts[0].cut()
    assert wait(pids[1], seconds=TIMEOUT_SECONDS + 10) == 7, errors(tmp_path)
    page["step"] = 1
    assert wait(pids[0], seconds=10) == 7, errors(tmp_path)
    said = [(tmp_path / f"error-{number}.txt").read_text() for number in (0, 1)]
    assert "no connection to another host: rank 1 on host-b (seen by rank 0 on host-a)" in said[0]
    assert "no connection to another host: rank 0 on host-a (seen by rank 1 on host-b)" in said[1]
