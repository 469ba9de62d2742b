"""A run that fails costs what needs it and nothing else, and says so wherever its number would stand."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_images import command

from in_place import in_place
from vitlet.cli import main
from vitlet.errors import DataError, NonFiniteError, ResourceError, StoppedError, UsageError, VitletError, WorkerError
from vitlet.jobs.slurm import Cluster
from vitlet.replication import replicate, runner, schedule
from vitlet.replication.catalogue import chosen
from vitlet.replication.chains import DMAE, LOOK, SUPERVISED, transferred
from vitlet.replication.findings import findings
from vitlet.replication.plan import FAILED_FILE, NODE_FILE, Node, Plan
from vitlet.replication.planner import make_plan
from vitlet.replication.runner import attempt
from vitlet.replication.scale import Scale, Treatment
from vitlet.replication.scales import scale_by_name
from vitlet.replication.slurm import generations, write_arrays

SMOKE = scale_by_name("smoke")
WORDS = ("claim-8", "claim-12", "claim-18")
WHY = "diverged: mocov3, seed 0 (loss nan at step 0)"


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> Scale:
    """Scale smoke with a MoCo-v3 whose logits overflow in the first step."""
    moco = SMOKE.methods["mocov3"]
    assert isinstance(moco, Treatment)
    hot = dataclasses.replace(moco, changes={**moco.changes, "objective.temperature": 1e-39})
    scale = dataclasses.replace(SMOKE, methods={**SMOKE.methods, "mocov3": hot})
    monkeypatch.setattr(replicate, "scale_by_name", lambda _: scale)
    return scale


def planned(scale: Scale, images: Path, out: Path, *words: str) -> Plan:
    return make_plan(chosen(words).stages(scale.order), scale, data=images, out=out)


def moco_in(plan: Plan) -> Node:
    return next(node for node in plan.nodes.values() if node.title == "mocov3")


def fail_with(error: VitletError) -> None:
    raise error


def fail(node: Node, error: VitletError) -> None:
    """Leave what the run leaves when it fails so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "make", lambda *_, **__: (_ for _ in ()).throw(error))
        shutil.rmtree(node.folder, ignore_errors=True)
        attempt(node)


