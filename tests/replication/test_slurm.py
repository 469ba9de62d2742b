"""Job arrays: valid shell that passes every word on as it is, generations in order."""

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from vitlet.jobs.slurm import Cluster
from vitlet.replication.catalogue import chosen
from vitlet.replication.plan import Plan
from vitlet.replication.planner import make_plan
from vitlet.replication.scales import scale_by_name
from vitlet.replication.slurm import generations, write_arrays

HOSTILE = "/data/a b; touch $HOME/x 'quoted' \"twice\" $(id) `id` *"


@pytest.fixture
def plan(images: Path, tmp_path: Path) -> Plan:
    return make_plan(chosen(["claim-1", "figure-1"]).stages(), scale_by_name("smoke"), data=images, out=tmp_path)


def test_everything_a_run_needs_stands_in_an_earlier_generation(plan: Plan):
    made: set[str] = set()
    for nodes in generations(plan):
        for node in nodes:
            assert set(node.inputs) <= made, node.title
        made |= {node.address for node in nodes}
    assert made == plan.nodes.keys()


def test_finished_runs_are_left_out(plan: Plan):
    first = next(iter(plan.nodes.values()))
    first.folder.mkdir(parents=True)
    (first.folder / "node.json").write_text("{}")
    assert first.address not in {node.address for nodes in generations(plan) for node in nodes}
    assert first.inputs == ()


def test_no_array_is_larger_than_clusters_take(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first, *_ = generations(plan)
    assert len(first) == 1
    second = generations(plan)[1]
    monkeypatch.setattr("vitlet.replication.slurm.LARGEST_ARRAY", len(second) - 1)
    files = write_arrays(plan, tmp_path / "jobs", command=["reproduce", "all"], cluster=Cluster())
    tasks = [len(re.findall(r"\b[0-9a-f]{12}\b", file.read_text())) for file in files if "generation-1" in file.name]
    assert tasks == [len(second) - 1, 1]
    path = played(tmp_path / "bin", sbatch=f'echo "$@" >> {tmp_path}/log; wc -l < {tmp_path}/log')
    subprocess.run(["bash", tmp_path / "jobs" / "submit.sh", "-A", "x"], check=True, env={"PATH": path})
    zero, one, other, after, *_ = (tmp_path / "log").read_text().splitlines()
    assert zero == "--parsable -A x generation-0.sbatch"
    assert one == "--parsable --dependency=afterany:1 -A x generation-1-0.sbatch"
    assert other == "--parsable --dependency=afterany:1 -A x generation-1-1.sbatch", "beside the first part"
    assert after.startswith("--parsable --dependency=afterany:2:3 -A x ")


def played(folder: Path, **programs: str) -> str:
    """A PATH on which SLURM's commands are these lines of bash."""
    folder.mkdir()
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_bash_and_shellcheck_find_nothing(plan: Plan, tmp_path: Path):
    files = write_arrays(plan, tmp_path / "jobs", command=["reproduce", "all", "--data", HOSTILE], cluster=Cluster())
    for file in files:
        subprocess.run(["bash", "-n", str(file)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", "--severity=style", *map(str, files)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_a_task_makes_its_run_and_every_word_arrives_as_it_is(plan: Plan, tmp_path: Path):
    words = ["reproduce", "all", "--data", HOSTILE, "--out", "/out"]
    *arrays, page, _ = write_arrays(plan, tmp_path / "jobs", command=words, cluster=Cluster())
    environment = {
        "PATH": played(tmp_path / "bin", srun='printf "%s\\0" "$@"'),
        "SLURM_JOB_ID": "8",
        "SLURM_ARRAY_JOB_ID": "7",
    }

    def started(script: Path, task: str) -> list[str]:
        ran = subprocess.run(
            ["bash", script], capture_output=True, check=True, env=environment | {"SLURM_ARRAY_TASK_ID": task}
        )
        given = ran.stdout.decode().split("\0")[:-1]
        return given[given.index("vitlet") + 1 :]

    for script, nodes in zip(arrays, generations(plan), strict=True):
        assert f"#SBATCH --array=0-{len(nodes) - 1}\n" in script.read_text()
        for task, node in enumerate(nodes):
            assert started(script, str(task)) == [*words, "--node", node.address]
    assert started(page, "0") == [*words, "--collect"]
    assert "--array" not in page.read_text()


def test_a_task_whose_time_is_up_goes_back_into_the_queue(plan: Plan, tmp_path: Path):
    """The body is that of every batch script: what it promises holds here too."""
    script, *_ = write_arrays(plan, tmp_path / "jobs", command=["reproduce", "all"], cluster=Cluster(gpus=0))
    assert "gpus-per-node" not in script.read_text()
    path = played(
        tmp_path / "bin",
        srun=f"trap 'exit 1' USR1; touch {tmp_path}/begun; sleep 30 & wait",
        scontrol=f'echo "$@" >> {tmp_path}/scontrol',
    )
    ids = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    job = subprocess.Popen(["bash", script], env={"PATH": path} | ids)
    until = time.monotonic() + 20
    while not (tmp_path / "begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == 0
    assert (tmp_path / "scontrol").read_text() == "requeue 7_0\n"


def test_submission_waits_for_each_generation_and_ends_with_the_page(plan: Plan, tmp_path: Path):
    jobs = tmp_path / "jobs"
    write_arrays(plan, jobs, command=["reproduce", "all", "--data", HOSTILE], cluster=Cluster())
    path = played(tmp_path / "bin", sbatch=f'printf "%s|" "$@" >> {tmp_path}/log; echo >> {tmp_path}/log; echo "7;c"')
    subprocess.run(["bash", jobs / "submit.sh", "--account=a b"], check=True, env={"PATH": path})
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "--parsable|--account=a b|generation-0.sbatch|"
    assert lines[1] == "--parsable|--dependency=afterany:7|--account=a b|generation-1.sbatch|"
    assert len(lines) == len(generations(plan)) + 1
    assert lines[-1].endswith("|page.sbatch|")
