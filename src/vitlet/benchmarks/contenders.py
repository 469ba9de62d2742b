"""Contenders in the benchmark of a training step: ours, plain code and, for MAE, Hugging Face's.

All contenders of a method hold the same weights, masks and images. Plain code and Hugging Face's get normalised floats,
as from their loaders; ours gets uint8, as from our loader, and is charged for the normalisation.
"""

import importlib.util
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vitlet.benchmarks.plain import PlainDistillation, PlainFinetuning, PlainMoCo, normalised
from vitlet.benchmarks.reference import PlainMAE, transformers_mae
from vitlet.data.batch import Batch
from vitlet.methods.distill import AttentionDistillation
from vitlet.methods.mae import MAE
from vitlet.methods.mocov3 import MoCoV3
from vitlet.methods.objective import Objective, Step
from vitlet.methods.supervised import Supervised
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.nn.kernels import has_bf16, onednn_is_exact, routed_to_onednn
from vitlet.recipe import EncoderConfig, OptimizerConfig
from vitlet.rng import uniform
from vitlet.train.optim import Rates, build_optimizer, set_rates
from vitlet.units import cosine
from vitlet.weights.teacher import EncoderTeacher

Method = Literal["mae", "distill", "mocov3", "finetune"]
PLAIN = "plain"
STEP = Step(index=0, total=10, seed=0)
_LR = 1e-4
_OPTIMIZER = OptimizerConfig(base_lr=_LR)
_CLASSES = 1000


@dataclass(frozen=True)
class Contender:
    """A network with its optimizer and its loss function."""

    loss: Callable[[], Tensor]
    optimizer: Optimizer
    onednn: bool = False
    """Whether it uses oneDNN for fp32 products, as `vitlet` does where oneDNN is exact."""
    follow: Callable[[], None] = lambda: None
    """Updates what follows the weights."""

    @torch.no_grad()
    def value(self) -> float:
        """The loss at the current weights."""
        with routed_to_onednn(enabled=self.onednn):
            return float(self.loss())

    def step(self) -> None:
        """Take one step: forward, backward, optimizer, followers."""
        with routed_to_onednn(enabled=self.onednn):
            self.optimizer.zero_grad(set_to_none=True)
            self.loss().backward()
            self.optimizer.step()
            self.follow()


@dataclass(frozen=True)
class Shapes:
    """Sizes of the networks."""

    encoder: EncoderConfig
    teacher: EncoderConfig
    batch_size: int


def contenders(method: Method, shapes: Shapes, precisions: Sequence[str]) -> tuple[dict[str, Contender], list[str]]:
    """Create all contenders, plain code first; the notes name those that are unavailable."""
    batch = _random_batch(shapes, num_views=2 if method == "mocov3" else 1)
    present, notes = {PLAIN: _plain(method, shapes, batch)}, []
    if method == "mae":
        if importlib.util.find_spec("transformers"):
            present["transformers"] = _transformers(shapes, batch)
        else:
            notes.append("transformers: not installed (it comes with the extra `dev`)")
    for precision in precisions:
        if precision == "bf16" and not has_bf16(torch.device("cpu")):
            notes.append("vitlet bf16: not supported by this CPU")
        else:
            present[f"vitlet {precision}"] = _ours(_objective(method, shapes), batch, precision)
    return present, notes


def _objective(method: Method, shapes: Shapes) -> Objective:
    pretrained = shapes.encoder.changed(position="sincos", init="xavier")
    match method:
        case "mae":
            return MAE(Encoder(pretrained))
        case "distill":
            teacher = EncoderTeacher(Encoder(shapes.teacher, seed=1), {})
            layers = ((pretrained.depth, shapes.teacher.depth),)
            return AttentionDistillation(MAE(Encoder(pretrained)), teacher, layers=layers)
        case "mocov3":
            return MoCoV3(Encoder(pretrained))
        case "finetune":
            return Supervised(Encoder(shapes.encoder.changed(final_norm=False)), num_classes=_CLASSES, mixup=0.2)


def _ours(objective: Objective, batch: Batch, precision: str) -> Contender:
    optimizer = build_optimizer(objective, _OPTIMIZER, depth=objective.encoder.config.depth)
    set_rates(optimizer, Rates(_LR, _OPTIMIZER.weight_decay))

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return objective(batch, STEP).total

    onednn = precision == "fp32" and onednn_is_exact()
    return Contender(loss, optimizer, onednn=onednn, follow=lambda: objective.after_step(STEP))


def _plain(method: Method, shapes: Shapes, batch: Batch) -> Contender:
    ours = _objective(method, shapes)
    views = [normalised(ours.encoder, view) for view in batch.views]
    with seeded(0):  # plain modules draw weights from the global generator before ours are copied in
        match ours:
            case MAE():
                mae = PlainMAE(ours)
                noise = _noise(ours.encoder, batch)
                return Contender(lambda: mae(views[0], noise), _peer_optimizer(mae))
            case AttentionDistillation():
                distillation = PlainDistillation(ours)
                noise = _noise(ours.encoder, batch)
                return Contender(lambda: distillation(views[0], noise), _peer_optimizer(distillation))
            case MoCoV3():
                moco = PlainMoCo(ours)
                momentum = cosine(STEP.index + 1, total=STEP.total, start=ours.momentum, end=1.0)
                return Contender(lambda: moco(*views), _peer_optimizer(moco), follow=lambda: moco.follow(momentum))
            case Supervised():
                finetuning = PlainFinetuning(ours)
                share = random.Random(STEP.key("mix")).betavariate(ours.mixup, ours.mixup)
                return Contender(lambda: finetuning(views[0], batch.labels, share), _peer_optimizer(finetuning))
    raise AssertionError(method)


def _transformers(shapes: Shapes, batch: Batch) -> Contender:
    ours = _objective("mae", shapes)
    assert isinstance(ours, MAE)
    with seeded(0):
        peer = transformers_mae(ours)
    images, noise = normalised(ours.encoder, batch.images), _noise(ours.encoder, batch)
    return Contender(lambda: peer(images, noise=noise).loss, _peer_optimizer(peer))


def _noise(encoder: Encoder, batch: Batch) -> Tensor:
    return torch.from_numpy(uniform(STEP.key("mask"), batch.slots.numpy(), encoder.num_patches))


def _random_batch(shapes: Shapes, *, num_views: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    size, pixels = shapes.batch_size, shapes.encoder.image_size
    views = tuple(
        torch.randint(256, (size, 3, pixels, pixels), dtype=torch.uint8, generator=draw) for _ in range(num_views)
    )
    numbers = torch.arange(size)
    return Batch(views, labels=numbers % _CLASSES, positions=numbers, slots=numbers)


def _peer_optimizer(network: nn.Module) -> Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    return AdamW(trained, lr=_LR, betas=_OPTIMIZER.betas, weight_decay=_OPTIMIZER.weight_decay)
