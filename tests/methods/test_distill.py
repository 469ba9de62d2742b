"""Attention distillation: the loss is the naive one, the teacher is frozen, unseen by files, and stops in time."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.distill import AttentionDistillation, attention_loss, precision_of_teacher
from vitlet.methods.mae import MAE
from vitlet.methods.objective import Step
from vitlet.nn.encoder import Encoder, run_block
from vitlet.normalisation import IMAGENET, Normalisation
from vitlet.recipe import EncoderConfig, OptimizerConfig
from vitlet.recipes import by_name, with_overrides
from vitlet.train.optim import parameter_groups
from vitlet.weights.teacher import EncoderTeacher

STUDENT = EncoderConfig(image_size=32, patch_size=8, width=12, depth=2, heads=3, position="sincos")
TEACHER = STUDENT.changed(width=20, depth=4, heads=5)
STEP = Step(index=3, total=10, seed=0)
pytestmark = pytest.mark.usefixtures("fp32_teachers")
OTHER = Normalisation((0.2, 0.3, 0.4), (0.5, 0.6, 0.7))


def _stirred(module: nn.Module) -> None:
    """Weights of 0.02 make attention so flat that a wrong layer would hardly show."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype) * 0.3)


def _distillation(
    *,
    mae: dict[str, Any] | None = None,
    teacher: EncoderConfig = TEACHER,
    normalisation: Normalisation = OTHER,
    **options: Any,
) -> AttentionDistillation:
    student, other = Encoder(STUDENT, seed=1), Encoder(teacher, normalisation=normalisation, seed=2)
    _stirred(other)
    made = MAE(student, mask_ratio=0.5, decoder_width=12, **(mae or {}))
    return AttentionDistillation(
        made, EncoderTeacher(other, {"source": "a test", "licence": "none"}), **{"layers": [(2, 4)], **options}
    )


def _batch(count: int = 4) -> Batch:
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(count)
    return Batch((images,), torch.zeros(count, dtype=torch.long), numbers, numbers)


def _naive_attention(encoder: Encoder, images: Tensor, keep: Tensor, *, block: int) -> Tensor:
    """Scaled products of block `block` (from 1), image by image and head by head, by timm's own blocks below it."""
    vit, found = encoder.vit, []
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    scaled = (images / 255 - mean) / std
    embedded = vit.patch_embed(scaled) + vit.pos_embed[:, 1:]
    for b in range(len(images)):
        x = torch.cat([vit.cls_token + vit.pos_embed[:, :1], embedded[b : b + 1, keep[b]]], dim=1)
        for below in vit.blocks[: block - 1]:
            x = run_block(below, x)
        top = vit.blocks[block - 1]
        q, k, _ = top.attn.qkv(top.norm1(x))[0].chunk(3, dim=-1)
        width = q.shape[1] // top.attn.num_heads
        heads = zip(q.split(width, dim=1), k.split(width, dim=1), strict=True)
        found.append(torch.stack([one @ other.T / width**0.5 for one, other in heads]))
    return torch.stack(found)


@pytest.mark.parametrize("normalisation", [OTHER, IMAGENET], ids=["other pixels", "same pixels"])
@pytest.mark.parametrize("layers", [[(2, 4)], [(1, 1), (2, 3), (2, 4)]])
def test_the_loss_is_the_naive_one_on_the_patches_that_the_student_kept(
    layers: list[tuple[int, int]], normalisation: Normalisation
) -> None:
    objective, batch = _distillation(layers=layers, normalisation=normalisation, weight=0.5), _batch()
    losses = objective(batch, STEP)
    noise = objective.mae.noise(batch, STEP)
    keep = noise.argsort(dim=1, stable=True)[:, :8]
    expected = torch.zeros(())
    for mixer, (s, t) in zip(objective.mixers, layers, strict=True):
        student = _naive_attention(objective.encoder, batch.images, keep, block=s)
        teacher = _naive_attention(objective.teacher.network, batch.images, keep, block=t)
        mixed = sum(mixer.weight[:, a, None, None] * student[:, a, None] for a in range(3))
        expected = expected + ((mixed - teacher) ** 2).mean()
    torch.testing.assert_close(losses.terms["attention"], expected, rtol=1e-4, atol=1e-6)
    made = objective.mae.reconstruct(objective.encoder.patchify(batch.images), noise)
    torch.testing.assert_close(losses.terms["reconstruction"], F.mse_loss(made.predicted, made.target))
    torch.testing.assert_close(losses.total, losses.terms["reconstruction"] + 0.5 * losses.terms["attention"])


