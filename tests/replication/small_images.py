"""Small images of four classes, and what replicates on them. Not a test itself."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "dark", "light", "red")
HOSTILE = "<img src=x onerror=alert(1)> $(id)"
"""Name of the folder of images, which the page shows in its command."""
WORDS = ("figure-1", "claim-1", "claim-7", "claim-12")
"""Of the tests that need a few runs of those that `all` names."""


def write_images(root: Path, *, train: int = 24, test: int = 8) -> Path:
    """Noise that brightness or colour tells apart, 32 px, in `train/` and `test/`."""
    for code, name in enumerate(CLASSES):
        for split, count in (("train", train), ("test", test)):
            for i in range(count):
                draw = np.random.Generator(np.random.Philox(key=10_000 * code + 5_000 * (split == "test") + i))
                pixels = draw.integers(0, 120, (32, 32, 3))
                channels = {"blue": [2], "dark": [], "light": [0, 1, 2], "red": [0]}[name]
                pixels[..., channels] += 130
                place = root / split / name / f"{i:03}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(place)
    return root


def command(images: Path, out: Path, *more: str, what: tuple[str, ...] = WORDS) -> list[str]:
    words = ["reproduce", *what, "--scale", "smoke", "--data", str(images), "--out", str(out)]
    return [*words, "--side-by-side", "1", *more]
