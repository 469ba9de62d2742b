"""DINO: the loss against a naive one, centre and temperature, the frozen prototypes, crops."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.dino import DINO, Temperatures, self_distillation
from vitlet.methods.objective import Step
from vitlet.nn.encoder import Encoder
from vitlet.nn.projection import PrototypeHead
from vitlet.recipe import EncoderConfig
from vitlet.recipes import with_overrides
from vitlet.recipes.dino import dino_micro, dino_tiny_100e

TINY = EncoderConfig(image_size=16, patch_size=4, width=24, depth=2, heads=2)


def _objective(encoder: EncoderConfig = TINY, **changes: Any) -> DINO:
    head = PrototypeHead(24, hidden=32, bottleneck=8, prototypes=12, seed=0)
    return DINO(Encoder(encoder), head=head, **changes)


def _batch(size: int = 6, *, num_small: int = 2) -> Batch:
    draw = torch.Generator().manual_seed(3)
    sides = [16, 16, *[8] * num_small]
    views = tuple(torch.randint(256, (size, 3, s, s), dtype=torch.uint8, generator=draw) for s in sides)
    return Batch(views, torch.full((size,), -1), torch.arange(size), torch.arange(size))


def _step(index: int = 0, total: int = 10) -> Step:
    return Step(index=index, total=total, seed=0)


def _loss(objective: DINO, batch: Batch, index: int = 0) -> Tensor:
    return objective(batch, _step(index)).total.detach()


def test_batch_norm_in_the_head_tells_images_apart_whose_tokens_are_alike() -> None:
    """The control is the head without it: nearly equal tokens stay so."""
    tokens = torch.ones(16, 24) + 0.01 * torch.randn(16, 24, generator=torch.Generator().manual_seed(0))

    def spread(*, batchnorm: bool) -> float:
        head = PrototypeHead(24, hidden=32, bottleneck=8, prototypes=12, seed=0, batchnorm=batchnorm)
        return float(head(tokens).detach().std(dim=0).mean())

    assert spread(batchnorm=True) > 10 * spread(batchnorm=False)


def test_a_head_with_batch_norm_couples_the_images_of_a_batch() -> None:
    assert dino_micro().objective.couples_samples
    assert not dino_tiny_100e().objective.couples_samples, "as the DINO authors' recipes have it"


def test_self_distillation_is_the_naive_loss() -> None:
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(5, 3, 7, generator=draw)
    teacher = torch.randn(2, 3, 7, generator=draw).softmax(dim=-1)
    pairs = [(a, g) for a in range(2) for g in range(5) if a != g]
    naive = sum(-(teacher[a] * student[g].log_softmax(-1)).sum(-1).mean() for a, g in pairs) / len(pairs)
    torch.testing.assert_close(self_distillation(student, teacher), naive)


def test_the_loss_is_that_of_a_naive_pass_over_the_views_one_by_one() -> None:
    """With the class token, as published, and with the mean of the patch tokens; each is the other's control."""
    losses = []
    for pool, seen in (("class", lambda tokens: tokens[:, 0]), ("mean", lambda tokens: tokens[:, 1:].mean(dim=1))):
        objective, batch = _objective(temperatures=Temperatures(teacher=(0.05, 0.05)), pool=pool), _batch()
        objective.centre.copy_(torch.linspace(-0.1, 0.1, 12))
        student = [objective.head(seen(objective.encoder(view))) / 0.1 for view in batch.views]
        teacher = [
            ((objective.teacher_head(seen(objective.teacher_encoder(view))) - objective.centre) / 0.05).softmax(-1)
            for view in batch.views[:2]
        ]
        naive = self_distillation(torch.stack(student), torch.stack(teacher)).detach()
        torch.testing.assert_close(_loss(objective, batch), naive)
        losses.append(naive)
    assert not torch.isclose(*losses, rtol=1e-4)


