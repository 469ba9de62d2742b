"""In which form a model is handed out, and which cannot be. Free of torch."""

import os
from dataclasses import dataclass
from typing import Literal

from vitlet.errors import UsageError
from vitlet.run import Run
from vitlet.text import printable
from vitlet.weights.names import Source

Target = Literal["timm", "onnx", "openvino", "torch-export"]


@dataclass(frozen=True)
class Form:
    """A format and what is done to the model on the way into it."""

    target: Target = "timm"
    int8: bool = False
    """Products with weights in 8 bits, with ranges from calibration images."""
    embed_preprocessing: bool = False
    """The model takes bytes and standardises them itself."""

    def require_possible(self) -> None:
        """Refuse what a format cannot hold.

        Raises:
            UsageError: naming a format that can.
        """
        if self.int8 and self.target not in ("onnx", "openvino"):
            raise UsageError(
                f"--int8 with --to {self.target}", why="It holds floats", fix="--to onnx or --to openvino with --int8"
            )
        if self.embed_preprocessing and self.target == "timm":
            raise UsageError(
                "--embed-preprocessing with --to timm",
                why="timm reads the preprocessing in config.json and has no place for it in the network",
                fix="leave it out, or --to onnx, openvino or torch-export",
            )


def require_no_detector(run: str | os.PathLike[str]) -> None:
    """Refuse a run of detection, whose regions no format here holds.

    Raises:
        UsageError: naming what of it can be handed out.
    """
    source = Source.parse(run)
    found = Run(source.path)
    if source.architecture is None and found.detector.is_dir():
        raise UsageError(
            f"{printable(found.path)} is a detector",
            why="How many regions it looks at depends on the image, which torch.export does not take, nor timm",
            fix=f"vitlet export {printable(found.encoder)} hands out its encoder; vitlet detect finds objects",
        )
