"""Attention distillation: a masked autoencoder whose attention is trained to match that of a larger one.

The student reconstructs as in MAE. A frozen teacher sees the patches that the student kept. A learned matrix M mixes
the student's heads into the teacher's, and their attention logits, class token included, must agree.

Paper: Wang et al. 2023, Section 5 (D-MAE, last layer; Figure 7 varies the layers); Gao et al. 2025, arXiv 2404.12210
(D²-MAE: the decoder reads a middle block, and the attention to match is that of an extra block above the last).

Differences: student and teacher may differ in depth, width and number of heads, since layers are given in pairs; the
teacher's last block computes queries and keys only. The extra block of D²-MAE has no values, projection or MLP, since
nothing would train them, and belongs to the objective, so nothing has to be removed from the encoder afterwards. Next
to an fp32 student the teacher uses bf16 where the hardware supports it: a target needs no more, and the loss agrees to
a hundredth; `teacher_precision` in the recipe asks for fp32.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlet.choices import TeacherPrecision
from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.mae import MAE
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.nn.attention import scaled_logits
from vitlet.nn.encoder import Encoded, Encoder
from vitlet.nn.frozen import Frozen
from vitlet.nn.init import init_xavier, seeded
from vitlet.nn.kernels import has_bf16
from vitlet.nn.masking import gather
from vitlet.rng import derive
from vitlet.weights.teacher import EncoderTeacher

Pairs = Sequence[tuple[int, int]]


class AttentionDistillation(Objective):
    """An MAE student, a teacher that sees the same patches, and one matrix M per pair of layers."""

    def __init__(
        self,
        mae: MAE,
        teacher: EncoderTeacher,
        *,
        layers: Pairs,
        hidden: Pairs = (),
        extra_block: bool = False,
        weight: float = 1.0,
        hidden_weight: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Heads and widths are mapped by bias-free matrices; the two sides need nothing else in common.

        Args:
            mae: The student.
            teacher: Teacher with the same image and patch size; it is frozen and stays out of `state_dict()`.
            layers: (student block, teacher block) pairs whose attention is compared, counted from 1.
            hidden: (student, teacher) points whose tokens are compared: point i is the input of block i + 1 after its
                first norm, point depth is the final norm.
            extra_block: Whether the student has one more block, of attention alone, numbered depth + 1.
            weight: Weight of the sum over `layers`.
            hidden_weight: Weight of the sum over `hidden`.
            seed: Seed of M and the extra block.

        Raises:
            UsageError: if the teacher has another grid, or a pair names a layer that does not exist.
        """
        super().__init__()
        self.mae = mae
        self.teacher = Frozen(teacher.encoder)
        self.teacher_facts = teacher.facts
        self.teacher_precision: TeacherPrecision = teacher.precision
        self.layers, self.hidden = tuple(layers), tuple(hidden)
        self.weight, self.hidden_weight = weight, hidden_weight
        student, other = mae.encoder.config, teacher.encoder.config
        _require_same_grid(mae.encoder, teacher.encoder)
        _require_layers(self.layers, lowest=1, student=student.depth + extra_block, teacher=other.depth)
        _require_layers(self.hidden, lowest=0, student=student.depth, teacher=other.depth)
        if extra_block and student.depth + 1 not in {s for s, _ in self.layers}:
            raise UsageError(
                f"nothing trains the extra block {student.depth + 1}",
                fix=f"objective.layers=[[{student.depth + 1},{other.depth}]], or objective.extra_block=false",
            )
        if not (self.layers or self.hidden):
            raise UsageError("nothing is distilled", fix=f"objective.layers=[[{student.depth},{other.depth}]]")
        with seeded(derive(seed, "distillation")):
            self.mixers = nn.ModuleList(nn.Linear(student.heads, other.heads, bias=False) for _ in self.layers)
            self.widen = nn.ModuleList(nn.Linear(student.width, other.width, bias=False) for _ in self.hidden)
            self.extra = ExtraAttention(student.width, heads=student.heads) if extra_block else None

    @property
    def encoder(self) -> Encoder:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The student's encoder; it is registered in the MAE only, so that a checkpoint holds it once."""
        return self.mae.encoder

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Reconstruction + weight · attention (+ hidden_weight · hidden), each averaged over all its elements."""
        depth = self.encoder.config.depth
        made = self.mae.reconstruct(
            self.encoder.patchify(batch.images),
            self.mae.noise(batch, step),
            trace=self._names([s for s, _ in self.layers], [s for s, _ in self.hidden], depth=depth),
        )
        teacher = self._teach(batch.images, made.visible, made.keep)
        terms = {"reconstruction": F.mse_loss(made.predicted, made.target)}
        total = terms["reconstruction"]
        if self.layers:
            terms["attention"] = torch.stack(self._attention_losses(made.encoded, teacher)).sum()
            total = total + self.weight * terms["attention"]
        if self.hidden:
            terms["hidden"] = torch.stack(self._hidden_losses(made.encoded, teacher)).sum()
            total = total + self.hidden_weight * terms["hidden"]
        return Losses(total=total, terms=terms)

    def _attention_losses(self, student: Encoded, teacher: Encoded) -> list[Tensor]:
        pairs = zip(self.mixers, self.layers, strict=True)
        return [
            attention_loss(self._logits(student, s), teacher.traced[_logits_name(t)], cast(nn.Linear, mixer).weight)
            for mixer, (s, t) in pairs
        ]

    def _hidden_losses(self, student: Encoded, teacher: Encoded) -> list[Tensor]:
        ours, theirs = self.encoder.config.depth, self.teacher.network.config.depth
        pairs = zip(self.widen, self.hidden, strict=True)
        return [
            F.mse_loss(widen(_tokens(student, s, ours)).float(), _tokens(teacher, t, theirs).float())
            for widen, (s, t) in pairs
        ]

    def provenance(self) -> dict[str, Any]:
        """The model whose attention this encoder learned, and its licence."""
        return {"teacher": self.teacher_facts}

    def _logits(self, student: Encoded, layer: int) -> Tensor:
        depth = self.encoder.config.depth
        if layer <= depth:
            return student.traced[_logits_name(layer)]
        return cast(ExtraAttention, self.extra)(student.traced[f"block.{depth - 1}.output"])

    def _names(self, layers: Sequence[int], hidden: Sequence[int], *, depth: int) -> tuple[str, ...]:
        below = [_logits_name(i) if i <= depth else f"block.{depth - 1}.output" for i in layers]
        return tuple(dict.fromkeys([*below, *(f"block.{i}.norm1" for i in hidden if i < depth)]))

    def _teach(self, images: Tensor, visible: Float[Tensor, "B K L"], keep: Int[Tensor, "B K"]) -> Encoded:
        """Encode the visible patches by the teacher, stopping as soon as all requested intermediates are known."""
        teacher, encoder = self.teacher.network, self.encoder
        points = [t for _, t in self.hidden]
        last = max([*(t - 1 for _, t in self.layers), *points])
        names = self._names([t for _, t in self.layers], points, depth=teacher.config.depth)
        with torch.no_grad(), precision_of_teacher(images.device, self.teacher_precision):
            if teacher.normalisation != encoder.normalisation:
                visible = teacher.normalise(gather(teacher.patchify(images), keep))
            until = last if last < teacher.config.depth else None
            return teacher.encode(teacher.project(visible), keep, names, until=until)


class ExtraAttention(nn.Module):
    """An extra block reduced to its attention logits."""

    def __init__(self, width: int, *, heads: int) -> None:
        """Initialise Xavier-uniform, like the rest of an MAE."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.query_key = nn.Linear(width, 2 * width)
        self.query_key.apply(init_xavier)
        self.heads = heads

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B A T T"]:
        """Scaled query-key products."""
        batch, tokens, _ = x.shape
        q, k = self.query_key(self.norm1(x)).view(batch, tokens, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return scaled_logits(q, k)


def attention_loss(
    student: Float[Tensor, "B A T T"], teacher: Float[Tensor, "B H T T"], mixer: Float[Tensor, "H A"]
) -> Float[Tensor, ""]:
    """Mean squared difference between the teacher's logits (H heads) and the student's (A heads) mixed by M."""
    mixed = mixer.to(student.dtype) @ student.flatten(2)
    return F.mse_loss(mixed.float(), teacher.flatten(2).float())


def precision_of_teacher(device: torch.device, asked: TeacherPrecision) -> contextlib.AbstractContextManager[object]:
    """Return the context that sets the teacher's precision.

    `auto` is bf16 where the hardware is known to support it; elsewhere, and under an autocast already in force, the
    student's precision. `fp32` is fp32 whatever the student uses.
    """
    if asked == "fp32":
        return torch.autocast(device.type, enabled=False)
    if torch.is_autocast_enabled(device.type) or device.type not in ("cpu", "cuda") or not has_bf16(device):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _logits_name(layer: int) -> str:
    return f"block.{layer - 1}.attention_logits"


def _tokens(encoded: Encoded, point: int, depth: int) -> Tensor:
    return encoded.traced[f"block.{point}.norm1"] if point < depth else encoded.tokens


def _require_same_grid(student: Encoder, teacher: Encoder) -> None:
    ours, theirs = student.config, teacher.config
    if (ours.image_size, ours.patch_size) != (theirs.image_size, theirs.patch_size):
        raise UsageError(
            f"the teacher sees {theirs.image_size} px in patches of {theirs.patch_size}, the student "
            f"{ours.image_size} px in patches of {ours.patch_size}",
            why="Both must see the same patches",
            fix=f"a teacher of {ours.image_size} px with patches of {ours.patch_size} px",
        )


def _require_layers(pairs: Pairs, *, lowest: int, student: int, teacher: int) -> None:
    for here, there in pairs:
        for layer, highest, whose in ((here, student, "student"), (there, teacher, "teacher")):
            if not lowest <= layer <= highest:
                raise UsageError(
                    f"the {whose} has no layer {layer}",
                    where=f"pair [{here},{there}] of objective.{'layers' if lowest else 'hidden'}",
                    why=f"Its layers are {lowest} … {highest}",
                    fix=f"a pair of student layer {lowest} … {student} and teacher layer {lowest} … {teacher}",
                )
