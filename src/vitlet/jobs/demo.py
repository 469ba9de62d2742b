"""The main job told once: check, pre-train, compare with random weights on few labels, write the page.

The comparison gives both starts the same labels, steps and seeds; only the initial weights differ. The test images
decide nothing but the number that is reported.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitlet.data.digits import write_digits
from vitlet.data.index import Index, open_index
from vitlet.data.subsets import balanced
from vitlet.errors import UsageError
from vitlet.evaluate.compare import Arm, Protocol, comparison
from vitlet.jobs.evaluation import probe_encoder
from vitlet.jobs.material import divide, judge, model_folder
from vitlet.jobs.options import Flags, Options, available_cores
from vitlet.jobs.training import finetune, pretrain
from vitlet.nn.encoder import Encoder
from vitlet.recipes import by_name, with_overrides
from vitlet.report.page import write_page
from vitlet.run import Run, read_json, write_json
from vitlet.text import plural, printable
from vitlet.train.log import Teller
from vitlet.weights.folder import read_model

_LABELS_PER_CLASS = 20
_POLL_SECONDS = 0.5
_DIGIT_VIEWS = {"data.views.0.flip": 0.0, "data.views.0.crop.padding": 2}
"""A mirrored digit is another sign; a shift by an eighth of the image loses strokes."""


@dataclass(frozen=True)
class Story:
    """What all parts of the demo share."""

    data: Path
    out: Path
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    """Changes of both recipes."""
    pretraining: str
    num_labels: int


def demo(*, data: Path | None = None, out: Path = Path("demo-run"), seeds: int = 3) -> Path:
    """Run the story and return the page.

    Args:
        data: Images; None takes the embedded digits.
        out: Folder of the runs, `comparison.json` and `report.html`; finished parts in it are not done again.
        seeds: Fine-tuning runs of each start.

    Raises:
        VitletError: as the jobs it is made of.
    """
    if seeds < 1:
        raise UsageError(f"{seeds} seeds", why="A comparison needs at least one", fix="--seeds 3")
    began = time.monotonic()
    teller = Teller()
    source = write_digits(out / "digits") if data is None else data
    teller.say(f"1. Checking the data in {printable(source)}")
    index = open_index(source)
    verdicts = judge(index, Options(), teller)
    train, test, split = divide(index, verdicts)
    story = _plan(index, verdicts.widths[1], train, data=source, out=out, seeds=seeds, embedded=data is None)

    teller.say(f"2. Pre-training {story.pretraining} on all training images, labels unseen")
    run = pretrain(story.pretraining, data=source, out=out / "pretrained", set=story.settings)
    if len(index.classes) < 2 or not len(test) or not story.num_labels:
        teller.say(
            "No labels of two classes, so whether pre-training helped cannot be measured; see the health on the page."
        )
        return _page([run], story, teller, began)

    teller.say(
        f"3. Fine-tuning with {story.num_labels} labels, {plural(seeds, 'seed')}, from there and from random weights"
    )
    arms = _finetune_arms(run, story, teller)
    teller.say("4. Nearest neighbours and logistic regression on the frozen features of both")
    protocols = [
        Protocol("finetune", f"Fine-tuning with {story.num_labels} labels", arms, n=len(test), split=split),
        *(_frozen(p, run, story, index, train, test, split) for p in ("knn", "logistic")),
    ]
    facts = {
        "name": index.name,
        "fingerprint": index.fingerprint,
        "num_train": int((verdicts.good & (index.splits == 0)).sum()),
        "num_labelled": story.num_labels,
        "num_test": len(test),
        "classes": [printable(name) for name in index.classes],
    }
    command = f"vitlet demo{'' if data is None else f' --data {printable(data)}'} --seeds {seeds}"
    found = comparison("Did pre-training help?", data=facts, protocols=protocols, commands=[command])
    write_json(out / "comparison.json", found)
    teller.say(found["verdict"]["sentence"])
    finetuned = [Run(out / name) for arm in arms for name in arm.runs]
    return _page([run, *finetuned], story, teller, began, found)


def _plan(
    index: Index, median_width: int, train: np.ndarray, *, data: Path, out: Path, seeds: int, embedded: bool
) -> Story:
    counts = np.bincount(index.labels[train]) if len(train) else np.zeros(1, dtype=int)
    present = counts[counts > 0]
    # Few labels is the point, so never more than half of the smallest class.
    per_class = min(_LABELS_PER_CLASS, int(present.min()) // 2 or 1) if len(present) > 1 else 0
    return Story(
        data=data,
        out=out,
        seeds=tuple(range(seeds)),
        settings=_DIGIT_VIEWS if embedded else {},
        pretraining="mae_micro" if embedded or median_width <= 48 else "mae_micro_crops",
        num_labels=per_class * len(present),
    )


def _finetune_arms(run: Run, story: Story, teller: Teller) -> tuple[Arm, Arm]:
    starts = {"pretrained": run.path, "scratch": None}
    runs = {(arm, seed): Run(story.out / f"{arm}-{seed}") for arm in starts for seed in story.seeds}
    recipe = with_overrides(by_name("finetune_micro"), story.settings)
    total = recipe.budget.duration.n * len(runs) / recipe.budget.batch_size
    workers = min(available_cores(), len(runs))
    flags: Flags = {"set": story.settings}
    # A small network gains little from a second thread; two runs side by side use two cores fully.
    context = multiprocessing.get_context("spawn")
    threads = max(1, available_cores() // workers)
    with (
        ProcessPoolExecutor(workers, mp_context=context, initializer=_use_threads, initargs=(threads,)) as pool,
        teller.progress("fine-tuning", total=int(total)) as tick,
    ):
        pending = [
            pool.submit(_finetune_one, starts[arm], story, each.path, {**flags, "seed": seed})
            for (arm, seed), each in runs.items()
        ]
        while not all(job.done() for job in pending):
            time.sleep(_POLL_SECONDS)
            _raise_first(pending)
            tick(sum(_steps_done(each) for each in runs.values()))
        _raise_first(pending)
    titles = {"pretrained": f"pre-trained ({story.pretraining})", "scratch": "random weights"}
    first, second = (
        Arm(
            name=arm,
            title=titles[arm],
            values=tuple(read_json(runs[arm, s].results / "top1.json")["value"] for s in story.seeds),
            seeds=story.seeds,
            cpu_seconds=tuple(read_json(runs[arm, s].path / "environment.json")["cpu_seconds"] for s in story.seeds),
        )
        for arm in starts
    )
    return first, second


def _use_threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)


def _finetune_one(init: Path | None, story: Story, out: Path, flags: Flags) -> None:
    sys.argv = ["vitlet", "demo"]
    finetune(
        "finetune_micro",
        init=init,
        data=story.data,
        out=out,
        num_labels=story.num_labels,
        options=Options(quiet=True),
        **flags,
    )


def _raise_first(jobs: Sequence[Future[None]]) -> None:
    for job in jobs:
        if job.done() and job.exception() is not None:
            job.result()


def _steps_done(run: Run) -> int:
    rows = run.metrics()
    return rows[-1]["step"] if rows else 0


def _frozen(
    protocol: Literal["knn", "logistic"],
    run: Run,
    story: Story,
    index: Index,
    train: np.ndarray,
    test: np.ndarray,
    split: str,
) -> Protocol:
    """Both starts under one probe; every seed draws its own labels, and its own random encoder."""
    saved = read_model(model_folder(run.path))
    chosen = {
        seed: train[balanced(np.asarray(index.labels[train]), num=story.num_labels, seed=seed)] for seed in story.seeds
    }

    def arm(name: str, title: str, encoders: dict[int, Encoder]) -> Arm:
        values, costs = [], []
        for seed in story.seeds:
            began = time.process_time()
            found = probe_encoder(
                encoders[seed],
                index,
                chosen[seed],
                test,
                view=saved.evaluation,
                protocol=protocol,
                pool="mean",
                options=Options(),
            )
            values.append(found.top1)
            costs.append(time.process_time() - began)
        return Arm(name, title, tuple(values), story.seeds, tuple(costs))

    config, mean, std = saved.encoder.config, saved.encoder.mean, saved.encoder.std
    random_encoders = {seed: Encoder(config, mean=mean, std=std, seed=seed) for seed in story.seeds}
    titles = {"knn": "20 nearest neighbours", "logistic": "Logistic regression"}
    return Protocol(
        name=protocol,
        title=f"{titles[protocol]} on frozen features, {story.num_labels} labels",
        arms=(
            arm("pretrained", f"pre-trained ({story.pretraining})", dict.fromkeys(story.seeds, saved.encoder)),
            arm("scratch", "random weights", random_encoders),
        ),
        n=len(test),
        split=split,
    )


def _page(runs: list[Run], story: Story, teller: Teller, began: float, found: dict[str, Any] | None = None) -> Path:
    page = write_page(runs, out=story.out / "report.html", comparison=found)
    teller.say(f"{time.monotonic() - began:.0f} s. The page: {printable(os.path.abspath(page))}")
    return page
