"""A trained model as a single module for export, with tensors in and tensors out.

The input is timm's: standardised floats, channels first. With embedded preprocessing it is what image libraries decode:
uint8, channels last. Resizing and cropping stay outside, since runtimes resize differently.

    classifier        logits (B C)
    vision encoder    tokens (B T D) after the last norm, features (B D): the mean of the patch tokens
    ConvNet encoder   features (B D)
    detector          boxes, labels, scores and perhaps masks of one image; see `portable_detector`
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitlet.augmentation import View
from vitlet.nn.convnet import ConvEncoder
from vitlet.weights.folder import Saved
from vitlet.weights.preprocessing import resizing_steps

INPUT = "images"
_LEVELS = 255


class Portable(nn.Module, ABC):
    """A model in one exportable module, in evaluation mode."""

    any_batch: bool = True
    """Whether the model takes batches of any size; else it takes one image."""

    def __init__(self, saved: Saved, *, embed_preprocessing: bool = False) -> None:
        """Share the tensors of `saved`."""
        super().__init__()
        self.encoder, self.classes = saved.encoder, saved.classes
        self.embed_preprocessing = embed_preprocessing
        self.register_buffer("mean", torch.tensor(saved.encoder.normalisation.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(saved.encoder.normalisation.std)[:, None, None], persistent=False)

    @property
    def image_size(self) -> int:
        """Image size S in pixels."""
        return self.encoder.config.image_size

    @property
    @abstractmethod
    def outputs(self) -> dict[str, dict[str, Any]]:
        """What `preprocessing.json` says of the tensors that `forward` returns, by name and in order."""

    @abstractmethod
    def computed(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the tensors named in `outputs` from standardised images (B 3 S S)."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the tensors named in `outputs`; the module docstring describes the input."""
        return self.computed(self.standardised(images.permute(0, 3, 1, 2)) if self.embed_preprocessing else images)

    def standardised(self, images: Tensor) -> Tensor:
        """Standardise uint8 pixels (B 3 S S) with the mean and deviation that the encoder was trained with."""
        return (images.float() / _LEVELS - cast(Tensor, self.mean)) / cast(Tensor, self.std)

    def input_of(self, images: Tensor) -> Tensor:
        """Convert images from the loader (uint8, B 3 S S) to the input of `forward`."""
        if self.embed_preprocessing:
            return images.permute(0, 2, 3, 1).contiguous()
        return self.standardised(images)

    def example(self) -> Tensor:
        """Return an input of two images for tracing, of one if the model takes no other batch."""
        images = torch.zeros(2 if self.any_batch else 1, 3, self.image_size, self.image_size)
        return self.input_of(images.to(torch.uint8)) if self.embed_preprocessing else images

    def program(self) -> torch.export.ExportedProgram:
        """Return the graph, for batches of any size if the model takes them."""
        shapes = {INPUT: {0: torch.export.Dim("batch", min=1)}} if self.any_batch else None
        with torch.no_grad():
            return torch.export.export(self, (self.example(),), dynamic_shapes=shapes)

    def named(self, values: Mapping[Any, Any] | Sequence[Any]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs, given in order, by name."""
        return {name: np.asarray(values[i], dtype=np.float32) for i, name in enumerate(self.outputs)}


@final
class PortableEncoder(Portable):
    """An encoder, with its classifier if it has one."""

    def __init__(self, saved: Saved, *, embed_preprocessing: bool = False) -> None:
        """Share the tensors of `saved`."""
        super().__init__(saved, embed_preprocessing=embed_preprocessing)
        self.classifier = saved.classifier
        self.eval().requires_grad_(False)

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """`logits`, or `features` and, from a vision transformer, `tokens`."""
        width = self.encoder.width
        if self.classifier is not None:
            return {"logits": {"shape": ["batch", len(self.classes)]}}
        features = {"features": {"shape": ["batch", width]}}
        if isinstance(self.encoder, ConvEncoder):
            return features
        return {"tokens": {"shape": ["batch", cast(int, self.encoder.num_patches) + 1, width]}} | features

    def computed(self, images: Tensor) -> tuple[Tensor, ...]:
        """As `Portable.computed`."""
        if isinstance(self.encoder, ConvEncoder):
            features = self.encoder.net(images)
            return (features if self.classifier is None else self.classifier(features),)
        encoded = self.encoder.encode(self.encoder.vit.patch_embed(images))
        if self.classifier is not None:
            return (self.classifier(encoded),)
        return encoded.tokens, encoded.pooled("mean")


def described(model: Portable, *, evaluation: View) -> dict[str, Any]:
    """Describe preprocessing, input and outputs as plain values for `preprocessing.json`.

    Raises:
        UsageError: as `resizing_steps`.
    """
    size, embedded, normalisation = model.image_size, model.embed_preprocessing, model.encoder.normalisation
    batch = "batch" if model.any_batch else 1
    steps: list[dict[str, Any]] = [
        {"do": "rgb", "alpha": "over white", "exif_orientation": "applied"},
        *resizing_steps(evaluation, normalisation),
    ]
    if not embedded:
        steps += [
            {"do": "divide", "by": _LEVELS},
            {"do": "standardise", "mean": list(normalisation.mean), "std": list(normalisation.std)},
            {"do": "channels_first"},
        ]
    return {
        "input": {
            "name": INPUT,
            "dtype": "uint8" if embedded else "float32",
            "shape": [batch, size, size, 3] if embedded else [batch, 3, size, size],
        },
        "steps": steps,
        "embedded": embedded,
        "outputs": model.outputs,
        "classes": list(model.classes),
    }