def test_the_teacher_equals_the_student_at_the_start_and_follows() -> None:
    objective = _objective(momentum=0.9)
    pairs = [(objective.teacher_encoder, objective.encoder), (objective.teacher_head, objective.head)]
    twins = [(a, b) for copy, own in pairs for a, b in zip(copy.parameters(), own.parameters(), strict=True)]
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in twins)
    objective(_batch(), _step())
    with torch.no_grad():
        for _, own in twins:
            own.add_(1.0)
    before = [copy.clone() for copy, _ in twins]
    objective.after_step(_step(0))
    for old, (moved, own) in zip(before, twins, strict=True):
        torch.testing.assert_close(moved.data, 0.9 * old + 0.1 * own.data)


def test_gradients_reach_the_student_and_nothing_else() -> None:
    objective = _objective()
    objective(_batch(), _step()).total.backward()
    reached = {name for name, p in objective.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {name for name, p in objective.named_parameters() if p.requires_grad}
    assert not any(name.startswith("teacher") for name in reached)


def test_the_prototypes_are_frozen_for_as_many_steps_as_asked() -> None:
    objective = _objective(freeze_prototypes_steps=2)
    for index, frozen in ((0, True), (1, True), (2, False)):
        objective.zero_grad()
        objective(_batch(), _step(index)).total.backward()
        assert (objective.head.prototypes.weight.grad is None) is frozen
        assert objective.head.mlp[0].weight.grad is not None


def test_scores_are_cosines() -> None:
    head = PrototypeHead(24, hidden=32, bottleneck=8, prototypes=12, seed=0)
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    scores = head(x)
    assert float(scores.detach().abs().max()) <= 1
    with torch.no_grad():
        head.prototypes.weight.mul_(7.0)  # the length of a prototype does not count
    torch.testing.assert_close(head(x), scores)


def test_the_centre_follows_the_mean_teacher_output_however_the_batch_is_cut() -> None:
    whole, cut = _objective(centre_momentum=0.75), _objective(centre_momentum=0.75)
    batch = _batch()
    whole(batch, _step())
    for part in batch.parts(4):  # of four and of two
        cut(part, _step())
    with torch.no_grad():
        seen = whole.teacher_head(whole.teacher_encoder(torch.cat(batch.views[:2]))[:, 0]).mean(dim=0)
    for objective in (whole, cut):
        objective.after_step(_step())
        torch.testing.assert_close(objective.centre, 0.25 * seen)
    before = whole.centre.clone()
    whole(batch, _step(1))
    assert torch.equal(whole.centre, before)  # within a step it stays


def test_the_teachers_temperature_warms_up() -> None:
    objective = _objective(temperatures=Temperatures(teacher=(0.02, 0.08), warmup_steps=4))
    batch = _batch()
    entropies = [float(objective(batch, _step(i)).statistics["teacher_entropy_nats"]) for i in (0, 2, 4, 6)]
    assert entropies[0] < entropies[1] < entropies[2] == entropies[3]
    constant = _objective(temperatures=Temperatures(teacher=(0.05, 0.05)))
    assert float(_loss(objective, batch, 2)) == pytest.approx(float(_loss(constant, batch)), rel=1e-6)


def test_drop_path_is_the_students_and_does_not_depend_on_the_cut() -> None:
    dropping, batch = _objective(TINY.changed(drop_path=0.5)), _batch()
    plain = _objective()
    one, other = dropping(batch, _step()), plain(batch, _step())
    assert not torch.equal(one.total, other.total)
    assert torch.equal(one.statistics["teacher_entropy_nats"], other.statistics["teacher_entropy_nats"])
    halves = [_loss(dropping, part) for part in batch.parts(3)]
    torch.testing.assert_close(torch.stack(halves).mean(), one.total.detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.views.3.size": 18}, r"18 pixels does not divide into patches of 4.*data\.views\.3\.size=16"),
        ({"data.views.2.size": 64}, r"64 pixels is larger than the large ones of 32.*data\.views\.2\.size=16"),
        ({"data.views.1.size": 16}, r"two large views of one size"),
        ({"budget.batch_size": 1}, r"a batch of one image.*batch normalisation.*--batch-size 2 or more"),
    ],
)
def test_recipes_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_overrides(dino_micro(), changes)
