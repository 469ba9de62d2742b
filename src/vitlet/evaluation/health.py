"""Is pre-training learning, stalled or collapsed? Judged without labels, from the loss and from frozen features.

Rules, in this order; the constants below hold the numbers:

* collapsed: the latest features are nearly the same for all images (feature std < 0.01, a mean cosine above 0.9999
  between images) or lie on a line (effective rank < 2).
* too early: fewer than eight losses show no trend.
* stalled: the mean of the last quarter of the losses is not below that of the first quarter by both 1 % of it and
  twice the standard error of the difference. A loss that rises, or stays at ln K, is stalled as well.
* learning: everything else.

Neither sign of collapse would suffice alone: features that are one constant plus a little noise have full rank once
centred, and features on a line have a healthy std. Measured with MAE on digits (width 96, depth 6, mean of the patch
tokens): a std of 0.10 before the first step, 0.027 early in a good run and rising again later; 0.004 with a learning
rate 70 times too high, where a probe then reads half of what it read from random weights.

Paper: the effective rank is RankMe (Garrido et al. 2023), exp of the entropy of the normalised singular values.
Differences: L2-normalised features, centred first, because the mean of a ViT's features outweighs and would hide all
differences between images; no ε inside the logarithm, since an exact zero adds nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MIN_STD = 0.01
MIN_RANK = 2.0
MIN_FALL = 0.01
"""Minimum fall of the loss, as a share of the early loss."""
MIN_ERRORS = 2.0
"""Minimum fall of the loss, in standard errors."""

MIN_LOSSES = 8

Verdict = Literal["too early", "learning", "stalled", "collapsed"]


@dataclass(frozen=True)
class Health:
    """How much the features of different images differ, and in how many directions."""

    feature_std: float
    """0: all equal; 1: L2-normalised features spread evenly in all directions."""
    effective_rank: float
    """Number of directions in use, at most the width; 0 if all features are equal."""


def feature_health(features: Float[Tensor, "n D"]) -> Health:
    """Spread and effective rank of the features of `n` ≥ 2 images, without labels.

    `feature_std` is the standard deviation of each dimension of the L2-normalised features, averaged over
    dimensions, times √D.
    """
    assert len(features) >= 2, "one image has no spread"
    unit = F.normalize(features.double(), dim=1)
    centred = unit - unit.mean(dim=0)
    std = centred.square().mean(dim=0).sqrt().mean().item() * features.shape[1] ** 0.5
    singular = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0).sqrt()
    # Rounding leaves equal features with a spread near 1e-16, whose "directions" are meaningless.
    if std < 1e-12:
        return Health(feature_std=std, effective_rank=0.0)
    share = singular / singular.sum()
    return Health(feature_std=std, effective_rank=torch.special.entr(share).sum().exp().item())


def verdict(losses: Sequence[float], healths: Sequence[Health]) -> Verdict:
    """Apply the module's rules.

    Args:
        losses: All losses logged so far, evenly spaced and finite.
        healths: All measurements so far, the latest last; may be empty.
    """
    if healths and (healths[-1].feature_std < MIN_STD or healths[-1].effective_rank < MIN_RANK):
        return "collapsed"
    if len(losses) < MIN_LOSSES:
        return "too early"
    early, late, error = _trend(losses)
    return "learning" if early - late > max(MIN_FALL * abs(early), MIN_ERRORS * error) else "stalled"


def explain(losses: Sequence[float], healths: Sequence[Health]) -> str:
    """One line: the verdict, the numbers behind it and, if it is bad, the setting to change."""
    state = verdict(losses, healths)
    if state == "collapsed":
        latest = healths[-1]
        alike = latest.feature_std < MIN_STD
        sign = (
            f"all images get nearly the same features (feature std {latest.feature_std:.2g}, below {MIN_STD})"
            if alike
            else f"all features lie on a line (effective rank {latest.effective_rank:.1f}, below {MIN_RANK:g})"
        )
        return f"collapsed: {sign}. Lower optimizer.base_lr to a third, or double optimizer.warmup."
    numbers = [_loss_line(losses)] if losses else []
    if healths:
        numbers.append(f"feature std {healths[-1].feature_std:.2g}, effective rank {healths[-1].effective_rank:.1f}")
    remedy = {
        "too early": "",
        "learning": "",
        "stalled": " Try optimizer.base_lr three times higher and three times lower; "
        "look for broken or identical images with vitlet check.",
    }[state]
    return f"{state}: {'; '.join(numbers) or 'nothing measured yet'}.{remedy}"


def _loss_line(losses: Sequence[float]) -> str:
    if len(losses) < MIN_LOSSES:
        return f"loss {losses[-1]:.4g}, {len(losses)} logged and {MIN_LOSSES} needed for a trend"
    early, late, error = _trend(losses)
    change = "noise" if abs(early - late) <= MIN_ERRORS * error else f"{100 * (late - early) / abs(early or 1):+.1f} %"
    return f"loss {early:.4g} at first, {late:.4g} now ({change})"


def _trend(losses: Sequence[float]) -> tuple[float, float, float]:
    """Means of the first and the last quarter, and the standard error of their difference."""
    quarter = len(losses) // 4
    early, late = np.asarray(losses[:quarter]), np.asarray(losses[-quarter:])
    # A steady fall within a quarter is not noise: the variance is estimated between neighbours, where it hardly shows.
    variance = [np.square(np.diff(part)).sum() / (2 * (quarter - 1)) / quarter for part in (early, late)]
    return float(early.mean()), float(late.mean()), float(np.sqrt(sum(variance)))
