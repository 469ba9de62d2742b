"""A copy of the metrics for W&B and MLflow; optional, by flag, and local unless the environment says otherwise.

W&B writes its offline format into RUN/wandb (`wandb sync` uploads it, or WANDB_MODE=online does at once); MLflow
writes into RUN/mlflow, or to MLFLOW_TRACKING_URI. A tracker that fails costs one warning, never the run. Neither may
send usage telemetry to its makers.

On resume both continue the same run, which has an identity of its own: its folder may be called otherwise, and a run
that replaces it is another. They end as finished, failed or stopped. They cannot remove what a killed attempt wrote
beyond the checkpoint: those steps appear twice in MLflow and once in W&B. metrics.jsonl is authoritative.
"""

import contextlib
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from vitlet.choices import TrackerName
from vitlet.config import flatten
from vitlet.console import Terminal
from vitlet.errors import UsageError
from vitlet.run import Run
from vitlet.text import printable

Ending = Literal["finished", "failed", "stopped"]
_PROJECT = "vitlet"
_LONGEST_PARAMETER = 500


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one row of metrics, named as in trackers and TensorBoard: `train/loss`, `probe/knn`."""
    flat = {**row, **{f"probe/{k}": v for k, v in row.get("probe", {}).items()}}
    return {
        name if "/" in name else f"train/{name}": value
        for name, value in flat.items()
        if isinstance(value, (int, float)) and name != "step"
    }


def require_installed(names: tuple[TrackerName, ...]) -> None:
    """Reject a tracker whose package is missing, before training starts.

    Raises:
        UsageError: naming the extra.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--log {name}: the package is not installed", fix=f"pip install 'vitlet[{name}]'")


class Tracker(ABC):
    """A copy of the metrics elsewhere, which falls silent for good when it fails."""

    name: str

    def __init__(self, run: Run) -> None:
        """Start, or continue what was started for the same run."""
        self._is_silent = False
        self._guarded(lambda: self._begin(run))

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one row of metrics."""
        self._guarded(lambda: self._put(numbers_of(row), int(row["step"])))

    def close(self, ending: Ending) -> None:
        """Mark the run as ended."""
        self._guarded(lambda: self._end(ending))
        self._is_silent = True

    def _guarded(self, call: Callable[[], None]) -> None:
        if self._is_silent:
            return
        try:
            with contextlib.redirect_stdout(None):
                call()
        except Exception as error:  # whatever it is, training matters more than its copy
            self._is_silent = True
            text = f"warning: {self.name} stopped: {printable(' '.join(str(error).split())[:300])}. Training goes on."
            with contextlib.suppress(OSError):
                Terminal(stderr=True).print(text, markup=False)

    @abstractmethod
    def _begin(self, run: Run) -> None: ...

    @abstractmethod
    def _put(self, numbers: dict[str, float], step: int) -> None: ...

    @abstractmethod
    def _end(self, ending: Ending) -> None: ...


class Wandb(Tracker):
    """Weights & Biases, offline by default."""

    name = "wandb"

    def _begin(self, run: Run) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # pyright: ignore[reportMissingImports]

        self._log = wandb.init(
            project=_PROJECT,
            name=run.path.name,
            id=run.environment.id,
            resume="allow",
            dir=run.path,
            config=run.recipe_json(),
            mode=cast(Any, os.environ.get("WANDB_MODE", "offline")),
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True,
                x_disable_stats=True, x_disable_machine_info=True,
            ),
        )  # fmt: skip

    def _put(self, numbers: dict[str, float], step: int) -> None:
        self._log.log(numbers, step=step)

    def _end(self, ending: Ending) -> None:
        self._log.finish(exit_code=int(ending != "finished"))


class MLflow(Tracker):
    """MLflow, in a folder of the run by default."""

    name = "mlflow"

    def _begin(self, run: Run) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            place = (run.path.absolute() / "mlflow").as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # it prefers databases
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._metric = Metric
        self._client = MlflowClient(place)
        found = self._client.get_experiment_by_name(_PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(_PROJECT)
        tag, identity = "vitlet.run", run.environment.id
        known = self._client.search_runs([experiment], f"tags.`{tag}` = '{identity}'")
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        begun = self._client.create_run(experiment, run_name=run.path.name, tags={tag: identity})
        self._id = begun.info.run_id
        values = [Param(key, text[:_LONGEST_PARAMETER]) for key, text in flatten(run.recipe_json()).items()]
        self._client.log_batch(self._id, params=values)

    def _put(self, numbers: dict[str, float], step: int) -> None:
        from time import time

        now = int(1000 * time())
        self._client.log_batch(self._id, metrics=[self._metric(k, v, now, step) for k, v in numbers.items()])

    def _end(self, ending: Ending) -> None:
        self._client.set_terminated(self._id, status={"stopped": "KILLED"}.get(ending, ending.upper()))


def open_tracker(name: TrackerName, run: Run) -> Tracker:
    """Open the tracker of that name, for a run whose recipe and environment are on disk."""
    return Wandb(run) if name == "wandb" else MLflow(run)