def test_the_class_token_is_matched_too() -> None:
    student, teacher = torch.zeros(2, 3, 5, 5), torch.zeros(2, 4, 5, 5)
    teacher[:, :, 0] = 1.0
    assert float(attention_loss(student, teacher, torch.ones(4, 3))) == pytest.approx(1 / 5)


def test_m_is_drawn_as_a_convolution_over_heads_would_be() -> None:
    many = _distillation(layers=[(2, 1)], teacher=TEACHER.changed(width=64, depth=1, heads=64))
    weight, bound = many.mixers[0].weight, 3**-0.5
    assert weight.shape == (64, 3)
    assert 0.95 * bound < weight.abs().max().item() <= bound
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.2)


def test_hidden_states_are_matched_after_a_linear_layer_at_the_points_the_paper_counts() -> None:
    objective, batch = _distillation(hidden=[(0, 1), (2, 4)], hidden_weight=0.25), _batch()
    losses = objective(batch, STEP)
    noise = objective.mae.noise(batch, STEP)
    keep = noise.argsort(dim=1, stable=True)[:, :8]
    rows = torch.arange(4)[:, None]
    student, teacher = objective.encoder, objective.teacher.network
    ours = student.encode(student.embed(batch.images)[rows, keep], keep, ["block.0.norm1"])
    theirs = teacher.encode(teacher.embed(batch.images)[rows, keep], keep, ["block.1.norm1"])
    low = F.mse_loss(objective.widen[0](ours.traced["block.0.norm1"]), theirs.traced["block.1.norm1"])
    high = F.mse_loss(objective.widen[1](ours.tokens), theirs.tokens)
    torch.testing.assert_close(losses.terms["hidden"], low + high)
    parts = losses.terms["reconstruction"] + losses.terms["attention"] + 0.25 * losses.terms["hidden"]
    torch.testing.assert_close(losses.total, parts)


def test_the_decoupled_variant_reads_a_lower_block_and_matches_an_extra_one() -> None:
    objective, batch = _distillation(mae={"read_after": 1}, layers=[(3, 4)], extra_block=True), _batch()
    noise, patches = objective.mae.noise(batch, STEP), objective.encoder.patchify(batch.images)
    made = objective.mae.reconstruct(patches, noise, trace=("block.1.output",))
    losses = objective(batch, STEP)
    teacher = _naive_attention(objective.teacher.network, batch.images, made.keep, block=4)
    extra = objective.extra
    assert extra is not None
    q, k = extra.query_key(extra.norm1(made.encoded.traced["block.1.output"])).chunk(2, dim=-1)
    heads = [q[..., a : a + 4] @ k[..., a : a + 4].mT / 2 for a in (0, 4, 8)]
    expected = attention_loss(torch.stack(heads, dim=1), teacher, objective.mixers[0].weight)
    torch.testing.assert_close(losses.terms["attention"], expected, rtol=1e-4, atol=1e-6)
    losses.terms["reconstruction"].backward(retain_graph=True)
    low, high = (block.attn.proj.weight for block in objective.encoder.blocks)
    assert low.grad is not None
    assert high.grad is None  # the decoder does not see the upper block; only the attention trains it
    losses.terms["attention"].backward()
    assert high.grad is not None
    assert high.grad.abs().sum() > 0
    assert not [name for name in objective.encoder.state_dict() if "blocks.2" in name]


def test_the_teacher_has_no_gradient_no_dropout_and_no_place_in_any_file() -> None:
    objective = _distillation()
    objective.train()
    objective(_batch(), STEP).total.backward()
    teacher = objective.teacher.network
    assert not teacher.training
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    sizes = {value.shape for value in teacher.state_dict().values()}
    assert not [k for k, v in objective.state_dict().items() if v.ndim > 1 and v.shape in sizes and "mixers" not in k]
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in objective.parameters()}
    assert objective.provenance() == {"teacher": {"source": "a test", "licence": "none"}}


def test_every_tensor_is_saved_once_and_has_the_layer_of_its_block() -> None:
    objective = _distillation()
    values = [value.data_ptr() for value in objective.state_dict().values()]
    assert len(values) == len(set(values))
    groups = parameter_groups(objective, OptimizerConfig(layer_decay=0.5), depth=2)
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    encoder = {scale for name, scale in scales.items() if name.startswith("mae.encoder.")}
    assert encoder == {0.125, 0.25, 0.5, 1.0}, "the patch embedding, two blocks, and the final norm"
    assert {scale for name, scale in scales.items() if not name.startswith("mae.encoder.")} == {1.0}
    names = {name for name, _ in objective.named_parameters()}
    assert {f"mae.encoder.{name}" for name, _ in objective.encoder.named_parameters()} <= names


