"""Speed of a training step of the paper's detector, relative to torchvision's Mask R-CNN with a ResNet-50-FPN.

A step is forward, backward and AdamW on the same images with the same objects. The two networks differ in kind and
size, so the ratio tells what choosing ours costs or saves, not how well either is written. They take turns in one
process on one thread and are timed in CPU seconds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

from vitlet.data.batch import Batch, Targets
from vitlet.evaluation.pace import conditions, one_thread, take_turns
from vitlet.methods.detection import Detection
from vitlet.methods.objective import Step
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.recipe import EncoderConfig
from vitlet.recipes.detection import DetectionObjective

_SEED = 0
_CLASSES = 80
_OBJECTS = 8


def bench(
    *,
    repeats: int = 3,
    size: int = 640,
    batch_size: int = 1,
    encoder: EncoderConfig | None = None,
    objective: DetectionObjective | None = None,
    reference: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Time both in turns, after one warm-up turn.

    Args:
        repeats: Number of timed turns.
        size: Side of the square images in pixels.
        batch_size: Images per step.
        encoder: Shape of our encoder; None: ViT-Tiny.
        objective: Sizes of our detector; None: the paper's, which are ViTDet's.
        reference: Further arguments for torchvision's model, which also samples 256 anchors and 512 regions per image.

    Returns:
        `ratio`: how many times faster ours is. `cpu_ms`: median of a step. `parameters` of both, and the conditions.
    """
    with one_thread():
        batch = _batch(size, batch_size)
        config = encoder or EncoderConfig(image_size=size, final_norm=False)
        ours = (objective or DetectionObjective()).build(Encoder(config), num_classes=_CLASSES, seed=_SEED)
        with seeded(_SEED):
            theirs = maskrcnn_resnet50_fpn(
                weights=None,
                weights_backbone=None,
                num_classes=_CLASSES + 1,
                min_size=size,
                max_size=size,
                **(reference or {}),
            )
        contenders = {"vitlet": _ours(ours, batch), "torchvision": _theirs(theirs, batch)}
        paces = take_turns({name: _seeded(step) for name, step in contenders.items()}, repeats=repeats)
    cpu_ms = {name: pace.cpu_ms for name, pace in paces.items()}
    return {
        "ratio": cpu_ms["torchvision"] / cpu_ms["vitlet"],
        "cpu_ms": cpu_ms,
        "parameters": {"vitlet": _count(ours), "torchvision": _count(theirs)},
        "size": size,
        "batch_size": batch_size,
        **conditions(repeats),
    }


def _batch(size: int, count: int) -> Batch:
    """Images of noise, with rectangles of all sizes as objects."""
    draw = torch.Generator().manual_seed(_SEED)
    targets = []
    for _ in range(count):
        corners = torch.rand(_OBJECTS, 2, 2, generator=draw).sort(dim=1).values * size
        corners[:, 1] = torch.maximum(corners[:, 1], corners[:, 0] + 4).clamp(max=size)
        corners[:, 0] = torch.minimum(corners[:, 0], corners[:, 1] - 4)
        masks = torch.zeros(_OBJECTS, size, size, dtype=torch.uint8)
        for mask, ((left, top), (right, bottom)) in zip(masks, corners.round().int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        labels = torch.randint(0, _CLASSES, (_OBJECTS,), generator=draw)
        targets.append(Targets(corners.flatten(1), labels, masks))
    images = torch.randint(0, 256, (count, 3, size, size), generator=draw).to(torch.uint8)
    return Batch((images,), torch.full((count,), -1), torch.arange(count), torch.arange(count), targets=tuple(targets))


def _ours(objective: Detection, batch: Batch) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        objective(batch, Step(0, 1, 0)).total.backward()
        optimizer.step()

    return step


def _theirs(model: torch.nn.Module, batch: Batch) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    images = list(batch.images.float() / 255)
    targets = [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks} for t in batch.targets]

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(model(images, targets).values())).sum().backward()
        optimizer.step()

    model.train()
    return step


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _seeded(step: Callable[[], None]) -> Callable[[], None]:
    """Make `step` draw the same each time: torchvision samples with the global generator."""

    def again() -> None:
        with seeded(_SEED):
            step()

    return again
