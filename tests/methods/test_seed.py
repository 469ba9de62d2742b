from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.objective import Step
from vitlet.methods.seed import SEED, similarity_loss
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.recipes import all_recipes, with_overrides
from vitlet.recipes.seed import SEEDObjective, seed_micro
from vitlet.weights.folder import write_model
from vitlet.weights.source import evaluation_view
from vitlet.weights.teacher import FeatureTeacher, load_encoder_teacher

SMALL = ConvNetConfig(architecture="test_efficientnet", image_size=32, output_stride=8)
TEACHER = EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=3)


def batch(count: int = 6, *, key: int = 0) -> Batch:
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(key)).to(torch.uint8)
    return Batch((images,), torch.full((count,), -1), torch.arange(count), torch.arange(count))


def objective(queue: int = 16) -> SEED:
    teacher = FeatureTeacher(Encoder(TEACHER, seed=9), {"source": "there"})
    return SEED(ConvEncoder(SMALL), teacher, pool="mean", queue=queue)


def step(index: int = 0) -> Step:
    return Step(index, 10, 0)


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))), dim=1)


def test_the_loss_is_the_naive_one() -> None:
    student, teacher, queue = unit(4, 8), unit(5, 8)[:4], unit(10, 8)
    loss, entropy = similarity_loss(student, teacher, queue, student_temperature=0.2, teacher_temperature=0.01)
    naive = 0.0
    for s, t in zip(student, teacher, strict=True):
        images = torch.cat([t[None], queue])
        p = (images @ t / 0.01).softmax(dim=0)
        naive -= float((p * (images @ s / 0.2).softmax(dim=0).log()).sum()) / 4
    assert float(loss) == pytest.approx(naive, rel=1e-5)
    assert 0 <= float(entropy) <= float(loss)
    same, least = similarity_loss(teacher, teacher, queue, student_temperature=0.2, teacher_temperature=0.2)
    assert float(same) == pytest.approx(float(least))


def test_the_queue_holds_the_teachers_latest_features_however_the_batch_is_cut() -> None:
    whole, cut = objective(), objective()
    start = whole.queue.clone()
    whole.eval(), cut.eval()  # batch statistics would differ between the parts
    for index in range(4):
        images = batch(key=index)
        whole(images, step(index))
        whole.after_step(step(index))
        for part in images.parts(4):
            cut(part, step(index))
        cut.after_step(step(index))
    torch.testing.assert_close(cut.queue, whole.queue)
    assert int(whole.place) == 4 * 6 % 16
    with torch.no_grad():
        latest = F.normalize(whole.teacher.network.pooled(batch(key=3).images, "mean"), dim=1)
    places = (torch.arange(18, 24)) % 16
    torch.testing.assert_close(whole.queue[places], latest)
    assert not torch.equal(whole.queue, start)


def test_what_is_left_of_a_step_that_was_not_taken_does_not_enter_the_queue() -> None:
    made = objective()
    made(batch(key=5), step(0))
    made(batch(key=1), step(1))
    made.after_step(step(1))
    assert int(made.place) == 6


def test_the_teacher_is_not_trained_and_not_saved() -> None:
    made = objective()
    before = {k: v.clone() for k, v in made.teacher.network.state_dict().items()}
    made(batch(), step()).total.backward()
    assert all(p.grad is not None for p in made.parameters())
    assert not any("teacher" in name for name in made.state_dict())
    assert all(p.grad is None for p in made.teacher.network.parameters())
    assert all(torch.equal(before[k], v) for k, v in made.teacher.network.state_dict().items())
    assert made.provenance() == {"teacher": {"source": "there"}}


def test_the_loss_of_a_convnet_falls() -> None:
    made, images = objective(), batch(16)
    optimizer = torch.optim.AdamW(made.parameters(), lr=2e-3)
    losses = []
    for index in range(20):
        optimizer.zero_grad()
        loss = made(images, step(index)).total
        loss.backward()
        optimizer.step()
        made.after_step(step(index))
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("student", [SMALL, TEACHER], ids=["convnet", "vit"])
def test_a_convnet_teaches_by_the_mean_of_its_map(student: ConvNetConfig | EncoderConfig, tmp_path: Path) -> None:
    """Also where a ViT beside it is read at its class token; the control is distillation, which looks at attention."""
    network = ConvEncoder(SMALL, seed=9)
    write_model(tmp_path / "net", encoder=network, evaluation=evaluation_view(32), facts={"licence": "none"})
    encoder = ConvEncoder(SMALL) if isinstance(student, ConvNetConfig) else Encoder(student)
    values = SEEDObjective(teacher=str(tmp_path / "net"), queue=16)
    made = values.build(encoder, num_classes=0, seed=0)
    assert (made.teacher_pool, made.student_pool) == ("mean", "mean" if student is SMALL else "class")
    images = batch()
    made(images, step()).total.backward()
    made.after_step(step())
    with torch.no_grad():
        known = F.normalize(network.eval().pooled(images.images, "mean"), dim=1)
    torch.testing.assert_close(made.queue[:6], known)
    assert made.provenance()["teacher"]["licence"] == "none"
    assert not made.teacher.network.training
    with pytest.raises(UsageError, match=r"is a ConvNet.*match its attention"):
        load_encoder_teacher(str(tmp_path / "net"), like=TEACHER)


def test_the_class_token_of_a_teacher_without_a_final_norm_is_refused() -> None:
    teacher = FeatureTeacher(Encoder(TEACHER.changed(final_norm=False), seed=9), {})
    assert SEED(ConvEncoder(SMALL), teacher, pool="mean", queue=16).teacher_pool == "mean"
    with pytest.raises(UsageError, match=r"no final norm.*Fix: objective\.pool=mean"):
        SEED(ConvEncoder(SMALL), teacher, pool="class", queue=16)


def test_recipes_that_need_patches_refuse_a_convnet_and_seed_takes_both() -> None:
    for name in ("mae_micro", "finetune_micro"):
        with pytest.raises(UsageError, match="a ConvNet has no patches"):
            with_overrides(all_recipes()[name](), {"encoder.kind": "convnet"})
    vit = EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=3)
    assert seed_micro().changed(encoder=vit).encoder == vit
    assert seed_micro().encoder.kind == "convnet"


def test_what_cannot_work_is_refused_when_the_recipe_is_made() -> None:
    with pytest.raises(UsageError, match="layer decay has no effect"):
        with_overrides(seed_micro(), {"optimizer.layer_decay": 0.8})
    with pytest.raises(UsageError, match="a queue of 100 images for batches of 128"):
        with_overrides(seed_micro(), {"objective.queue": 100})
    with pytest.raises(UsageError, match=r"teacher"):
        seed_micro().objective.build(ConvEncoder(SMALL), num_classes=0, seed=0)


def test_efficientnet_b0_is_the_papers_student() -> None:
    encoder = ConvEncoder(all_recipes()["seed_effb0"]().encoder)  # type: ignore[arg-type]
    assert sum(p.numel() for p in encoder.parameters()) == 4_007_548  # 5.29 M with 1000 classes
    assert encoder.width == 1280
