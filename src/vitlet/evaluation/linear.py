"""Linear probes by gradient descent on cached features: a fast one over a whole grid, and two published protocols.

The fast probe trains all learning rates, and all blocks for which it gets features, at once as one batched linear
layer, reading the features only once. Rate and block are chosen on a stratified fifth of the *training* set
(`probe.held_out`); the chosen member is then retrained on all of it. The test set is used once, at the end.

Papers: MAE (He et al. 2022, appendix A.1) and MoCo v3 (Chen et al. 2021) for `linear-mae` and `linear-moco`.

Differences: the published probes draw a new random crop and flip of each image in each epoch; these read cached
features of the centre crop, so their results are close to the published ones but not equal. A training set smaller
than the published batch is used as one batch, at the published learning rate, and its 90 epochs are at least 1,000
steps: under the rule for smaller batches LARS would hardly move from its start on a few thousand images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from vitlet import rng
from vitlet.evaluation import labels
from vitlet.evaluation.lars import Lars
from vitlet.evaluation.probe import ProbeResult, held_out
from vitlet.units import warmup_cosine

GRID = tuple(10 ** (k / 3) for k in range(-9, 4))
"""Learning rates tried, 0.001 … 10, each 2.15 times the previous; with equal scores the first wins."""
FALLBACK = GRID[6]
"""Used if no class has a second image to hold out."""
BATCH, MOMENTUM = 256, 0.9
_FEWEST_STEPS, _EPOCHS = 1000, 20


@dataclass(frozen=True)
class Published:
    """A published probe; its learning rate is `base_lr` · `batch` / 256."""

    batch: int
    base_lr: float
    epochs: int
    warmup_epochs: int
    normalise: bool
    """BatchNorm without scale and shift (ε 1e-6) in front."""
    lars: bool


PUBLISHED: dict[Literal["linear-mae", "linear-moco"], Published] = {
    "linear-mae": Published(batch=16384, base_lr=0.1, epochs=90, warmup_epochs=10, normalise=True, lars=True),
    "linear-moco": Published(batch=1024, base_lr=3.0, epochs=90, warmup_epochs=0, normalise=False, lars=False),
}


def linear_probe(
    train: Float[Tensor, "n L D"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m L D"],
    test_labels: Int[Tensor, "m"],
    *,
    seed: int,
    rates: Sequence[float] = GRID,
    classes: Sequence[str] = (),
) -> ProbeResult:
    """Top-1 of the best member of a grid of learning rates and layers; rows labelled -1 are left out.

    SGD with momentum 0.9 from zero weights, batches of 256, cosine decay to zero over 20 epochs or 1,000 steps,
    whichever is more, on features standardised by the rows trained on.

    Args:
        train: Features of the training images, one row per layer.
        train_labels: Their classes, -1 for none.
        test: Features of the test images.
        test_labels: Their classes, -1 for none.
        seed: Seed of the selection split and of the order of images.
        rates: The grid; a single rate for a single layer is trained without selection.
        classes: Class names for messages.

    Raises:
        DataError: as `labels.require`.
    """
    x, y, x_test, y_test = labels.usable(train.float(), train_labels, test.float(), test_labels, classes=classes)
    num_classes, depth = int(y.max()) + 1, x.shape[1]
    held = torch.from_numpy(held_out(y.numpy(), seed=seed))
    layer, rate, scores = depth - 1, rates[0] if len(rates) == 1 else FALLBACK, None
    if held.any() and depth * len(rates) > 1:
        grid = _fit(x[~held], y[~held], rates=rates, num_classes=num_classes, seed=seed)
        scores = _accuracy(grid, x[held], y[held])
        layer, member = divmod(int(np.argmax(scores)), len(rates))  # the first of equals
        rate = rates[member]
    chosen = slice(layer, layer + 1)
    final = _fit(x[:, chosen], y, rates=[rate], num_classes=num_classes, seed=seed)
    correct = (final.logits(x_test[:, chosen])[0, :, 0].argmax(dim=-1) == y_test).numpy()
    settings: dict[str, Any] = {"rate": rate, "layer": layer, "layers": depth, "seed": seed}
    if scores is None:
        settings["chosen_on"] = "nothing: a single member" if held.any() else "nothing: one image a class"
    else:
        settings["chosen_on"] = f"{int(held.sum())} held-out training images"
        settings["held_out_top1"] = {f"{r:.4g}": float(s) for r, s in zip(rates, scores[layer], strict=True)}
        settings["held_out_top1_by_layer"] = scores.max(axis=1).tolist()
    return ProbeResult.of("linear", correct, settings)


def published_probe(
    train: Float[Tensor, "n D"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m D"],
    test_labels: Int[Tensor, "m"],
    *,
    protocol: Literal["linear-mae", "linear-moco"],
    seed: int,
    classes: Sequence[str] = (),
) -> ProbeResult:
    """Top-1 of a published probe with its published settings, nothing tuned; rows labelled -1 are left out.

    Raises:
        DataError: as `labels.require`.
    """
    x, y, x_test, y_test = labels.usable(train.float(), train_labels, test.float(), test_labels, classes=classes)
    form, batch = PUBLISHED[protocol], min(PUBLISHED[protocol].batch, len(y))
    generator = torch.Generator().manual_seed(rng.derive(seed, protocol))
    norm = nn.BatchNorm1d(x.shape[1], affine=False, eps=1e-6) if form.normalise else nn.Identity()
    head = nn.Linear(x.shape[1], int(y.max()) + 1)
    draw = nn.init.trunc_normal_ if form.lars else nn.init.normal_
    draw(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    optimizer: Optimizer = Lars(head.parameters(), lr=0.0) if form.lars else SGD(head.parameters(), 0.0, momentum=0.9)
    peak, total = form.base_lr * form.batch / 256, max(_FEWEST_STEPS, form.epochs * (len(y) // batch))
    warmup = total * form.warmup_epochs // form.epochs
    for step, rows in enumerate(_order(len(y), batch=batch, steps=total, seed=seed)):
        lr = warmup_cosine(step, total=total, warmup=warmup, start=0.0, peak=peak, end=0.0)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        F.cross_entropy(head(norm(x[rows])), y[rows]).backward()
        optimizer.step()
    norm.eval()
    with torch.no_grad():
        correct = (head(norm(x_test)).argmax(dim=1) == y_test).numpy()
    settings = {"batch": batch, "lr": peak, "steps": total, "seed": seed, "images": "cached centre crops"}
    return ProbeResult.of(protocol, correct, settings)


@dataclass(frozen=True)
class _Grid:
    """Linear classifiers for L layers and G rates on standardised features."""

    mean: Float[Tensor, "L 1 D"]
    scale: Float[Tensor, "L 1 D"]
    weight: Float[Tensor, "L D GC"]
    bias: Float[Tensor, "L 1 GC"]
    rates: int

    def logits(self, x: Float[Tensor, "n L D"]) -> Float[Tensor, "L n G C"]:
        rows = (x.transpose(0, 1) - self.mean) * self.scale
        return torch.baddbmm(self.bias, rows, self.weight).unflatten(2, (self.rates, -1))


def _fit(
    x: Float[Tensor, "n L D"], y: Int[Tensor, "n"], *, rates: Sequence[float], num_classes: int, seed: int
) -> _Grid:
    """Train all members at once; the cross-entropy gradient is written out, which avoids building a graph each step."""
    n, depth, width = x.shape
    rows = x.transpose(0, 1)
    mean = rows.mean(dim=1, keepdim=True)
    spread = rows.std(dim=1, correction=0, keepdim=True)
    scale = torch.where(spread > 1e-6 * spread.amax(dim=2, keepdim=True).clamp_min(1e-30), 1 / spread, 0.0)
    features = ((rows - mean) * scale).contiguous()
    batch = min(BATCH, n)
    steps = max(_FEWEST_STEPS, _EPOCHS * (n // batch))
    lr = torch.tensor(rates, dtype=torch.float32).repeat_interleave(num_classes) * (batch / 256)
    # The bias is the weight of a feature that is always 1, so one product serves both.
    features = F.pad(features, (0, 1), value=1.0)
    weight = torch.zeros(depth, width + 1, len(rates) * num_classes)
    velocity = torch.zeros_like(weight)
    for step, chosen in enumerate(_order(n, batch=batch, steps=steps, seed=seed)):
        seen = features[:, chosen]
        error = torch.bmm(seen, weight).unflatten(2, (len(rates), num_classes)).softmax(dim=-1)
        error.sub_(F.one_hot(y[chosen], num_classes)[None, :, None, :])
        velocity.mul_(MOMENTUM).baddbmm_(seen.transpose(1, 2), error.flatten(2), alpha=1 / batch)
        share = warmup_cosine(step, total=steps, warmup=0, start=1.0, peak=1.0, end=0.0)
        weight.addcmul_(velocity, lr, value=-share)
    return _Grid(mean, scale, weight[:, :-1], weight[:, -1:], len(rates))


def _accuracy(grid: _Grid, x: Float[Tensor, "n L D"], y: Int[Tensor, "n"]) -> Float[np.ndarray, "L G"]:
    right = grid.logits(x).argmax(dim=-1) == y[None, :, None]
    return right.double().mean(dim=1).numpy()


def _order(n: int, *, batch: int, steps: int, seed: int) -> Iterator[Int[Tensor, "b"]]:
    """Rows of each step: epoch by epoch in a new order, dropping each epoch's incomplete last batch."""
    an_epoch = n // batch
    for epoch in range(-(-steps // an_epoch)):
        order = torch.from_numpy(rng.permutation(rng.derive(seed, "linear probe", epoch), n))
        for place in range(min(an_epoch, steps - epoch * an_epoch)):
            yield order[place * batch : (place + 1) * batch]
