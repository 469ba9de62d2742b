"""Expected costs: tried, kept for the machine, and corrected by what was measured."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vitlet.reproduce import calibrate
from vitlet.reproduce.calibrate import expected_cost
from vitlet.reproduce.chains import MAE, SUPERVISED, tuned
from vitlet.reproduce.planner import make_plan
from vitlet.reproduce.scales import scale_by_name
from vitlet.run import Run
from vitlet.train.log import Teller

SMOKE = scale_by_name("smoke")
TRIED = dataclasses.replace(SMOKE, is_tried=True)
QUIET = Teller(quiet=True)


def test_one_trial_serves_every_run_of_its_kind_and_is_kept(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = make_plan([[SUPERVISED, tuned(MAE)]], TRIED.with_seeds(2), data=images, out=tmp_path)
    cost = expected_cost(plan, teller=QUIET)
    assert not cost.unknown
    assert cost.seconds.keys() == cost.bytes.keys() == plan.nodes.keys()
    assert all(v > 0 for v in (*cost.seconds.values(), *cost.bytes.values()))
    rates = json.loads((tmp_path / "calibration.json").read_text())["rates"]
    assert len(rates) == 2, "fine-tuning from anywhere costs the same, pre-training something else"
    monkeypatch.setattr(calibrate, "_try", lambda *_: pytest.fail("tried again"))
    assert expected_cost(plan, teller=QUIET).seconds == cost.seconds


def test_what_is_not_tried_is_unknown_and_not_nothing(images: Path, tmp_path: Path):
    plan = make_plan([[SUPERVISED]], SMOKE, data=images, out=tmp_path)
    cost = expected_cost(plan, teller=QUIET)
    assert [plan.nodes[a].kind for a in cost.unknown] == ["finetune"]


def test_finished_runs_correct_the_guess(copied: Path, images: Path):
    plan = make_plan([[SUPERVISED]], SMOKE.with_seeds(2), data=images, out=copied)
    first, second = plan.node(SUPERVISED, 0), plan.node(SUPERVISED, 1)
    file = first.folder / "node.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"cpu_seconds": 64.0}))
    assert expected_cost(plan, teller=QUIET).seconds[second.address] == pytest.approx(64.0)
    file.write_text(json.dumps(facts | {"cpu_seconds": 64.0, "is_resumed": True}))
    assert second.address in expected_cost(plan, teller=QUIET).unknown, "the clock of a resumed run tells nothing"


def test_a_trial_computes_on_one_thread(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Beside another job two threads that wait for each other would count the waiting."""
    seen, real = [], calibrate.finetune

    def watched(*values: Any, **options: Any) -> Run:
        seen.append(torch.get_num_threads())
        return real(*values, **options)

    monkeypatch.setattr(calibrate, "finetune", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected_cost(make_plan([[SUPERVISED]], TRIED, data=images, out=tmp_path), teller=QUIET)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
