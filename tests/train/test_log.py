"""What a run says; on a full disk it is `tests/faults/test_disk.py` that listens."""

import math
from pathlib import Path

import pytest
from harness import metrics_are_json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlet.run import Run
from vitlet.train.log import MetricsLog, Teller, finite_or_null


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def rows(run: Run, *, offset: int, steps: range) -> int:
    log = MetricsLog(run, offset=offset)
    for step in steps:
        log.write({"step": step, "loss": 1 / step})
    end = log.offset()
    log.close()
    return end


def test_rows_are_appended(run: Run) -> None:
    end = rows(run, offset=0, steps=range(1, 4))
    assert end == run.metrics_file.stat().st_size
    assert run.metrics() == [{"step": s, "loss": 1 / s} for s in (1, 2, 3)]


def test_resuming_cuts_what_came_after_the_checkpoint(run: Run) -> None:
    end = rows(run, offset=0, steps=range(1, 4))
    rows(run, offset=end, steps=range(4, 7))
    with run.metrics_file.open("ab") as torn:
        torn.write(b'{"step": 7, "lo')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]
    rows(run, offset=end, steps=range(4, 6))
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]


def test_a_file_that_was_cut_is_not_filled_with_zeros(run: Run) -> None:
    end = rows(run, offset=0, steps=range(1, 4))
    run.metrics_file.unlink()
    rows(run, offset=end, steps=range(4, 6))
    assert [row["step"] for row in run.metrics()] == [4, 5]


def test_what_is_not_finite_is_null(run: Run) -> None:
    log = MetricsLog(run, offset=0)
    log.write({"step": 1, "loss": math.nan, "probe": {"a": [math.inf, 1.0], "b": "text"}})
    log.close()
    assert metrics_are_json(run)
    assert run.metrics() == [{"step": 1, "loss": None, "probe": {"a": [None, 1.0], "b": "text"}}]
    assert finite_or_null((1, 2.5, None, True, -math.inf)) == [1, 2.5, None, True, None]


def test_tensorboard_shows_the_numbers_and_replaces_what_was_taken_back(run: Run) -> None:
    end = rows(run, offset=0, steps=range(1, 4))
    rows(run, offset=end, steps=range(4, 9))
    log = MetricsLog(run, offset=end)
    log.write({"step": 4, "loss": 9.0, "probe": {"knn_top1": 0.5, "verdict": "learning"}})
    log.close()
    board = EventAccumulator(str(run.path / "tensorboard"))
    board.Reload()
    assert sorted(board.Tags()["scalars"]) == ["probe/knn_top1", "train/loss"]
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4]
    assert board.Scalars("train/loss")[-1].value == 9.0


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
