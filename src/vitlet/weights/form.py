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

    def require_fit(self, run: str | os.PathLike[str]) -> None:
        """Refuse a detection run if the format has no detectors.

        Raises:
            UsageError: naming a format that has them, or the part that can be exported.
        """
        found = detection_run(run)
        if found is not None and self.target == "timm":
            raise UsageError(
                f"{printable(found.path)} is a detector",
                why="timm has no detectors",
                fix="vitlet export --to onnx, openvino or torch-export; "
                f"vitlet export {quoted(found.encoder)} exports its encoder",
            )
        if found is not None and self.int8:
            raise UsageError(
                f"--int8 with {printable(found.path)}, a detector",
                why="What 8 bits do to the places of objects was not measured, so there is no limit to hold them to",
                fix="leave --int8 out",
            )


def detection_run(run: str | os.PathLike[str]) -> Run | None:
    """Return the detection run at `run`, a path as `Source.parse` takes it; None if something else is there."""
    source = Source.parse(run)
    found = Run(source.path)
    return found if source.architecture is None and found.detector.is_dir() else None
