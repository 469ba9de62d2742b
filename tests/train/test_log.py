"""What a run says; on a full disk it is `tests/faults/test_disk.py` that listens."""

import math
from pathlib import Path

import pytest
from harness import metrics_are_json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlet.disk import finite_or_null
from vitlet.run import Run
from vitlet.train.log import MetricsLog


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
