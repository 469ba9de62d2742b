"""A lost host moves rank 0 to another: the run goes on there, or stops with a word. Hosts are folders here."""

import json
import os
import shutil
from pathlib import Path

import pytest
from small_runs import QUIET, SHORT, losses
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from forked import errors, fork, start_ranks, wait
from vitlet.errors import VitletError, WorkerError
from vitlet.jobs.training import pretrain
from vitlet.run import Run
from vitlet.train import checkpoint

SHARED = "../shared/run"
save = checkpoint.save


def attempt(data: Path, folder: Path, hosts: str, *, number: int, out: str = "run", is_lost: bool = False) -> list[int]:
    """One rank on each host, rank 0 on the first; with `is_lost` they end as by a loss after the first checkpoint."""

    def body() -> None:
        host = hosts[int(os.environ["RANK"])]
        (folder / host).mkdir(exist_ok=True)
        os.chdir(folder / host)
        logs = folder / f"torchelastic-{host}" / f"attempt_{number}" / "0"
        logs.mkdir(parents=True)
        os.environ |= {"LOCAL_RANK": "0", "TORCHELASTIC_ERROR_FILE": str(logs / "error.json")}
        os.environ |= {"TORCHELASTIC_RESTART_COUNT": str(number), "VITLET_CACHE": str(folder / host / "cache")}
        if is_lost:
            checkpoint.save = last_save
        pretrain("debug", data=data, out=out, options=QUIET, set=SHORT)

    return [wait(pid) for pid in start_ranks(body, folder, size=len(hosts))]


def last_save(*words: object, **named: object) -> None:
    """The first checkpoint, after which another rank is lost."""
    save(*words, **named)  # pyright: ignore[reportArgumentType]
    raise WorkerError("another rank died")


@pytest.fixture(scope="module")
def first_attempt(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the hosts `a` and `b`, of which the first has a run with one checkpoint; one of both is lost."""
    root = tmp_path_factory.mktemp("begun")
    assert attempt(data, root, "ab", number=0, is_lost=True) == [7, 7], errors(root)
    assert [p.name for p in checkpoint.folders(Run(root / "a/run"))] == ["step-00000003"]
    assert not (root / "b/run").exists()
    return root


@pytest.fixture
def begun(first_attempt: Path, tmp_path: Path) -> Path:
    """A copy to go on with."""
    return shutil.copytree(first_attempt, tmp_path / "begun")


@pytest.mark.parametrize("hosts", ["ba", "b", "cb"])
def test_a_first_rank_without_the_run_does_not_begin_anew(data: Path, begun: Path, hosts: str) -> None:
    """It moved to the other host, is alone there, or is on a host that came to replace the lost one."""
    assert attempt(data, begun, hosts, number=1) == [4] * len(hosts), errors(begun)
    assert f"no run at run on {os.uname().nodename}, where rank 0 is now" in errors(begun)
    assert "Fix: a shared --out" in errors(begun)
    assert not (begun / hosts[0] / "run").exists()


def test_control_a_host_that_remembers_nothing_begins_anew(data: Path, begun: Path) -> None:
    """As each did before; and as a new launch may."""
    for host in "ab":
        shutil.rmtree(begun / f"torchelastic-{host}")
    assert attempt(data, begun, "ba", number=1) == [0, 0], errors(begun)
    assert "resuming" not in Run(begun / "b/run").log_file.read_text()


def test_an_older_run_under_the_same_name_is_not_gone_on_with(data: Path, begun: Path) -> None:
    other = begun / "b/run"
    shutil.copytree(begun / "a/run", other)
    known = json.loads((other / "environment.json").read_text())
    (other / "environment.json").write_text(json.dumps(known | {"id": "older"}))
    assert attempt(data, begun, "ba", number=1) == [4, 4], errors(begun)
    assert "another run at run on" in errors(begun)


def test_the_host_that_has_the_run_goes_on(data: Path, begun: Path) -> None:
    assert attempt(data, begun, "ab", number=1) == [0, 0], errors(begun)
    assert "after step 3" in Run(begun / "a/run").log_file.read_text()


def test_in_a_shared_folder_any_host_goes_on(data: Path, tmp_path: Path) -> None:
    assert attempt(data, tmp_path, "ab", number=0, out=SHARED, is_lost=True) == [7, 7], errors(tmp_path)
    assert attempt(data, tmp_path, "ba", number=1, out=SHARED) == [0, 0], errors(tmp_path)
    run = Run(tmp_path / "shared/run")
    assert "after step 3" in run.log_file.read_text()
    assert len(losses(run)) == 6


def test_what_a_host_remembers_outlives_an_attempt_of_torchrun(data: Path, tmp_path: Path) -> None:
    """Its agent starts a second attempt, before which the run is moved away, as if this were another host."""
    run = tmp_path / "run"

    def rank() -> None:
        is_restarted = os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
        checkpoint.save = save if is_restarted else last_save
        if is_restarted:
            run.rename(tmp_path / "moved")
        try:
            pretrain("debug", data=data, out=run, options=QUIET, set=SHORT)
        except VitletError as error:
            (tmp_path / f"said-{is_restarted}").write_text(str(error))
            os._exit(error.exit_code)

    def agent() -> None:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=1, max_restarts=1, start_method="fork", run_id="test",
            rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=str(tmp_path / "logs")),
        )  # fmt: skip
        elastic_launch(config, rank)()

    wait(fork(agent, error_file=tmp_path / "agent.txt"))
    assert "another rank died" in (tmp_path / "said-False").read_text()
    assert "no run at" in (tmp_path / "said-True").read_text()
    assert (tmp_path / "moved").exists()
    assert not run.exists()


def test_an_attempt_that_began_nothing_is_followed_by_one_that_does(data: Path, tmp_path: Path) -> None:
    assert attempt(tmp_path / "missing", tmp_path, "ab", number=0) == [2, 2], errors(tmp_path)
    assert attempt(data, tmp_path, "ba", number=1) == [0, 0], errors(tmp_path)