@pytest.mark.parametrize("side_by_side", ["1", "2"])
def test_one_run_that_diverges_costs_what_needs_it_alone(
    side_by_side: str, copied: Path, images: Path, diverging: Scale, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setattr(schedule, "processes", in_place)
    monkeypatch.setattr(schedule, "_POLL_SECONDS", 0.0)
    plan = planned(diverging, images, copied, *WORDS)
    moco, later = moco_in(plan), plan.node(transferred(DMAE, "flowers"), 0)
    assert list(plan.nodes).index(moco.address) < list(plan.nodes).index(later.address)
    shutil.rmtree(later.folder)
    words = [*command(images, copied, what=WORDS)[:-1], side_by_side]
    assert main(words) == NonFiniteError.exit_code
    assert f"1 run failed ({moco.folder}). {WHY}. Not made either: 1 run that needs it." in capsys.readouterr().err
    assert later.is_finished
    assert not plan.node(LOOK, 0).folder.exists()

    recorded = json.loads((moco.folder / FAILED_FILE).read_text())
    assert (recorded["error"], recorded["what"]) == ("NonFiniteError", "loss nan at step 0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", recorded["when"])
    document = json.loads((copied / "replication.json").read_text())
    claims = {claim["number"]: (claim["answer"], claim["why"]) for claim in document["claims"]}
    assert (claims[8], claims[18], claims[12]) == (("not run", WHY), ("undecided", ""), ("undecided", ""))
    assert [run["why"] for run in document["failed"]] == [WHY]
    assert WHY in (copied / "report.html").read_text()


def test_a_run_whose_process_is_lost_has_failed_and_the_others_go_on(
    copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch
):
    """It leaves nothing itself; the system ends processes where memory is short."""
    monkeypatch.setattr(schedule, "processes", in_place)
    monkeypatch.setattr(schedule, "_POLL_SECONDS", 0.0)
    plan = planned(SMOKE, images, copied, *WORDS)
    lost, later = moco_in(plan), plan.node(transferred(DMAE, "flowers"), 0)
    for node in (lost, later):
        shutil.rmtree(node.folder)

    def attempted(node: Node, **how) -> None:
        if node.address == lost.address:
            raise WorkerError("a process that trained or probed ended without a result")
        attempt(node, **how)

    with monkeypatch.context() as patch:
        patch.setattr(schedule, "attempt", attempted)
        words = [*command(images, copied, what=WORDS)[:-1], "2"]
        assert main(words) == WorkerError.exit_code
    assert later.is_finished
    assert lost.why_failed == "failed: mocov3, seed 0 (a process that trained or probed ended without a result)"
    assert main(words) == 0, "not lost again"


def test_lost_images_end_the_whole(copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch):
    """Every run needs them."""
    plan = planned(SMOKE, images, copied, "claim-12")
    half = next(node for node in plan.nodes.values() if node.kind == "images")
    shutil.rmtree(half.folder)
    with in_place(2, threads=1) as pool:
        pool.begin(half.address, fail_with, WorkerError("a process ended"))
        with pytest.raises(WorkerError, match="a process ended"):
            schedule._ended(pool, plan)
    assert not (half.folder / FAILED_FILE).exists()


def test_a_diverged_run_is_repeated_only_if_that_is_asked_for(copied: Path, images: Path, diverging: Scale):
    moco = moco_in(planned(diverging, images, copied, "claim-8"))
    record = moco.folder / FAILED_FILE
    words = command(images, copied, what=("claim-8",))
    assert main(words) == 6
    first = record.stat().st_mtime_ns
    assert main(words) == 6
    assert record.stat().st_mtime_ns == first
    assert main([*words, "--retry-failed"]) == 6
    assert record.stat().st_mtime_ns != first
    left_over = moco.folder / "of-before"
    left_over.touch()
    assert main([*words, "--retry-failed"]) == 6
    assert not left_over.exists(), "it begins anew"


def test_what_did_not_diverge_is_tried_again(copied: Path, images: Path):
    plan = planned(SMOKE, images, copied, "claim-12")
    node = plan.node(SUPERVISED, 0)
    fail(node, WorkerError("a loader worker was lost"))
    assert node.why_failed == "failed: from scratch, 48 labels, seed 0 (a loader worker was lost)"
    assert main(command(images, copied, what=("claim-12",))) == 0
    assert node.is_finished
    assert not (node.folder / FAILED_FILE).exists()


@pytest.mark.parametrize(
    "error", [ResourceError("no room"), UsageError("locked"), StoppedError(15, step=1, run="r"), KeyboardInterrupt()]
)
def test_what_concerns_every_run_is_not_taken_for_a_failure_of_one(error: BaseException, images: Path, tmp_path: Path):
    node = planned(SMOKE, images, tmp_path, "claim-12").node(SUPERVISED, 0)
    with pytest.raises(type(error)):
        fail(node, error)  # type: ignore[arg-type]
    assert node.failure is None


def test_images_that_cannot_be_divided_concern_every_run(images: Path, tmp_path: Path):
    (half,) = (n for n in planned(SMOKE, images, tmp_path, "claim-12").nodes.values() if n.kind == "images")
    with pytest.raises(DataError):
        fail(half, DataError("an image is gone"))


def test_a_number_of_fewer_seeds_says_which_diverged(copied: Path, images: Path):
    """A mean over those that went well, and no word of the others, would be a better one than was measured."""
    scale = SMOKE.with_seeds(2)
    plan = planned(scale, images, copied, "table-1", "claim-1")
    fail(plan.node(SUPERVISED, 1), NonFiniteError("loss inf at step 3"))
    document = findings(plan, chosen(["table-1", "claim-1"]), command="c")
    (table,) = document["items"]
    cells = {row["title"]: row["cells"][-1] for row in table["rows"]}
    scratch = cells["from scratch, 12 heads (DeiT-Tiny)"]
    why = "diverged: from scratch, 48 labels, seed 1 (loss inf at step 3)"
    assert (scratch["measured"]["seeds"], scratch["not_run"]) == ([0], why)
    assert cells["MAE, 400 epochs"]["not_run"] is None
    assert document["claims"][0]["why"] == why


def test_a_task_of_an_array_says_what_failed_and_later_arrays_leave_it_out(
    copied: Path, images: Path, diverging: Scale, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plan = planned(diverging, images, copied, "claim-8")
    moco, look = moco_in(plan), plan.node(LOOK, 0)
    assert [[node.title for node in nodes] for nodes in generations(plan)] == [["mocov3"], [look.title]]
    words = command(images, copied, what=("claim-8",))
    assert main([*words, "--node", moco.address]) == 6
    assert "--retry-failed" in capsys.readouterr().err
    assert main([*words, "--node", look.address]) == 2
    told = capsys.readouterr().err
    assert WHY in told
    assert f"--node {moco.address} --retry-failed first" in told
    assert generations(plan) == []
    *_, submit = write_arrays(plan, tmp_path / "jobs", command=["reproduce"], cluster=Cluster())
    assert "afterok" not in submit.read_text(), "one failed task would hold up everything for ever"
    assert main([*words, "--slurm", str(tmp_path / "again"), "--retry-failed"]) == 0
    assert [node.title for nodes in generations(plan) for node in nodes] == ["mocov3", look.title]
    assert not (moco.folder / NODE_FILE).exists()
