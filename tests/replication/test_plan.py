"""Runs are shared, addressed by what decides their numbers, and in an order in which they can be made."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_images import write_images

from vitlet.errors import DataError
from vitlet.recipe import Recipe
from vitlet.recipes.mae import mae_tiny_400e
from vitlet.recipes.mocov3 import mocov3_tiny_400e
from vitlet.replication.catalogue import chosen
from vitlet.replication.chains import (
    DISTILLED,
    DMAE,
    DMAE_TUNED,
    LOOK,
    LOOK_MASKED,
    MAE,
    MAE_TUNED,
    MOCOV3,
    SUPERVISED,
    TEACHER,
    distilled,
    pretrained_on,
    transferred,
    tuned,
)
from vitlet.replication.figures import FIGURE_7
from vitlet.replication.plan import Plan
from vitlet.replication.planner import _as_long_as_on, _recipe, make_plan
from vitlet.replication.scale import Treatment
from vitlet.replication.scales import scale_by_name
from vitlet.replication.steps import Evaluate, Finetune, Look, Needs, Pretrain, Table
from vitlet.replication.tables import detected
from vitlet.units import Steps

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


def test_no_block_kept_is_before_pre_training_and_all_kept_is_fine_tuning(images: Path, tmp_path: Path):
    steps = [tuned(MAE, keep=k) for k in (0, 4, 12)] + [tuned(MAE), Finetune(None, "scratch-impr-100")]
    none, some, every, whole, scratch = (planned(images, tmp_path, *steps).node(step, 0) for step in steps)
    assert every.address == whole.address
    assert len({node.address for node in (none, some, every, scratch)}) == 4
    assert (none.keep_blocks, scratch.keep_blocks, scratch.start) == (0, None, None)
    assert none.start == every.start, "its rule of initialisation and its positions"


def test_a_number_of_blocks_that_the_scale_leaves_out_says_so(images: Path, tmp_path: Path):
    plan = planned(images, tmp_path, tuned(MAE, keep=2))
    assert plan.absent[tuned(MAE, keep=2)] == "this scale keeps 0, 4, 8, 12 of 12"
    assert not [n for n in plan.nodes.values() if n.kind == "finetune"]


def test_all_seeds_share_one_teacher(images: Path, tmp_path: Path):
    plan = planned(images, tmp_path, DMAE, scale=SMOKE.with_seeds(3))
    assert len([n for n in plan.nodes.values() if n.title == "teacher"]) == 1
    teacher = plan.node(DMAE, 2).teacher
    assert teacher == plan.node(DMAE, 0).teacher
    assert plan.node(DMAE, 0).recipe["objective"]["teacher"] == "", "its place on the disk decides no number"
    assert isinstance(TEACHER, Pretrain)


@pytest.mark.parametrize(("look", "of"), [(LOOK_MASKED, MAE), (LOOK, MOCOV3)])
def test_the_control_of_a_look_is_the_network_of_the_method_and_not_the_supervised_one(
    look: Look, of: Pretrain, images: Path, tmp_path: Path
):
    """The supervised network also starts from another rule of initialisation and other positions."""
    plan = planned(images, tmp_path, look, of, scale=SMOKE.with_seeds(2))
    node, other = plan.node(look, 0), plan.node(look, 1)
    (control,) = node.untrained
    (name,) = (name for name, step in look.subjects if step == of)
    assert node.subjects[control] == (f"untrained {name}", plan.node(of, 0).folder)
    assert (other.seed, other.untrained) == (1, (control,))
    trained = Look((*look.subjects[:-1], ("twice", of)))
    assert planned(images, tmp_path, trained).node(trained, 0).address != node.address


def test_a_distilled_block_is_counted_in_twelfths(images: Path, tmp_path: Path):
    step = Pretrain("dmae", teacher=TEACHER, distil=(4,))
    assert planned(images, tmp_path, step).node(step, 0).recipe["objective"]["layers"] == [[1, 1]]
    every = distilled(*DISTILLED[-1])
    assert planned(images, tmp_path, every).node(every, 0).recipe["objective"]["layers"] == [[1, 1], [2, 2], [3, 3]]


def test_subsets_are_trained_on_for_as_many_steps(images: Path, tmp_path: Path):
    step = Pretrain("mae", "imagenet-1")
    node = planned(images, tmp_path, step, MAE).node(step, 0)
    assert node.subset == "40%"
    assert node.recipe["budget"]["epoch_of"] == "whole"
    assert node.images_seen == planned(images, tmp_path, MAE).node(MAE, 0).images_seen


def test_a_larger_set_is_trained_on_for_as_many_steps_as_imagenet(everything: Path, tmp_path: Path):
    """400 epochs of ImageNet-21k would be eleven times as many; the control is a run that counts its own epochs."""
    steps = [pretrained_on(method, data) for method in ("mae", "mocov3") for data in ("imagenet", "imagenet-21k")]
    plan = planned(everything, tmp_path, *steps, scale=scale_by_name("paper"))
    for whole, larger in (steps[:2], steps[2:]):
        first, second = plan.node(whole, 0), plan.node(larger, 0)
        assert second.images_seen == first.images_seen
        assert second.recipe["budget"]["duration"]["unit"] == second.recipe["optimizer"]["warmup"]["unit"] == "steps"
        own = dataclasses.replace(second, recipe=first.recipe, train_images=11 * first.train_images)
        assert own.images_seen > 2 * first.images_seen


@pytest.mark.parametrize(("recipe", "steps", "warmup"), [(mae_tiny_400e, 124_800, 12_480),
                                                         (mocov3_tiny_400e, 500_400, 50_040)])  # fmt: skip
def test_the_steps_of_the_paper_stay_on_any_set(recipe: Callable[[], Recipe], steps: int, warmup: int):
    found = _as_long_as_on(1_281_167, recipe())
    assert (found.budget.duration, found.optimizer.warmup) == (Steps(n=steps), Steps(n=warmup))
    assert found.budget.checkpoint_every == Steps(n=steps // 400)


def test_with_its_data_every_row_of_the_paper_plans_its_chain(everything: Path, tmp_path: Path):
    choice = chosen(["all"])
    plan = make_plan(choice.stages(), scale_by_name("paper"), data=everything, out=tmp_path)
    assert not plan.absent
    needy = [cell.step for item in choice.items if isinstance(item, Table) for row in item.rows for cell in row.cells]
    unknown = "the paper's appendix, whose contents are not known"
    needs = [step.what for step in needy if isinstance(step, Needs)]
    assert needs == ["the names of the paper's reference models", unknown, unknown]
    kinds = {node.kind for node in plan.nodes.values()}
    assert kinds == {"weights", "pretrain", "finetune", "evaluate", "probe", "look"}
    detector = plan.node(detected(MAE), 0)
    assert (detector.train_images, detector.test_images) == (6, 3), "boxes are labels enough"
    teachers = {node.teacher for node in plan.nodes.values() if node.title.startswith("dmae")}
    assert teachers == {everything / "weights/mae-base"}
    taught = plan.node(Finetune(MAE, "taught", teacher=Pretrain("regnet")), 0)
    assert str(taught.teacher) == f"timm:regnety_160@{everything}/weights/regnety_160.safetensors"


def test_weights_that_are_given_are_known_by_their_head_count_too(everything: Path, tmp_path: Path):
    """The same tensors with 3 heads are another network, and what is learned from it another run."""
    stages, paper = chosen(["all"]).stages(), scale_by_name("paper")
    first, config = everything / "weights/mae-base", everything / "weights/mae-base/config.json"
    plans = [make_plan(stages, paper, data=everything, out=tmp_path)]
    for written in ({"model_args": {"num_heads": 12}}, {"model_args": {"num_heads": 3}}):
        config.write_text(json.dumps(written, indent=1))
        plans.append(make_plan(stages, paper, data=everything, out=tmp_path))
    same, again, other = (
        {node.title: node.address for node in plan.nodes.values() if node.folder == first or node.teacher == first}
        for plan in plans
    )
    assert len(same) > 1, "the teacher and its student"
    assert same == again, "the control: the same values, written otherwise"
    assert not set(same.values()) & set(other.values())


def test_all_in_figure_7_is_every_block_of_the_paper(everything: Path, tmp_path: Path):
    """Not every second one, of which a network of half the depth shows nothing."""
    cells = FIGURE_7.rows[0].cells
    plan = planned(everything, tmp_path, *(cell.step.start for cell in cells), scale=scale_by_name("paper"))
    layers = {c.column: plan.node(c.step.start, 0).recipe["objective"]["layers"] for c in cells}
    assert layers["all"] == [[block, block] for block in range(1, 13)]
    assert [layers[str(k)] for k in range(2, 13, 2)] == [[[k, k]] for k in range(2, 13, 2)]
    assert plan.node(distilled(*DISTILLED[-1]), 0).title == "dmae of all blocks"


def test_what_is_missing_is_named_and_costs_its_own_rows_alone(everything: Path, tmp_path: Path):
    paper, stages = scale_by_name("paper"), chosen(["table-2", "table-4", "table-5"]).stages()
    (everything / "coco").unlink()
    (everything / "pets").unlink()
    shutil.rmtree(everything / "weights/mae-base")
    plan = make_plan(stages, paper, data=everything, out=tmp_path)
    assert plan.absent[detected(MAE)] == f"needs {everything / 'coco'}, which is not there"
    assert plan.absent[DMAE_TUNED] == f"needs {everything / 'weights/mae-base'}, which is not there"
    assert plan.absent[transferred(MAE, "pets")].startswith("needs Pets"), "torchvision's place was asked too"
    assert plan.node(Evaluate(MAE_TUNED, "real", "imagenet-val"), 0).labels == "real"


def test_settings_of_a_transfer_are_runs_of_their_own(everything: Path, tmp_path: Path):
    """So that a cluster tries them at once, and a kill loses one of them."""
    steps = [transferred(MAE, "flowers"), transferred(MAE, "inat18")]
    plan = make_plan([steps], scale_by_name("paper"), data=everything, out=tmp_path)
    flowers, inat = (plan.node(step, 0) for step in steps)
    tried = [plan.nodes[a] for a in flowers.inputs if plan.nodes[a].hold_out]
    assert len(tried) == len(flowers.settings) == 12
    assert len({(n.recipe["optimizer"]["base_lr"], n.recipe["optimizer"]["layer_decay"]) for n in tried}) == 6
    assert (inat.settings, inat.hold_out) == ((), False), "no grid: the recipe as it is"


def test_the_paper_scale_without_its_data_keeps_every_row(images: Path, tmp_path: Path):
    paper = scale_by_name("paper")
    plan = make_plan(chosen(["all"]).stages(), paper, data=images, out=tmp_path)
    assert not plan.nodes
    assert plan.absent[SUPERVISED] == f"needs {images / 'imagenet'}, which is not there"


def test_too_few_classes_are_refused(tmp_path: Path):
    root = write_images(tmp_path / "three")
    for split in ("train", "test"):
        for image in (root / split / "red").iterdir():
            image.unlink()
        (root / split / "red").rmdir()
    with pytest.raises(DataError, match="3 classes"):
        planned(root, tmp_path / "out", SUPERVISED)


def test_a_class_that_vanished_is_no_smaller_data_set(everything: Path, tmp_path: Path):
    """With red among the folders, but without an image of it, the halves would be other classes."""
    root = write_images(tmp_path / "red")
    for image in root.glob("*/red/*"):
        image.unlink()
    with pytest.raises(DataError, match="1 class without an image: red"):
        planned(root, tmp_path / "out", SUPERVISED)
    (everything / "pets").unlink()
    (everything / "pets").symlink_to(root)
    plan = planned(everything, tmp_path, transferred(MAE, "pets"), scale=scale_by_name("paper"))
    assert plan.absent[transferred(MAE, "pets")].endswith("(1 class without an image: red)")


def test_a_batch_of_all_images_leaves_none_without_a_partner_to_mix_with():
    treatment = Treatment("finetune_tiny_impr_300e")
    assert _recipe(treatment, 0, available=15).budget.batch_size == 14
    assert _recipe(Treatment("mae_tiny_400e"), 0, available=15).budget.batch_size == 15
