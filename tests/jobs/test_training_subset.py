"""Training on a part of the images: which take part, how long an epoch is, and what is remembered of a list."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import QUIET, SHORT, SMALLER, interrupted, losses, stands, weights

from vitlet.console import Teller
from vitlet.data.index import open_index
from vitlet.errors import DataError, UsageError
from vitlet.jobs.launch import Launch
from vitlet.jobs.material import gather_material
from vitlet.jobs.training import finetune, pretrain, resolved, resume
from vitlet.run import Run

EPOCHS: dict[str, Any] = {"budget.duration": {"unit": "epochs", "n": 2}, "optimizer.warmup": {"unit": "epochs", "n": 1}}


def shortly(data: Path, out: Path, **changes: Any) -> Run:
    return pretrain("debug", **{"data": data, "out": out, "options": QUIET, "set": SHORT} | changes)


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_the_part_decides_which_images_take_part(verb: str, data: Path) -> None:
    index = open_index(data)
    recipe = resolved("debug_supervised" if verb == "finetune" else "debug", {})
    launch = Launch(verb, "", str(data), subset="0.5")
    material = gather_material(index, recipe, launch, QUIET, Teller(quiet=True))
    assert np.bincount(index.labels[material.ids]).tolist() == [8, 8]
    assert material.num_whole == 32
    whole = gather_material(index, recipe, Launch(verb, "", str(data)), QUIET, Teller(quiet=True))
    assert len(whole.ids) == whole.num_whole == 32
    assert material.held_out.tolist() == whole.held_out.tolist()


def test_few_labels_are_taken_from_the_part(data: Path) -> None:
    index = open_index(data)
    recipe = resolved("debug_supervised", {})
    launch = Launch("finetune", "", str(data), num_labels=4, subset="0.25")
    part = gather_material(index, recipe, Launch("finetune", "", str(data), subset="0.25"), QUIET, Teller(quiet=True))
    few = gather_material(index, recipe, launch, QUIET, Teller(quiet=True))
    assert (len(part.ids), len(few.ids)) == (8, 4)
    assert set(few.ids) < set(part.ids)


def test_a_run_on_a_part_says_so(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = finetune("debug_supervised", init=None, data=data, out=out, subset="50%", options=QUIET, set=SMALLER)
    started = json.loads((run.path / "environment.json").read_text())
    assert started["launch"]["subset"] == "0.5"
    assert "--subset 0.5" in started["command"]
    assert "16 labels" in json.loads((run.results / "top1.json").read_text())["protocol"]
    with pytest.raises(UsageError, match=r"holds another run.*subset differ: 0\.5 there"):
        finetune("debug_supervised", init=None, data=data, out=out, options=QUIET, set=SMALLER)


def test_iterations_are_constant_over_sizes_where_the_budget_says_so(data: Path, tmp_path: Path) -> None:
    """Table 3; the warm-up with them. Without the setting an epoch shrinks with the subset: the control."""
    counted = {}
    for subset, epoch_of in ((None, "subset"), ("0.25", "whole"), ("0.25", "subset")):
        settings = {**SHORT, **EPOCHS, "budget.epoch_of": epoch_of}
        run = shortly(data, tmp_path / f"{subset}-{epoch_of}", subset=subset, set=settings)
        rates = [row["lr"] for row in run.metrics() if "loss" in row]
        counted[subset, epoch_of] = len(losses(run)), int(np.argmax(rates))
    assert counted[None, "subset"] == counted["0.25", "whole"] == (8, 4)
    assert counted["0.25", "subset"] == (2, 1)


@pytest.mark.parametrize("unit", ["steps", "images"])
def test_steps_and_images_are_constant_by_themselves(unit: str, data: Path, tmp_path: Path) -> None:
    settings = {**SHORT, "budget.duration": {"unit": unit, "n": {"steps": 3, "images": 24}[unit]}}
    runs = [shortly(data, tmp_path / str(part), subset=part, set=settings) for part in (None, "0.25")]
    assert [len(losses(run)) for run in runs] == [3, 3]


def test_a_list_is_resumed_on_the_images_it_named(data: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    lines = [f"{name}/{i:02}.png" for name in ("dark", "light") for i in range(5)]
    names.write_text("\n".join(lines))
    run = shortly(data, tmp_path / "run", subset=str(names))
    begun = interrupted(run, tmp_path / "begun")
    assert weights(resume(begun.path, options=QUIET)) == weights(run)
    again = interrupted(run, tmp_path / "again")
    names.write_text("\n".join(lines[1:]))
    before = stands(again.path)
    with pytest.raises(DataError, match=r"the list .* has changed since the run began"):
        resume(again.path, options=QUIET)
    assert stands(again.path) == before


def test_a_part_smaller_than_a_batch_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch size 8 is larger than the 4 training images"):
        shortly(data, tmp_path / "run", subset="0.125")
