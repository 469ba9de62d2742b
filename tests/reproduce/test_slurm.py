"""Job arrays: valid shell that passes every word on as it is, generations in order."""

import subprocess
from pathlib import Path

import pytest

from vitlet.reproduce.catalogue import chosen
from vitlet.reproduce.plan import Plan, make_plan
from vitlet.reproduce.scale import scale_by_name
from vitlet.reproduce.slurm import generations, write_arrays

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


def test_scripts_pass_bash_and_every_word_arrives_as_it_is(plan: Plan, tmp_path: Path):
    words = ["vitlet", "reproduce", "all", "--data", HOSTILE, "--out", "/out"]
    files = write_arrays(plan, tmp_path / "jobs", command=words)
    for file in files:
        assert subprocess.run(["bash", "-n", file], capture_output=True).returncode == 0, file
    program = tmp_path / "bin" / "vitlet"
    program.parent.mkdir()
    program.write_text('#!/usr/bin/env bash\nprintf "%s\\0" vitlet "$@"\n')
    program.chmod(0o755)
    last = files[-2]
    ran = subprocess.run(
        ["bash", last], capture_output=True, env={"PATH": f"{program.parent}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "0"}
    )
    address = generations(plan)[-1][0].address
    assert ran.stdout.decode().split("\0")[:-1] == [*words, "--node", address]


def test_submission_waits_for_each_generation_and_ends_with_the_page(plan: Plan, tmp_path: Path):
    jobs = tmp_path / "jobs"
    write_arrays(plan, jobs, command=["vitlet", "reproduce", "all", "--data", HOSTILE])
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/usr/bin/env bash\nprintf "%s|" "$@" >> {tmp_path}/log; echo >> {tmp_path}/log; echo 7\n')
    sbatch.chmod(0o755)
    done = subprocess.run(
        ["bash", jobs / "submit.sh"], capture_output=True, env={"PATH": f"{sbatch.parent}:/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "--parsable|generation-0.sbatch|"
    assert lines[1] == "--parsable|--dependency=afterok:7|generation-1.sbatch|"
    assert len(lines) == len(generations(plan)) + 1
    assert "--collect" in lines[-1]
