"""Several starts under the same protocols: the same labels, steps and seeds, only the initial weights differ."""

import multiprocessing
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitlet.data.index import Index
from vitlet.data.subsets import balanced
from vitlet.evaluate.compare import Arm
from vitlet.jobs.evaluation import Probing, probe_encoder
from vitlet.jobs.options import Options, available_cores
from vitlet.jobs.training import finetune, resolved
from vitlet.nn.convnet import AnyEncoder, ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.recipe import View
from vitlet.run import Run, read_json
from vitlet.train.log import Teller
from vitlet.units import to_steps
from vitlet.weights.source import load_encoder

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Start:
    """Where fine-tuning or a probe begins."""

    name: str
    """Of folders."""
    title: str
    source: Path | None
    """A run or model folder; None: random weights, drawn anew for each seed."""


@dataclass(frozen=True)
class Terms:
    """What all starts have in common."""

    data: Path
    out: Path
    """Folder of the fine-tuning runs; finished ones in it are used again."""
    seeds: tuple[int, ...]
    """Each decides the labels, the order and the fresh weights of its repetition."""
    num_labels: int
    settings: Mapping[str, Any]
    """Changes of the fine-tuning recipe."""
    recipe: str = "finetune_micro"
    """Of fine-tuning."""


def finetune_arms(starts: Sequence[Start], terms: Terms, teller: Teller) -> list[Arm]:
    """Fine-tune from every start with every seed, as many side by side as there are cores.

    A small network gains little from a second thread; two runs of one thread use two cores fully.
    """
    runs = {(start.name, seed): Run(terms.out / f"{start.name}-{seed}") for start in starts for seed in terms.seeds}
    recipe = resolved(terms.recipe, {"set": terms.settings})
    budget = recipe.budget
    total = len(runs) * to_steps(budget.duration, num_images=terms.num_labels, batch_size=budget.batch_size)
    workers = min(available_cores(), len(runs))
    with (
        ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=begin_worker,
            initargs=(max(1, available_cores() // workers),),
        ) as pool,
        teller.progress("fine-tuning", total=total) as tick,
    ):
        pending = [
            pool.submit(_finetune_one, start.source, terms, seed, runs[start.name, seed].path)
            for seed in terms.seeds
            for start in starts
        ]
        while not all(job.done() for job in pending):
            time.sleep(_POLL_SECONDS)
            _raise_first(pending)
            tick(sum(_steps_done(run) for run in runs.values()))
        _raise_first(pending)
    return [_arm(start, terms, [runs[start.name, seed] for seed in terms.seeds]) for start in starts]


def _arm(start: Start, terms: Terms, runs: list[Run]) -> Arm:
    return Arm(
        name=start.name,
        title=start.title,
        values=tuple(read_json(run.results / "top1.json")["value"] for run in runs),
        seeds=terms.seeds,
        cpu_seconds=tuple(read_json(run.path / "environment.json")["cpu_seconds"] for run in runs),
        runs=tuple(run.path.name for run in runs),
    )


def begin_worker(threads: int) -> None:
    """So many threads each, and an end with the parent: whoever kills that must not have its runs go on in secret."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _finetune_one(source: Path | None, terms: Terms, seed: int, out: Path) -> None:
    finetune(
        terms.recipe,
        init=source,
        data=terms.data,
        out=out,
        num_labels=terms.num_labels,
        options=Options(quiet=True),
        seed=seed,
        set=terms.settings,
    )


def _raise_first(jobs: Sequence[Future[None]]) -> None:
    for job in jobs:
        if job.done() and job.exception() is not None:
            job.result()


def _steps_done(run: Run) -> int:
    rows = run.metrics()
    return rows[-1]["step"] if rows else 0


@dataclass(frozen=True)
class Labelled:
    """The images of a comparison."""

    index: Index
    train: np.ndarray
    test: np.ndarray
    split: str
    """What the test images are called."""


def frozen_arms(
    starts: Sequence[Start], terms: Terms, images: Labelled, *, protocol: Literal["knn", "logistic"]
) -> list[Arm]:
    """A probe on frozen features from every start; a random start has the shape of the first that is none."""
    model = load_encoder(next(start.source for start in starts if start.source))
    arms = []
    for start in starts:
        loaded = load_encoder(start.source).encoder if start.source else None
        values, costs = [], []
        for seed in terms.seeds:
            began = time.process_time()
            encoder = loaded or _untrained(model.encoder, seed=seed)
            values.append(_probed(encoder, terms, images, seed, view=model.evaluation, protocol=protocol))
            costs.append(time.process_time() - began)
        arms.append(Arm(start.name, start.title, tuple(values), terms.seeds, tuple(costs)))
    return arms


def _untrained(like: AnyEncoder, *, seed: int) -> AnyEncoder:
    if isinstance(like, Encoder):
        return Encoder(like.config, mean=like.mean, std=like.std, seed=seed)
    return ConvEncoder(like.config, mean=like.mean, std=like.std, seed=seed)


def _probed(
    encoder: AnyEncoder, terms: Terms, images: Labelled, seed: int, *, view: View, protocol: Literal["knn", "logistic"]
) -> float:
    labels = np.asarray(images.index.labels[images.train])
    few = images.train[balanced(labels, num=terms.num_labels, seed=seed)]
    found = probe_encoder(encoder, images.index, few, images.test, view=view, how=Probing(protocol), options=Options())
    return found.top1
