"""The batch script: well formed, safe with any name, and doing what it says, with SLURM's commands played by others."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitlet.cli import main
from vitlet.errors import UsageError
from vitlet.jobs.slurm import GRACE_SECONDS, SHUTDOWN_SECONDS, Cluster, batch_script

HOSTILE = [
    "a b",
    "'; touch {evil}; '",
    '"; touch {evil}; "',
    "$(touch {evil})",
    "`touch {evil}`",
    "a\ntouch {evil}\n",
    "\\",
    "*",
    "!!",
    "${{HOME}}",
    "#SBATCH --uid=0",
    "é \u202e",
    "-rf",
    "{{words}}",
]
COMMAND = ("pretrain", "mae_tiny_400e", "--data", "/images")
SBATCH = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "1234567"}
ARRAY = {"SLURM_ARRAY_JOB_ID": "1234560", "SLURM_ARRAY_TASK_ID": "2"}

SRUN = """
def save(*_):
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(1))
    time.sleep(1)
    open(os.environ['NOTES'] + '/saved', 'x').close()
    os._exit(138)

def ended(task):
    return os.waitstatus_to_exitcode(os.waitpid(task, 0)[1])

signals = {signal.SIGUSR1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
task = os.fork()
if not task:
    signal.signal(signal.SIGUSR1, save)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    time.sleep(float(os.environ.get('SECONDS_OF_WORK', 0)))
    os._exit(int(os.environ.get('STATUS', 0)))
signal.signal(signal.SIGUSR1, lambda *_: os.kill(task, signal.SIGUSR1))
signal.signal(signal.SIGTERM, lambda *_: os.kill(task, signal.SIGKILL))
signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
"""
"""Its task is a fork, and the calls end at once, with no finalizer in which a signal could be lost."""


def script(*, seeds: int = 1, command: tuple[str, ...] = COMMAND, out: str = "/runs/mae", **cluster) -> str:
    return batch_script(command, name="mae", out=out, cluster=Cluster(**cluster), seeds=seeds)


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """`srun` and `scontrol` that write down how they were called, and a short `sleep`.

    Like the real one, `srun` forwards SIGUSR1 to its task and answers SIGTERM with SIGKILL. The task saves on SIGUSR1,
    in a moment in which a second signal would end it, as it ends torchrun.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    head = f"#!{sys.executable}\nimport json, os, signal, sys, time\n"
    note = "open(os.environ['NOTES'] + '/' + {!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    (folder / "srun").write_text(head + SRUN + note.format("srun") + "os._exit(abs(ended(task)))\n")
    (folder / "scontrol").write_text(
        head + note.format("scontrol") + "print('n1\\nn2') if sys.argv[1] == 'show' else None\n"
    )
    (folder / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.05\n")
    for file in folder.iterdir():
        file.chmod(0o755)
    return folder


def start(text: str, slurm: Path, **environment: str) -> subprocess.Popen:
    file = slurm.parent / "job.sbatch"
    file.write_text(text)
    path = f"{slurm}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(file)], env=SBATCH | {"PATH": path, "NOTES": str(slurm.parent)} | environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=slurm.parent,
    )  # fmt: skip


def calls(slurm: Path, name: str) -> list[list[str]]:
    file = slurm.parent / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


CASES = [{}, {"seeds": 3}, {"nodes": 4, "gpus": 8, "partition": "gpu,long", "account": "a-1.b_2"}, {"gpus": 0}]


@pytest.mark.parametrize("case", CASES)
def test_bash_and_shellcheck_find_nothing(case: dict, tmp_path: Path) -> None:
    file = tmp_path / "job.sbatch"
    file.write_text(script(**case, command=(*COMMAND, *HOSTILE)))
    subprocess.run(["bash", "-n", str(file)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", "--severity=style", str(file)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_words_arrive_as_they_were_given(slurm: Path) -> None:
    evil = slurm.parent / "evil"
    words = tuple(word.format(evil=evil) for word in HOSTILE)
    job = start(script(command=(*COMMAND, *words), out=f"/runs/{words[3]}"), slurm)
    assert job.wait(timeout=30) == 0
    (arguments,) = calls(slurm, "srun")
    at = arguments.index("vitlet")
    assert arguments[at + 1 :] == [*COMMAND, *words, "--out", f"/runs/{words[3]}"]
    assert arguments[at - 1] == "-m"
    assert not evil.exists()


def test_words_would_do_harm_unquoted(slurm: Path) -> None:
    """The control: the same words, put in as they are, run."""
    evil = slurm.parent / "evil"
    word = HOSTILE[3].format(evil=evil)
    start(script(command=(*COMMAND, word)).replace(shlex.quote(word), word), slurm).wait(timeout=30)
    assert evil.exists()


def test_no_user_word_stands_in_a_line_for_slurm() -> None:
    for bad in ("a b", "a\nb", "a;b", "", "x" * 65, "$(x)"):
        with pytest.raises(UsageError, match="--partition"):
            script(partition=bad)
    directives = [line for line in script(command=(*COMMAND, *HOSTILE)).splitlines() if line.startswith("#SBATCH")]
    assert len(directives) == len([line for line in script().splitlines() if line.startswith("#SBATCH")])


def test_what_is_asked_for(slurm: Path) -> None:
    text = script(nodes=2, gpus=4, cpus=6, hours=12)
    for line in ("nodes=2", "gpus-per-node=4", "cpus-per-task=24", "time=12:00:00", "signal=B:USR1@300", "requeue"):
        assert f"#SBATCH --{line}\n" in text
    assert start(text, slurm, SLURM_CPUS_PER_TASK="24").wait(timeout=30) == 0
    (arguments,) = calls(slurm, "srun")
    for word in ("--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=n1:24567", "--rdzv-id=1234567"):
        assert word in arguments
    assert "--cpus-per-task=24" in arguments[: arguments.index(sys.executable)], (
        "srun does not take it over from sbatch"
    )
    assert start(text, slurm).wait(timeout=30) == 0, "without a number of cores in the environment"
    assert arguments == [arguments[0], "--cpus-per-task=24", *calls(slurm, "srun")[1][1:]]
    assert Cluster(nodes=2, gpus=4).num_ranks == 8
    assert Cluster(nodes=2, gpus=0).num_ranks == 2


def test_an_array_has_a_seed_and_a_run_for_each_task(slurm: Path) -> None:
    text = script(seeds=3, out="/runs/all mae")
    assert "#SBATCH --array=0-2\n" in text
    assert start(text, slurm, **ARRAY).wait(timeout=30) == 0
    (arguments,) = calls(slurm, "srun")
    assert arguments[-4:] == ["--seed", "2", "--out", "/runs/all mae/seed-2"]
    assert "--rdzv-id=1234560_2" in arguments


def interrupted(slurm: Path, *numbers: signal.Signals, text: str = "", **environment: str) -> int:
    """Signal the script when its step runs; return its status."""
    job = start(text or script(), slurm, SECONDS_OF_WORK="30", **environment)
    until = time.monotonic() + 20
    while not calls(slurm, "srun") and time.monotonic() < until:
        time.sleep(0.02)
    for number in numbers:
        job.send_signal(number)
        time.sleep(0.2)
    return job.wait(timeout=20)


SAVED, NOT_SAVED = 138, 1
TWO = "as it is, and a second signal"
PASSED_ON = {TWO: SAVED, "control: SIGTERM": signal.SIGKILL, "control: every signal": NOT_SAVED}


@pytest.mark.parametrize("case", PASSED_ON)
def test_a_job_that_has_to_go_saves_first(slurm: Path, case: str) -> None:
    """The control passes on what it gets, which srun answers by killing, or passes on a second signal."""
    text = script()
    broken = {
        TWO: text,
        "control: SIGTERM": text.replace("kill -USR1", "kill -TERM"),
        "control: every signal": text.replace("passed=1;", ""),
    }[case]
    assert (broken == text) is (case == TWO)
    assert interrupted(slurm, signal.SIGTERM, signal.SIGTERM, text=broken) == PASSED_ON[case]
    assert (slurm.parent / "saved").exists() is (PASSED_ON[case] == SAVED)
    assert calls(slurm, "scontrol")[1:] == [], "SLURM requeues it itself"


def test_time_is_up_and_the_limit_is_reached_while_it_saves(slurm: Path) -> None:
    assert interrupted(slurm, signal.SIGUSR1, signal.SIGTERM) == 0
    assert (slurm.parent / "saved").exists()
    assert calls(slurm, "scontrol")[1:] == [["requeue", "1234567"]]


def test_the_ranks_have_nearly_all_of_the_time_to_save(slurm: Path) -> None:
    """torchrun kills those that take longer; the script must then still be able to requeue the job."""
    assert start(script(), slurm).wait(timeout=30) == 0
    (arguments,) = calls(slurm, "srun")
    assert f"--shutdown-timeout={SHUTDOWN_SECONDS}" in arguments
    assert GRACE_SECONDS - 60 < SHUTDOWN_SECONDS < GRACE_SECONDS


def test_when_time_is_up_the_job_goes_back_into_the_queue(slurm: Path) -> None:
    assert interrupted(slurm, signal.SIGUSR1, **ARRAY) == 0
    assert calls(slurm, "scontrol")[1:] == [["requeue", "1234560_2"]]


def test_a_signal_between_the_start_of_the_step_and_its_number_is_passed_on(slurm: Path) -> None:
    """The first thing that the step does is to signal the script; traps that were set after its start come too late."""
    text = script()
    assert text.index("trap ") < text.index("srun --kill-on-bad-exit")
    real = (slurm / "srun").rename(slurm / "real-srun")
    (slurm / "srun").write_text(f'#!/bin/bash\nkill -USR1 "$PPID"\nexec {real} "$@"\n')
    (slurm / "srun").chmod(0o755)
    assert start(text, slurm, SECONDS_OF_WORK="30").wait(timeout=20) == 0
    assert calls(slurm, "scontrol")[-1] == ["requeue", "1234567"]


def test_not_for_ever(slurm: Path) -> None:
    assert interrupted(slurm, signal.SIGUSR1, SLURM_RESTART_COUNT="100") == SAVED
    assert calls(slurm, "scontrol")[1:] == []


def test_a_cancelled_or_failed_job_does_not(slurm: Path) -> None:
    assert interrupted(slurm, signal.SIGTERM) == SAVED
    assert start(script(), slurm, STATUS="3").wait(timeout=30) == 3
    assert [call[0] for call in calls(slurm, "scontrol")] == ["show", "show"]


def test_the_command_line_writes_one(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = slurm.parent / "job.sbatch"
    words = ["slurm", "mae_tiny_400e", "--data", "s3://b/shards", "--run", "/runs/$(x)", "--out", str(file)]
    assert (
        main(
            [*words, "--nodes", "2", "--gpus", "4", "--epochs", "2.5", "--set", "objective.mask_ratio=0.6", "--compile"]
        )
        == 0
    )
    assert start(file.read_text(), slurm).wait(timeout=30) == 0
    (arguments,) = calls(slurm, "srun")
    assert arguments[arguments.index("vitlet") + 1 :] == [
        "pretrain", "mae_tiny_400e", "--data", "s3://b/shards", "--epochs", "2.5", "--set", "objective.mask_ratio=0.6",
        "--compile", "--out", "/runs/$(x)",
    ]  # fmt: skip
    for wrong, what in (
        (["--gpus", "5"], "does not divide over 5 ranks"),
        (["--seeds", "3", "--seed", "1"], "--seed with --seeds"),
        (["--partition", "a;b"], "--partition"),
        (["--epochs", "-1"], "greater than or equal to 0"),
        (["--fresh"], "--fresh in a script for SLURM"),
    ):
        assert main([*words, *wrong]) == 2
        assert what in capsys.readouterr().err
    assert main(["slurm", "finetune_micro", *words[2:]]) == 2
    assert "without --init" in capsys.readouterr().err


def test_a_fine_tuning_is_written_as_it_would_be_given(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = slurm.parent / "job.sbatch"
    words = ["--data", "/d", "--run", "/r", "--out", str(file), "--init", "/runs/mae"]
    choices = ["--num-labels", "200", "--keep-blocks", "6", "--subset", "0.1", "--hold-out"]
    assert main(["slurm", "finetune_micro", *words, *choices]) == 0
    assert start(file.read_text(), slurm).wait(timeout=30) == 0
    (arguments,) = calls(slurm, "srun")
    written = ["finetune", "finetune_micro", "--data", "/d", "--init", "/runs/mae", *choices, "--out", "/r"]
    assert arguments[arguments.index("vitlet") + 1 :] == written
    for choice in (choices[:2], choices[2:4], choices[-1:]):
        assert main(["slurm", "mae_micro", *words, *choice]) == 2
        assert f"{choice[0]} with mae_micro" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "given", "written"),
    [
        ("--data", "a:b/photos", "{here}/a:b/photos"),
        ("--data", "s3://b/shards/", "s3://b/shards"),
        ("--data", "torchvision:pets@sets", "torchvision:pets@{here}/sets"),
        ("--init", "models/a@b", "{here}/models/a@b"),
        ("--init", "timm:vit_tiny_patch16_224@models/a@b.safetensors",
         "timm:vit_tiny_patch16_224@{here}/models/a@b.safetensors"),
        ("--init", "timm:vit_tiny_patch16_224@/models/w.safetensors",
         "timm:vit_tiny_patch16_224@/models/w.safetensors"),
        ("--init", "none", "none"),
        ("--subset", "names/few.txt", "{here}/names/few.txt"),
        ("--subset", "1%", "0.01"),
        ("--subset", "tail:100", "tail:100"),
        ("--run", "a:b/run", "{here}/a:b/run"),
    ],
)  # fmt: skip
def test_what_is_named_does_not_depend_on_the_folder_where_the_job_starts(
    option: str, given: str, written: str, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it need be there when the script is written."""
    monkeypatch.chdir(tmp_path)
    words = {"--data": "photos", "--run": "run", "--init": "none", "--out": "job.sbatch", option: given}
    assert main(["slurm", "finetune_micro", *(word for pair in words.items() for word in pair)]) == 0
    assert start(Path("job.sbatch").read_text(), slurm).wait(timeout=30) == 0
    (arguments,) = calls(slurm, "srun")
    at = arguments.index({"--run": "--out"}.get(option, option))
    assert arguments[at + 1] == written.format(here=tmp_path)


@pytest.mark.parametrize(
    ("option", "given", "what"),
    [
        ("--data", "torchvision:pet@sets", "no public data set"),
        ("--data", "s3://me:secret@bucket/a", "a password in an address"),
        ("--init", "timm:vit_tiny_patch16_224", "does not name a file"),
        ("--subset", "150%", "out of range"),
        ("--keep-blocks", "3", "without an initial encoder"),
    ],
)
def test_a_name_that_no_node_will_read_is_refused_now(
    option: str, given: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"--data": "photos", "--run": "run", "--init": "none", "--out": str(tmp_path / "job"), option: given}
    assert main(["slurm", "finetune_micro", *(word for pair in words.items() for word in pair)]) == 2
    assert what in capsys.readouterr().err
    assert not (tmp_path / "job").exists()
