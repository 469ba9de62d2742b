"""Runs are shared, addressed by what decides their numbers, and in an order in which they can be made."""

import dataclasses
from pathlib import Path

import pytest
from small_images import write_images

from vitlet.errors import DataError
from vitlet.reproduce.catalogue import chosen
from vitlet.reproduce.chains import DMAE, MAE, SUPERVISED, TEACHER, tuned
from vitlet.reproduce.plan import Plan, make_plan
from vitlet.reproduce.scale import scale_by_name
from vitlet.reproduce.steps import Finetune, Pretrain

SMOKE = scale_by_name("smoke")


def planned(images: Path, out: Path, *steps, scale=SMOKE) -> Plan:
    return make_plan([list(steps)], scale, data=images, out=out)


def test_inputs_stand_before_what_needs_them_and_no_run_stands_twice(images: Path, tmp_path: Path):
    plan = make_plan(chosen(["all"]).stages(SMOKE.order), SMOKE.with_seeds(2), data=images, out=tmp_path)
    seen: set[str] = set()
    for node in plan.nodes.values():
        assert set(node.inputs) <= seen, node.title
        seen.add(node.address)
    assert len({node.folder for node in plan.nodes.values()}) == len(plan.nodes)
    assert all(address in plan.nodes for address in plan.answers.values())


def test_what_is_stopped_early_has_all_seeds_of_the_first_claims(images: Path, tmp_path: Path):
    """Control: in one stage the second seed of claim 1 waits for the first of claim 2, which needs MoCo-v3."""

    def before_moco(order: tuple[tuple[int, ...], ...]) -> set[int]:
        stages = chosen(["claim-1", "claim-2"]).stages(order)
        nodes = make_plan(stages, SMOKE.with_seeds(2), data=images, out=tmp_path).nodes.values()
        titles = [node.title for node in nodes]
        return {node.seed for node in list(nodes)[: titles.index("mocov3")] if node.kind == "finetune"}

    assert before_moco(((1,), (2,))) == {0, 1}
    assert before_moco(()) == {0}


@pytest.mark.parametrize("name", ["micro", "own", "smoke"])
def test_the_order_of_a_scale_names_every_claim_once(name: str):
    assert sorted(n for group in scale_by_name(name).order for n in group) == list(range(1, 19))


def test_claims_about_mae_wait_for_no_other_method(images: Path, tmp_path: Path):
    steps = chosen(["claim-7", "claim-13", "claim-14"]).stages()
    titles = {node.title for node in make_plan(steps, SMOKE, data=images, out=tmp_path).nodes.values()}
    assert "mae" in titles
    assert "mocov3" not in titles


def test_tables_share_their_runs(images: Path, tmp_path: Path):
    alone = [planned(images, tmp_path, *chosen([w]).stages()[0]) for w in ("table-1", "figure-2")]
    both = planned(images, tmp_path, *(s for w in ("table-1", "figure-2") for s in chosen([w]).stages()[0]))
    assert both.nodes.keys() == alone[0].nodes.keys() | alone[1].nodes.keys()
    assert len(both.nodes) < len(alone[0].nodes) + len(alone[1].nodes)


def test_an_address_follows_recipe_seed_labels_and_inputs_and_not_the_folder(images: Path, tmp_path: Path):
    base = planned(images, tmp_path, tuned(MAE)).node(tuned(MAE), 0)
    assert planned(images, tmp_path / "elsewhere", tuned(MAE)).node(tuned(MAE), 0).address == base.address
    more = planned(images, tmp_path, tuned(MAE), scale=SMOKE.with_seeds(2))
    assert more.node(tuned(MAE), 0).address == base.address, "another seed changes no run of this one"
    assert more.node(tuned(MAE), 1).address != base.address
    longer = dataclasses.replace(SMOKE.methods["mae"], changes={**SMOKE.methods["mae"].changes, "encoder.depth": 2})
    other = dataclasses.replace(SMOKE, methods={**SMOKE.methods, "mae": longer})
    assert planned(images, tmp_path, tuned(MAE), scale=other).node(tuned(MAE), 0).address != base.address


def test_an_address_follows_the_images(images: Path, tmp_path: Path):
    fewer = write_images(tmp_path / "fewer", train=12)
    first, second = (planned(data, tmp_path, SUPERVISED).node(SUPERVISED, 0) for data in (images, fewer))
    assert first.address != second.address


def test_no_block_kept_is_from_scratch_and_all_kept_is_fine_tuning(images: Path, tmp_path: Path):
    steps = [tuned(MAE, keep=k) for k in (0, 4, 12)] + [tuned(MAE), Finetune(None, "impr-100")]
    none, some, every, whole, scratch = (
        planned(images, tmp_path, *steps).node(step, 0).address for step in steps
    )  # fmt: skip
    assert none == scratch
    assert every == whole
    assert len({none, some, every}) == 3


def test_a_number_of_blocks_that_the_scale_leaves_out_says_so(images: Path, tmp_path: Path):
    plan = planned(images, tmp_path, tuned(MAE, keep=2))
    assert plan.absent[tuned(MAE, keep=2)] == "not part of this scale, which keeps 0, 4, 8, 12 of 12"
    assert not [n for n in plan.nodes.values() if n.kind == "finetune"]


def test_all_seeds_share_one_teacher(images: Path, tmp_path: Path):
    plan = planned(images, tmp_path, DMAE, scale=SMOKE.with_seeds(3))
    assert len([n for n in plan.nodes.values() if n.title == "teacher"]) == 1
    teacher = plan.node(DMAE, 2).teacher
    assert teacher == plan.node(DMAE, 0).teacher
    assert plan.node(DMAE, 0).recipe["objective"]["teacher"] == "", "its place on the disk decides no number"
    assert isinstance(TEACHER, Pretrain)


def test_a_distilled_block_is_counted_in_twelfths(images: Path, tmp_path: Path):
    step = Pretrain("dmae", teacher=TEACHER, distil=(4,))
    assert planned(images, tmp_path, step).node(step, 0).recipe["objective"]["layers"] == [[1, 1]]
    every = Pretrain("dmae", teacher=TEACHER, distil=(2, 4, 6, 8, 10, 12))
    assert planned(images, tmp_path, every).node(every, 0).recipe["objective"]["layers"] == [[1, 1], [2, 2], [3, 3]]


def test_subsets_are_trained_on_for_as_many_steps(images: Path, tmp_path: Path):
    step = Pretrain("mae", "imagenet-1")
    node = planned(images, tmp_path, step, MAE).node(step, 0)
    assert node.subset == "40%"
    assert node.recipe["budget"]["epoch_of"] == "whole"
    assert node.images_seen == planned(images, tmp_path, MAE).node(MAE, 0).images_seen


def test_the_paper_scale_without_its_data_keeps_every_row(images: Path, tmp_path: Path):
    paper = scale_by_name("paper")
    plan = make_plan(chosen(["all"]).stages(), paper, data=images, out=tmp_path)
    assert not plan.nodes
    assert plan.absent[SUPERVISED] == f"needs: {images / 'imagenet'}, which is not there"


def test_too_few_classes_are_refused(tmp_path: Path):
    root = write_images(tmp_path / "three")
    for split in ("train", "test"):
        for image in (root / split / "red").iterdir():
            image.unlink()
        (root / split / "red").rmdir()
    with pytest.raises(DataError, match="3 classes"):
        planned(root, tmp_path / "out", SUPERVISED)
