"""Cost of a linear probe that tries a grid of learning rates, relative to one with a given rate.

A probe extracts features of all images once and then trains on them; a grid trains all its members together, selects
one on held-out training images and trains that again. So there are two ratios: for the whole, starting from decoded
images, which is what a user waits for; and for the part after the features, which is the cost of a second probe of the
same encoder, since features are cached.
"""

from typing import Any

import torch

from vitlet.benchmarks.features import noise_batch
from vitlet.evaluation.features import extract
from vitlet.evaluation.linear import FALLBACK, GRID, linear_probe
from vitlet.evaluation.pace import conditions, take_turns
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig
from vitlet.recipes.mae import mae_micro

_BATCH = 256


def bench(
    *,
    repeats: int = 3,
    num_train: int = 5_000,
    num_test: int = 1_000,
    num_classes: int = 10,
    shape: EncoderConfig | None = None,
) -> dict[str, Any]:
    """Time the parts in turns, after one warm-up turn.

    Args:
        repeats: Number of timed turns.
        num_train: Training images, evenly distributed over the classes.
        num_test: Test images.
        num_classes: Number of classes.
        shape: Shape of the encoder; by default that of `mae_micro`.

    Returns:
        `cpu_ms`: median CPU milliseconds of `features`, `one rate` and `grid`; `spread` of each; `ratio`: grid over
        one rate, `from images` and `from cached features`; `rates`: members of the grid; the conditions.
    """
    encoder = Encoder(shape or mae_micro().encoder).eval()
    whole = noise_batch(encoder.config.image_size, num_train + num_test)
    features, _ = extract(encoder, whole.parts(_BATCH), pool="mean")
    numbers = torch.arange(len(whole)) % num_classes
    train, test = (features[:num_train, None], numbers[:num_train]), (features[num_train:, None], numbers[num_train:])
    paces = take_turns(
        {
            "features": lambda: extract(encoder, whole.parts(_BATCH), pool="mean"),
            "one rate": lambda: linear_probe(*train, *test, seed=0, rates=[FALLBACK]),
            "grid": lambda: linear_probe(*train, *test, seed=0, rates=GRID),
        },
        repeats=repeats,
    )
    features_ms, one, grid = (paces[name].cpu_ms for name in ("features", "one rate", "grid"))
    return {
        "cpu_ms": {name: pace.cpu_ms for name, pace in paces.items()},
        "spread": {name: pace.spread for name, pace in paces.items()},
        "ratio": {"from images": (features_ms + grid) / (features_ms + one), "from cached features": grid / one},
        "rates": len(GRID),
        "num_train": num_train,
        "num_test": num_test,
        "num_classes": num_classes,
        **conditions(repeats),
    }
