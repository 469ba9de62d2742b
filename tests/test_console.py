"""What a job says, where it says it, and what becomes of it when nobody listens."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from forked import BROKEN, fork, wait
from vitlet.console import Teller, Terminal
from vitlet.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_lines_go_to_the_terminal_and_the_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.path.mkdir()
    Teller(run).say("a file called \x1b[31m[bold]x[/bold]\u202e")
    shown = capsys.readouterr().out
    assert shown == "a file called \\x1b[31m[bold]x[/bold]\\u202e\n"
    stamp, text = run.log_file.read_text().rstrip().split(" ", 1)
    assert text == shown.rstrip()
    assert stamp.endswith("Z")


def test_quiet_is_quiet(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller(quiet=True)
    teller.say("nothing")
    with teller.progress("working", total=3) as tick:
        tick(1), tick(3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_ranks_the_first_speaks_and_all_complain(
    rank: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    Terminal().print("finished")
    Teller().say("step 1")
    Terminal(stderr=True).print("error")
    out, err = capsys.readouterr()
    assert (out, err) == ("finished\nstep 1\n" if rank == "0" else "", "error\n")


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with Teller().progress("training", total=10) as tick:
        for done in range(1, 6):
            tick(done, f"loss {done}")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["training: 2/10, 80 s left  loss 2", "training: 4/10, 60 s left  loss 4"]


def test_work_that_goes_back_is_timed_anew(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of many that begins anew takes off what its last beginning had done."""
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with Teller().progress("making runs", total=10) as tick:
        for done in (5, 1, 2, 4):
            tick(done)
    assert capsys.readouterr().out.splitlines() == ["making runs: 2/10, 160 s left", "making runs: 4/10, 80 s left"]


@pytest.mark.parametrize("kind", [Terminal, lambda: Console(soft_wrap=True)], ids=["ours", "control: rich's"])
def test_work_goes_on_when_nobody_reads_any_more(
    kind: Callable[[], Console], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `vitlet pretrain … | head`; every line stands in log.txt all the same."""
    run.path.mkdir()
    monkeypatch.setattr("vitlet.console.Terminal", lambda quiet: kind())

    def work() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader)
        with open(1, "w", closefd=False) as out, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", out)
            teller = Teller(run)
            for line in ("one", "two", "three"):
                teller.say(line)

    code = wait(fork(work, error_file=tmp_path / "error.txt"))
    lines = run.log_file.read_text().splitlines() if run.log_file.exists() else []
    assert (code, len(lines)) == ((0, 3) if kind is Terminal else (BROKEN, 0))