def test_the_teacher_moves_with_its_owner() -> None:
    objective = _distillation().to(torch.float64)
    assert next(objective.teacher.network.parameters()).dtype == torch.float64


def test_the_teacher_stops_at_the_last_block_that_is_asked_for() -> None:
    objective = _distillation(layers=[(2, 3)])
    expected = objective(_batch(), STEP).total
    teacher = objective.teacher.network
    with torch.no_grad():
        for unused in (teacher.blocks[3], teacher.blocks[2].attn.proj, teacher.blocks[2].mlp, teacher.vit.norm):
            for parameter in unused.parameters():
                parameter.fill_(float("nan"))
        teacher.blocks[2].attn.qkv.weight[2 * 20 :] = float("nan")
    torch.testing.assert_close(objective(_batch(), STEP).total, expected, rtol=0, atol=0)
    with torch.no_grad():  # the control: what lies below is used
        teacher.blocks[1].attn.proj.weight.fill_(float("nan"))
    assert objective(_batch(), STEP).total.isnan()


def test_a_teacher_in_bf16_keeps_the_loss_to_a_hundredth_and_fp32_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, batch = by_name("debug_distill"), _batch(16)

    def losses(**changes: Any) -> list[float]:
        values = with_overrides(recipe, changes).objective
        made = values.build(Encoder(recipe.encoder, seed=1), num_classes=0, seed=1)
        _stirred(made.teacher.network)
        found = made(batch, STEP)
        return [found.total.item(), *(term.item() for term in found.terms.values())]

    expected = losses()
    monkeypatch.setattr("vitlet.methods.distill.has_bf16", lambda _: True)
    low = losses()
    assert low != expected
    assert low == pytest.approx(expected, rel=1e-2)
    assert losses(**{"objective.teacher_precision": "fp32"}) == expected
    with torch.autocast(
        "cpu", torch.bfloat16
    ):  # chosen by --precision: the student is in bf16, the teacher need not be
        assert losses(**{"objective.teacher_precision": "fp32"}) != losses()


@pytest.mark.parametrize(("asked", "dtype"), [("fp32", torch.float32), ("auto", torch.bfloat16)])
def test_what_is_asked_for_holds_beside_a_student_in_bf16(asked: Any, dtype: torch.dtype) -> None:
    x, device = torch.ones(2, 2), torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        with precision_of_teacher(device, asked):
            assert (x @ x).dtype == dtype
        assert (x @ x).dtype == torch.bfloat16


def test_the_precision_of_the_teacher_is_a_value_of_the_recipe() -> None:
    recipe, key = by_name("dmae_micro"), "objective.teacher_precision"
    assert recipe.to_json()["objective"]["teacher_precision"] == "auto"
    exact = with_overrides(recipe, {key: "fp32"})
    assert exact.fingerprint() != recipe.fingerprint()
    assert type(recipe).from_json(json.loads(json.dumps(exact.to_json()))) == exact
    with pytest.raises(UsageError, match=r"objective\.teacher_precision"):
        with_overrides(recipe, {key: "bf8"})


COMPILED = """
import torch
from torch._dynamo.testing import CompileCounter
from vitlet.data.batch import Batch
from vitlet.methods.objective import Step
from vitlet.nn.encoder import Encoder
from vitlet.recipes import by_name

recipe = by_name("debug_distill")
objective = recipe.objective.build(Encoder(recipe.encoder), num_classes=0, seed=0)
images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
batch, graphs, count = Batch((images,), *[torch.arange(2)] * 3), [], CompileCounter()
compiled = torch.compile(objective, backend=count)
for index in range(4):
    step = Step(index, 10, 0)
    torch.testing.assert_close(compiled(batch, step).total, objective(batch, step).total)
    graphs.append(count.frame_count)
assert graphs[0] > 0 and graphs == [graphs[0]] * 4, graphs
"""


