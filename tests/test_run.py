"""The run directory; how its writing fails stands in `tests/faults`."""

import contextlib
import os
from pathlib import Path

import pytest

from vitlet.errors import CheckpointError, UsageError
from vitlet.run import Run


def test_opening_what_is_no_run_names_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "run-one").mkdir()
    (tmp_path / "run-one" / "recipe.json").write_text("{}")
    assert Run.open(tmp_path / "run-one").recipe_json() == {}
    with pytest.raises(CheckpointError, match=r"no run at .*run-ome.*Did you mean run-one") as caught:
        Run.open(tmp_path / "run-ome")
    assert caught.value.exit_code == 4
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no recipe\.json"):
        Run.open(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="no run at"):
        Run.open(tmp_path / "absent" / "deeper")


def test_a_torn_last_row_of_the_metrics_is_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.metrics() == []
    run.metrics_file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert run.metrics() == [{"step": 1}, {"step": 2}]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match=r"cannot write to .*file.*Fix: .*--out"),
        Run(tmp_path / "file" / "run").lock(),
    ):
        pass


def test_a_file_where_a_run_shall_be_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "mk.py").write_text("")
    for run in (Run(tmp_path / "mk.py"), Run(tmp_path / "mk.py" / "run")):
        for refuse in (run.require_place, lambda run=run: run.lock().__enter__()):
            with pytest.raises(UsageError, match=r"mk\.py is a file, not a folder\. Fix: give --out the name"):
                refuse()


def test_a_folder_of_something_else_is_no_place_for_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.require_place()
    run.path.mkdir()
    for left in (".lock", "nonfinite-rank1.json"):
        (run.path / left).write_text("")
    run.require_place()
    (run.path / "photo.png").write_text("")
    with pytest.raises(UsageError, match=r"run is not empty and not a run.*nothing was changed"):
        run.require_place()
    run.recipe_file.write_text("{}")
    run.require_place()


def test_a_run_that_was_started_on_other_values_is_not_gone_on_with(tmp_path: Path) -> None:
    run, there = Run(tmp_path), {"recipe": "aa", "num_labels": None}
    run.require_same({"recipe": "aa"}, there={}, recipe={})
    run.require_same({"recipe": "aa", "num_labels": None, "of a later version": 1}, there=there, recipe={})
    with pytest.raises(UsageError, match=r"holds another run\. num_labels differ: None there\. Fix: --fresh"):
        run.require_same({"recipe": "aa", "num_labels": 3}, there=there, recipe={})


def test_values_of_the_recipe_that_are_others_are_named(tmp_path: Path) -> None:
    run, there = Run(tmp_path), {"recipe": "aa"}
    run.recipe_file.write_text('{"budget": {"seed": 1, "epochs": 8, "size": 4}, "name": "mae", "same": 0}')
    asked = {"budget": {"seed": 2, "epochs": 8, "size": 4}, "name": "mae", "same": 0}
    with pytest.raises(UsageError, match=r"recipe differ: budget\.seed=1 there\. Fix: .*vitlet resume .* to finish it"):
        run.require_same({"recipe": "bb"}, there=there, recipe=asked)
    with pytest.raises(UsageError, match=r"budget\.seed=1, budget\.epochs=8, budget\.size=4 and 2 more there"):
        run.require_same({"recipe": "bb"}, there=there, recipe={})


def test_the_command_that_goes_on_with_it_takes_its_name_as_one_word(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"or vitlet resume '.*/My run' to finish it"):
        Run(tmp_path / "My run").require_same({"num_labels": 3}, there={"num_labels": 4}, recipe={})


def test_a_run_stands_for_its_path(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert os.fspath(run) == str(tmp_path)
    assert Path(run) / "recipe.json" == run.recipe_file


def test_the_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Run(tmp_path / "run").lock():
            assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_second_writer_in_one_process_is_refused_and_the_first_keeps_its_lock(tmp_path: Path) -> None:
    """POSIX would grant it, and would end both locks with the second."""
    run = Run(tmp_path / "run")
    with run.lock():
        with pytest.raises(UsageError, match="being written by this process"), Run(tmp_path / "x/../run").lock():
            pass
        pid = os.fork()
        if not pid:  # a child inherits no lock: it is another process
            with contextlib.suppress(UsageError), run.lock():
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the lock is gone"
    with run.lock():
        pass
