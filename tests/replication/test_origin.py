"""Beside a number stands what ran: recipes and images seen, or the number before it that is of the same runs."""

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest

from vitlet.disk import write_json
from vitlet.replication.catalogue import chosen
from vitlet.replication.chains import (
    DMAE_TUNED,
    MAE,
    MAE_PROBED,
    MAE_TUNED,
    MAE_UNTRAINED,
    SUPERVISED,
    transferred,
    tuned,
)
from vitlet.replication.findings import findings
from vitlet.replication.origin import Origins
from vitlet.replication.plan import NODE_FILE, Plan
from vitlet.replication.planner import make_plan
from vitlet.replication.scales import scale_by_name
from vitlet.replication.steps import Evaluate, Finetune, Measured, Pretrain

MAE_RUN, TUNING = "mae_micro (32 images seen)", "finetune_micro (32 images seen)"


def finished(images: Path, out: Path, *steps: Measured, scale: str = "smoke") -> Plan:
    plan = make_plan([list(steps)], scale_by_name(scale), data=images, out=out)
    mark(plan)
    return plan


def mark(plan: Plan) -> None:
    for node in plan.nodes.values():
        if node.kind != "weights":
            node.folder.mkdir(parents=True)
            write_json(node.folder / NODE_FILE, {"recipe": "ab", "finished": "2026-11-28"})


def told(plan: Plan, steps: Iterable[Measured]) -> list[str]:
    origins = Origins(plan)
    return [origins.of(step, place=f"place {number}") for number, step in enumerate(steps, 1)]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (SUPERVISED, TUNING),
        (MAE_TUNED, f"{MAE_RUN}, then {TUNING}"),
        (MAE_PROBED, f"{MAE_RUN}, then logistic probe"),
        (DMAE_TUNED, f"dmae_micro (32 images seen) with mae_micro_wide as teacher, then {TUNING}"),
        (tuned(MAE, keep=0), TUNING),
    ],
)
def test_a_chain_is_told_from_its_first_training_on(step: Measured, words: str, images: Path, tmp_path: Path):
    assert told(finished(images, tmp_path, step), [step]) == [words]


def test_at_scale_paper_weights_of_others_and_choices_are_told(everything: Path, tmp_path: Path):
    taught, given = Finetune(MAE, "taught", teacher=Pretrain("regnet")), tuned(Pretrain("supervised-21k"))
    steps = [given, taught, transferred(MAE, "flowers"), Evaluate(MAE_TUNED, "real", "imagenet-val")]
    of_weights, with_teacher, chosen_, judged = told(finished(everything, tmp_path, *steps, scale="paper"), steps)
    assert of_weights.startswith("weights of others (supervised-21k), then finetune_tiny_impr_300e (")
    assert with_teacher.endswith("images seen) with weights of others as teacher")
    assert chosen_.endswith("then transfer_flowers"), "settings differ in length"
    assert judged.split(" (")[0] == "mae_tiny_400e"


def test_the_same_runs_are_told_of_once(images: Path, tmp_path: Path):
    """At scale smoke there is one length of fine-tuning, so two rows of Table 1 are one run."""
    steps = [MAE_TUNED, tuned(MAE, keep=12), MAE_UNTRAINED, tuned(MAE, keep=0)]
    plan = finished(images, tmp_path, *steps)
    assert told(plan, steps)[1::2] == ["same run as place 1", "same run as place 3"]


def test_a_table_names_recipes_images_and_the_place_of_the_same_run(images: Path, smoke: Path):
    choice = chosen(["table-1", "figure-2"])
    plan = make_plan(choice.stages(), scale_by_name("smoke"), data=images, out=smoke)
    document = findings(plan, choice, command="c")
    first, second = document["items"]
    rows = {row["title"]: cell["measured"] for row in first["rows"] if (cell := row["cells"][-1])}
    assert rows["MAE, 400 epochs"]["origin"] == f"{MAE_RUN}, then {TUNING}"
    same = "same run as Table 1: MAE, 400 epochs, impr."
    assert rows["MAE, 400 epochs, fine-tuned for 100"]["origin"] == same
    assert second["rows"][0]["cells"][-1]["measured"]["origin"] == same
    assert rows["MAE, 400 epochs"]["stand_in"] == document["sets"]["imagenet"] == f"{images.name}, every second class"


def test_the_images_are_called_by_the_name_of_their_folder(images: Path, tmp_path: Path):
    """Whatever it is called: it ends on a page."""
    place = tmp_path / "mine\n\u202e"
    place.symlink_to(images)
    choice = chosen(["table-1"])
    plan = make_plan(choice.stages(), scale_by_name("own"), data=place, out=tmp_path / "out")
    assert findings(plan, choice, command="c")["sets"]["flowers"].startswith("mine\\x0a\\u202e, the other classes")
