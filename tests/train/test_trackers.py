"""Copies of the metrics for MLflow and W&B: local, resumable, and never worth a run."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vitlet.choices import TrackerName
from vitlet.errors import NonFiniteError, StoppedError, UsageError
from vitlet.run import Run
from vitlet.train.log import MetricsLog
from vitlet.train.trackers import numbers_of, open_tracker, require_installed

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(300),
]
RECIPE = {"name": "debug", "optimizer": {"base_lr": 0.001, "betas": [0.9, 0.95]}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    run = Run(tmp_path / "run")
    run.path.mkdir()
    describe(run, identity="a")
    return run


def describe(run: Run, *, identity: str, **values: float) -> None:
    run.recipe_file.write_text(json.dumps({**RECIPE, **values}))
    (run.path / "environment.json").write_text(json.dumps({"id": identity}))


def log(run: Run, *names: TrackerName, steps: range) -> None:
    with MetricsLog(run, offset=10**6, trackers=names) as metrics:
        for step in steps:
            metrics.write({"step": step, "loss": 1 / step, "probe": {"knn_top1": 0.5, "verdict": "learning"}})


def mlflow_client(run: Run) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient((run.path / "mlflow").as_uri())


def mlflow_run(run: Run) -> Any:
    """The one run that stands in the folder."""
    (found,) = on_server((run.path / "mlflow").as_uri())
    return found


def test_mlflow_reads_the_numbers_of_an_interrupted_run_as_one(run: Run) -> None:
    pytest.importorskip("mlflow")
    log(run, "mlflow", steps=range(1, 3))
    log(run, "mlflow", steps=range(3, 5))
    found = mlflow_run(run)
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer.betas"] == "[0.9, 0.95]"
    history = mlflow_client(run).get_metric_history(found.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(s, 1 / s) for s in range(1, 5)]
    assert found.data.metrics["probe/knn_top1"] == 0.5
    assert str(run.path) not in json.dumps(found.data.tags)


def on_server(address: str) -> list[Any]:
    """What MLflow has of all runs, the latest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("vitlet")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def test_a_run_that_replaces_another_is_another_on_a_server(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same folder; and one whose folder was moved is still the same. Neither is decided by the path."""
    pytest.importorskip("mlflow")
    address = (tmp_path / "server").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log(run, "mlflow", steps=range(1, 2))
    moved = Run(run.path.rename(tmp_path / "moved"))
    log(moved, "mlflow", steps=range(2, 3))
    assert len(on_server(address)) == 1
    run.path.mkdir()
    describe(run, identity="b", seed=1)
    log(run, "mlflow", steps=range(1, 2))
    assert [found.data.params.get("seed") for found in on_server(address)] == ["1", None]


@pytest.mark.parametrize(
    ("error", "status"),
    [(NonFiniteError("nan"), "FAILED"), (StoppedError(15, step=3, run="r"), "KILLED"), (KeyboardInterrupt(), "KILLED")],
)
def test_how_a_run_ended_is_shown(error: BaseException, status: str, run: Run) -> None:
    pytest.importorskip("mlflow")
    with pytest.raises(type(error)), MetricsLog(run, offset=0, trackers=("mlflow",)):
        raise error
    (found,) = on_server((run.path / "mlflow").as_uri())
    assert found.info.status == status
    log(run, "mlflow", steps=range(1, 2))
    (found,) = on_server((run.path / "mlflow").as_uri())
    assert found.info.status == "FINISHED"


def test_wandb_stays_offline(run: Run) -> None:
    pytest.importorskip("wandb")
    log(run, "wandb", steps=range(1, 3))
    (records,) = run.path.glob("wandb/offline-run-*/*.wandb")
    until = time.monotonic() + 30  # a service of its own writes the file, and may still be at it
    while b"train/loss" not in (content := records.read_bytes()) and time.monotonic() < until:
        time.sleep(0.1)
    assert b"train/loss" in content
    assert b"base_lr" in content
    assert not list(run.path.glob("wandb/run-*"))


class Broken:
    """Stands in for a package that fails however it is used."""

    def __getattr__(self, name: str) -> None:
        raise RuntimeError(f"no {name} today")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_fails_costs_one_warning(
    name: TrackerName, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (name, "mlflow.entities", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, module, Broken())
    log(run, name, steps=range(1, 4))
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert capsys.readouterr().err.count("Training goes on") == 1


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"--log wandb.*vitlet\[wandb\]"):
        require_installed(("wandb",))
    require_installed(())


def test_numbers_have_the_names_that_tensorboard_shows() -> None:
    row = {"step": 3, "loss": 0.5, "note": "text", "probe": {"knn_top1": 0.25, "verdict": "learning"}}
    assert numbers_of(row) == {"train/loss": 0.5, "probe/knn_top1": 0.25}


def test_closing_twice_is_closing_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow")
    tracker = open_tracker("mlflow", run)
    tracker.close("finished")
    ended = mlflow_run(run).info
    tracker.close("finished")
    assert (ended.status, mlflow_run(run).info.end_time) == ("FINISHED", ended.end_time)
    assert capsys.readouterr().err == ""
