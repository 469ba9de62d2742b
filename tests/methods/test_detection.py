"""Detection: sizes of the paper's model, images without objects, what it finds."""

import torch

from vitlet.data.batch import Batch, Targets
from vitlet.methods.detection import Detection
from vitlet.methods.objective import Step
from vitlet.nn.encoder import Encoder
from vitlet.recipes import by_name


def debug(*, masks: bool = True, seed: int = 0) -> Detection:
    recipe = by_name("debug_detection")
    objective = recipe.objective.changed(masks=masks)
    return objective.build(Encoder(recipe.encoder, seed=seed), num_classes=3, seed=seed)


def batch(*boxes: tuple[float, float, float, float]) -> Batch:
    """One image of 32 px with objects of class 1, whose masks are their boxes."""
    masks = torch.zeros(len(boxes), 32, 32, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
    image = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    targets = Targets(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.ones(len(boxes), dtype=torch.int64), masks
    )
    return Batch((image,), torch.tensor([-1]), torch.tensor([0]), torch.tensor([0]), targets=(targets,))


STEP = Step(0, 10, 0)


def test_an_image_without_objects_is_a_negative() -> None:
    objective = debug()
    losses = objective(batch(), STEP)
    losses.total.backward()
    assert losses.terms["objectness"] > 0 < losses.terms["class"]
    assert {k for k, v in losses.terms.items() if v == 0} == {"proposal", "box", "mask"}
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def test_faster_r_cnn_has_no_mask() -> None:
    objective, images = debug(masks=False), batch((4, 4, 20, 20))
    assert set(objective(images, STEP).terms) == {"objectness", "proposal", "class", "box"}
    assert not any("mask" in name for name in objective.state_dict())
    found = objective.eval().detect(images.images)
    assert set(found[0]) == {"boxes", "labels", "scores"}


def test_it_finds_what_it_learned() -> None:
    objective, images = debug(), batch((5, 6, 21, 26))
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=2e-3)
    for step in range(60):
        optimizer.zero_grad()
        objective(images, Step(step, 60, 0)).total.backward()
        optimizer.step()
    with torch.inference_mode():
        (found,) = objective.eval().detect(images.images)
    assert found["labels"][0] == 1
    assert found["scores"][0] > 0.5
    torch.testing.assert_close(found["boxes"][0], torch.tensor([5.0, 6, 21, 26]), rtol=0, atol=3)
    assert found["masks"][0].mean() > 0.5
    assert (found["scores"].diff() <= 0).all()


def test_the_papers_detector_has_vitdets_sizes() -> None:
    recipe = by_name("detection_coco_100ep")
    with torch.device("meta"):
        detector = recipe.objective.build(Encoder(recipe.encoder), num_classes=80, seed=0).detector
    relative = [tuple(part.rows.shape) for part in detector.blocks.relative]
    assert relative == [(79, 16) if i in (2, 5, 8, 11) else (27, 16) for i in range(12)]
    heads = detector.regions
    assert heads.box_predictor.cls_score.out_features == 81
    assert heads.box_predictor.bbox_pred.out_features == 4 * 81
    convs = 4 * (256 * 256 * 9 + 2 * 256)
    assert sum(p.numel() for p in heads.box_head.parameters()) == convs + 256 * 49 * 1024 + 1024
    assert sum(p.numel() for p in heads.mask_head.parameters()) == convs
    assert detector.proposals.head.conv[1][0].weight.shape == (256, 256, 3, 3)
    assert detector.proposals.fg_bg_sampler.count == 256
    assert (heads.fg_bg_sampler.count, heads.fg_bg_sampler.most_positive) == (512, 128)
