"""Export formats and their restrictions. Free of torch."""

import os
from dataclasses import dataclass

from vitlet.choices import ExportTarget
from vitlet.errors import UsageError
from vitlet.run import Run
from vitlet.text import printable, quoted
from vitlet.weights.names import Source


@dataclass(frozen=True)
class Form:
    """An export format and its options."""

    target: ExportTarget = "timm"
    int8: bool = False
    """Quantise products with weights to 8 bits, with ranges from calibration images."""
    embed_preprocessing: bool = False
    """Let the model take uint8 pixels and standardise them itself."""

    def require_possible(self) -> None:
        """Refuse options that the format does not support.

        Raises:
            UsageError: naming a format that does.
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
    """Refuse a detection run: no export format supports its variable number of regions.

    Raises:
        UsageError: naming the part that can be exported.
    """
    source = Source.parse(run)
    found = Run(source.path)
    if source.architecture is None and found.detector.is_dir():
        raise UsageError(
            f"{printable(found.path)} is a detector",
            why="The number of its regions depends on the image, which neither torch.export nor timm supports",
            fix=f"vitlet export {quoted(found.encoder)} exports its encoder; vitlet detect finds objects",
        )