@pytest.mark.long
def test_compiled_it_is_compiled_once() -> None:
    """Questions to the processor cannot be traced; a graph that broke at them was compiled anew at every step.

    In a process of its own, since torch.compile does not see through the shape checks of the tests.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [(2, 5)]}, r"teacher has no layer 5 .*objective\.layers.*1 … 4"),
        ({"layers": [(3, 4)]}, r"student has no layer 3 .*objective\.layers.*1 … 2"),
        ({"layers": [(0, 1)]}, "student has no layer 0"),
        ({"layers": [(4, 4)], "extra_block": True}, "student has no layer 4"),
        ({"extra_block": True}, r"nothing trains the extra block 3.*\[\[3,4\]\]"),
        ({"hidden": [(3, 1)]}, r"student has no layer 3 .*objective\.hidden.*0 … 2"),
        ({"layers": []}, r"nothing is distilled.*\[\[2,4\]\]"),
        ({"teacher": TEACHER.changed(patch_size=16)}, "patches of 16, the student 32 px in patches of 8"),
        ({"teacher": TEACHER.changed(image_size=64)}, "teacher sees 64 px"),
        ({"mae": {"read_after": 3}}, "cannot read after block 3 of an encoder with 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_batch(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _distillation(**options)


@pytest.mark.parametrize("read_after", [None, 1, 2, 3])
@pytest.mark.parametrize(
    "taught",
    [
        {"layers": [(1, 2)]},
        {"layers": [(3, 2), (1, 1)]},
        {"layers": [(4, 2)], "extra_block": True},
        {"layers": [(4, 2)], "extra_block": True, "weight": 0},
        {"layers": [], "hidden": [(2, 1)]},
        {"layers": [(1, 1)], "hidden": [(3, 4)]},
        {"layers": [(1, 1)], "hidden": [(3, 4)], "hidden_weight": 0},
    ],
)
def test_a_recipe_is_refused_exactly_if_a_tensor_of_a_block_would_stay_as_it_began(
    taught: dict[str, Any], read_after: int | None
) -> None:
    recipe = by_name("debug_distill")
    values = {"teacher": "untrained:test_vit", "mae": recipe.objective.mae.changed(read_after=read_after)} | taught
    objective = recipe.objective.changed(**values)
    made = objective.build(Encoder(recipe.encoder), num_classes=0, seed=0)
    made(_batch(), STEP).total.backward()
    tensors = [tensor for block in made.encoder.blocks for tensor in block.parameters()]
    if all(tensor.grad is not None and bool(tensor.grad.any()) for tensor in tensors):
        recipe.changed(objective=objective)
    else:
        with pytest.raises(UsageError, match=r"nothing trains all of block . of 3.*objective\.mae\.read_after=null"):
            recipe.changed(objective=objective)


@pytest.mark.parametrize(("teacher", "message"), [("", "needs a teacher.*objective.teacher"), ("no/such", "no/such")])
def test_a_recipe_without_a_teacher_never_makes_one_up(teacher: str, message: str) -> None:
    recipe = with_overrides(by_name("dmae_micro"), {"objective.teacher": teacher})
    with pytest.raises(UsageError, match=message):
        recipe.objective.build(Encoder(recipe.encoder), num_classes=0, seed=0)


@pytest.mark.parametrize("name", ["dmae_micro", "d2mae_micro"])
def test_micro_recipes_fit_their_teacher_and_survive_json(name: str) -> None:
    recipe = by_name(name).changed(name=name)
    other = by_name("mae_micro_wide")
    assert type(recipe).from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    values = recipe.objective
    mae = values.mae.build(Encoder(recipe.encoder), num_classes=0, seed=0)
    objective = AttentionDistillation(
        mae, EncoderTeacher(Encoder(other.encoder), {}), layers=values.layers, extra_block=values.extra_block
    )
    assert [tuple(m.weight.shape) for m in objective.mixers] == [(12, 6)]
    mae_alone = by_name("mae_micro")
    assert (recipe.data, recipe.optimizer, recipe.budget) == (mae_alone.data, mae_alone.optimizer, mae_alone.budget)


def test_the_papers_adapter_has_144_numbers_and_the_student_mae_tinys() -> None:
    recipe = by_name("dmae_tiny_400e")
    mae = recipe.objective.mae.build(Encoder(recipe.encoder), num_classes=0, seed=0)
    assert sum(p.numel() for p in mae.parameters()) == 5_748_480
    wide = EncoderConfig(width=48, heads=12)  # the width of the teacher has no part in M
    objective = AttentionDistillation(mae, EncoderTeacher(Encoder(wide), {}), layers=recipe.objective.layers)
    assert sum(p.numel() for p in objective.parameters()) == 5_748_480 + 144
