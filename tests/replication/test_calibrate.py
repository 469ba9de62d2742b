"""Expected costs: tried, kept for the machine, and corrected by what was measured."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vitlet.cli import main
from vitlet.console import Teller
from vitlet.disk import read_json, write_json
from vitlet.environment import environment
from vitlet.replication import calibrate
from vitlet.replication.calibrate import Cost, expected_cost
from vitlet.replication.catalogue import chosen
from vitlet.replication.chains import MAE, SUPERVISED, tuned
from vitlet.replication.plan import Plan
from vitlet.replication.planner import make_plan
from vitlet.replication.scales import scale_by_name
from vitlet.replication.steps import Evaluate
from vitlet.run import Run

SMOKE = scale_by_name("smoke")
TRIED = dataclasses.replace(SMOKE, is_tried=True)
QUIET = Teller(quiet=True)


def tried_before(plan: Plan, *, seconds_per_image: float) -> None:
    """Leave what trials on this machine leave."""
    machine = {k: environment()[k] for k in ("processor", "cores")} | {"device": "auto"}
    rate = {"seconds_per_image": seconds_per_image, "bytes": 1}
    rates = {calibrate._key(node): rate for node in plan.nodes.values() if node.recipe}
    write_json(plan.out / "calibration.json", {"machine": machine, "rates": rates})


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


def test_a_count_by_other_labels_costs_its_images(images: Path, tmp_path: Path):
    """At scale paper 50,000 of them, which were priced as none."""
    scale = dataclasses.replace(SMOKE, sets={**SMOKE.sets, "imagenet-val": SMOKE.sets["imagenet"]})
    step = Evaluate(SUPERVISED, "real", "imagenet-val")
    plan = make_plan([[step]], scale, data=images, out=tmp_path)
    tried_before(plan, seconds_per_image=3.0)
    node = plan.node(step, 0)
    assert node.test_images == 16
    assert expected_cost(plan, teller=QUIET).seconds[node.address] == pytest.approx(2.0 + 16.0)


def test_on_a_gpu_the_price_is_in_the_time_of_the_gpu(
    copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = ["reproduce", "claim-1", "--scale", "smoke", "--seeds", "2", "--data", str(images), "--out", str(copied)]
    assert main([*words, "--plan"]) == 0
    assert " of one core and " in capsys.readouterr().out
    plan = make_plan([[SUPERVISED]], SMOKE.with_seeds(2), data=images, out=copied)
    file = plan.node(SUPERVISED, 0).folder / "node.json"
    write_json(file, json.loads(file.read_text()) | {"cpu_seconds": 64.0, "wall_seconds": 8.0})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cost = expected_cost(plan, teller=QUIET)
    assert cost.seconds[plan.node(SUPERVISED, 1).address] == pytest.approx(8.0)
    assert main([*words, "--plan"]) == 0
    assert " of one GPU and " in capsys.readouterr().out


@pytest.mark.parametrize(("side_by_side", "seconds"), [(1, 50.0), (2, 30.0), (9, 30.0)])
def test_side_by_side_all_take_no_less_than_the_longest_chain(
    side_by_side: int, seconds: float, images: Path, tmp_path: Path
):
    """A half, and with each of two seeds a pre-training and a fine-tuning from it, ten seconds each."""
    plan = make_plan([[tuned(MAE)]], SMOKE.with_seeds(2), data=images, out=tmp_path)
    assert len(plan.nodes) == 5
    cost = Cost(dict.fromkeys(plan.nodes, 10.0), {}, ())
    assert cost.wall_seconds(plan, side_by_side=side_by_side) == seconds


def test_a_budget_is_time_of_the_clock_and_cores_make_it_longer(images: Path, tmp_path: Path):
    own = scale_by_name("own")

    def factor(side_by_side: int, out: Path) -> float:
        plan = make_plan(chosen(["claim-1"]).stages(own.order), own, data=images, out=out)
        tried_before(plan, seconds_per_image=0.01)
        total = expected_cost(plan, teller=QUIET).wall_seconds(plan, side_by_side=1)
        words = ["reproduce", "claim-1", "--scale", "own", "--data", str(images), "--out", str(out), "--plan"]
        assert main([*words, "--budget", f"{total / 10:.3f}s", "--side-by-side", str(side_by_side)]) == 0
        return read_json(out / "budget.json")["factor"]

    assert factor(1, tmp_path / "one") == pytest.approx(0.1)
    assert factor(2, tmp_path / "two") == pytest.approx(0.2)
    assert 0.2 < factor(99, tmp_path / "many") < 0.6, "the chain of one seed has to fit"
    assert factor(2, tmp_path / "one") == pytest.approx(0.1), "decided once in a folder: it decides the runs"


def test_a_budget_that_would_teach_nothing_is_refused_and_micro_takes_none(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own = scale_by_name("own")
    plan = make_plan(chosen(["claim-1"]).stages(own.order), own, data=images, out=tmp_path)
    tried_before(plan, seconds_per_image=1.0)
    words = ["reproduce", "claim-1", "--data", str(images), "--out", str(tmp_path), "--plan", "--budget", "1min"]
    assert main([*words, "--scale", "own"]) == 2
    assert "less than a fiftieth" in capsys.readouterr().err
    assert main([*words, "--scale", "micro"]) == 2
    assert "Its lengths are fixed" in capsys.readouterr().err
