"""MoCo-v3: the loss against five lines, the published size, who learns and who follows."""

import math
from typing import Any

import pytest
import torch

from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.mocov3 import MoCoV3, info_nce
from vitlet.methods.objective import Step
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig
from vitlet.recipes import with_overrides
from vitlet.recipes.mocov3 import mocov3_micro, mocov3_tiny_400e

TINY = EncoderConfig(
    image_size=16,
    patch_size=8,
    width=24,
    depth=1,
    heads=2,
    position="sincos",
    sincos_order="row-column",
    init="moco",
)


def _objective(**changes: Any) -> MoCoV3:
    return MoCoV3(Encoder(TINY), hidden_width=32, output_width=16, **changes)


def _batch(size: int = 8) -> Batch:
    draw = torch.Generator().manual_seed(3)
    views = tuple(torch.randint(256, (size, 3, 16, 16), dtype=torch.uint8, generator=draw) for _ in range(2))
    return Batch(views, torch.full((size,), -1), torch.arange(size), torch.arange(size))


def _step(index: int, total: int = 10) -> Step:
    return Step(index=index, total=total, seed=0)


def test_info_nce_is_the_naive_loss() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(3, 8, generator=draw), torch.randn(7, 8, generator=draw)
    naive = 0.0
    for i, query in enumerate(queries):
        cosines = [float(query @ key / query.norm() / key.norm()) / 0.2 for key in keys]
        naive += math.log(sum(math.exp(c) for c in cosines)) - cosines[2 + i]
    assert float(info_nce(queries, keys, own=2, temperature=0.2)) == pytest.approx(0.4 * naive / 3, rel=1e-5)


def test_the_loss_is_both_directions_of_a_naive_pass() -> None:
    objective, batch = _objective(), _batch()
    loss = objective(batch, _step(0)).total
    twin = _objective()  # its batch norms have seen nothing yet
    q, k = ([], [])
    for view in batch.views:
        q.append(twin.predictor(twin.projector(twin.encoder(view)[:, 0])))
        k.append(twin.momentum_projector(twin.momentum_encoder(view)[:, 0]))
    naive = sum(info_nce(a, b, own=0, temperature=0.2) for a, b in ((q[0], k[1]), (q[1], k[0])))
    torch.testing.assert_close(loss, naive)


def test_the_papers_network_has_its_parameters_and_tensors() -> None:
    recipe = mocov3_tiny_400e()
    objective = recipe.objective.build(Encoder(recipe.encoder), num_classes=0, seed=0)
    assert sum(p.numel() for p in objective.parameters()) == 50_411_392
    assert len(objective.state_dict()) == 342


def test_the_start_is_moco_v3s() -> None:
    vit = Encoder(EncoderConfig(position="sincos", sincos_order="row-column", init="moco", depth=1)).vit
    assert vit.cls_token is not None
    assert 0 < float(vit.cls_token.detach().abs().max()) < 1e-5
    bound = {"attn.qkv": 6 / (192 + 192), "mlp.fc1": 6 / (192 + 768), "attn.proj": 6 / (192 + 192)}
    for name, square in bound.items():
        largest = float(vit.blocks[0].get_submodule(name).weight.detach().abs().max())
        assert 0.99 * square**0.5 < largest <= square**0.5, name
    assert not any(bool(p.any()) for n, p in vit.named_parameters() if n.endswith("bias"))
    projection = vit.patch_embed.proj.weight.detach()
    assert 0.99 < float(projection.abs().max()) / (6 / (3 * 16 * 16 + 192)) ** 0.5 <= 1
    assert vit.pos_embed is not None
    first, below = vit.pos_embed[0, 1], vit.pos_embed[0, 1 + 14]
    assert not torch.equal(first[:96], below[:96])  # the first half tells the rows apart
    assert torch.equal(first[96:], below[96:])


def test_the_copy_equals_the_student_at_the_start_and_follows_by_the_schedule() -> None:
    objective = _objective()
    pairs = [
        (objective.momentum_encoder, objective.encoder),
        (objective.momentum_projector, objective.projector),
    ]
    twins = [(a, b) for copy, own in pairs for a, b in zip(copy.parameters(), own.parameters(), strict=True)]
    assert all(torch.equal(a, b) for a, b in twins)
    with torch.no_grad():
        for p in objective.parameters():
            if p.requires_grad:
                p.add_(1.0)
    before = [a.clone() for a, _ in twins]
    objective.after_step(_step(2))
    coming = 1 - 0.5 * (1 + math.cos(math.pi * 3 / 10)) * (1 - 0.99)  # m of iteration 3, whose keys come next
    for old, (moved, own) in zip(before, twins, strict=True):
        torch.testing.assert_close(moved.data, coming * old + (1 - coming) * own.data)


@pytest.mark.parametrize("train_patches", [True, False])
def test_gradients_reach_what_is_trained_and_nothing_else(train_patches: bool) -> None:
    objective = _objective(train_patches=train_patches)
    objective(_batch(), _step(0)).total.backward()
    reached = {name for name, p in objective.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {name for name, p in objective.named_parameters() if p.requires_grad}
    assert ("encoder.vit.patch_embed.proj.weight" in reached) is train_patches
    assert not any(name.startswith("momentum") for name in reached)


def test_a_view_and_its_copy_are_found() -> None:
    batch = _batch()
    same = Batch((batch.images, batch.images), batch.labels, batch.positions, batch.slots)
    objective = _objective()
    objective.predictor = torch.nn.Sequential()
    losses = objective(same, _step(0))
    assert float(losses.statistics["pairs_found"]) == 1.0
    assert float(losses.total.detach()) < float(objective(batch, _step(0)).total.detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget.batch_size": 1}, r"batch of one image.*--batch-size 2"),
        ({"data.views.1.size": 16}, r"two views of one size.*\[32, 16\].*data\.views"),
    ],
)
def test_recipes_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_overrides(mocov3_micro(), changes)
