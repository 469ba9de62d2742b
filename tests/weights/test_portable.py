"""One module for other runtimes: the same numbers as the encoder's own way, for any batch, from floats or bytes."""

import pytest
import torch

from vitlet.augmentation import Centre, View
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import head_input, new_classifier
from vitlet.normalisation import Normalisation
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.weights.folder import Saved
from vitlet.weights.portable import INPUT, PortableEncoder, described

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=4)
VIEW = View(size=32, crop=Centre(share=0.8, interpolation="bilinear"), flip=0)
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
IMAGES = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def saved(*, relative: bool = False, convnet: bool = False, classes: tuple[str, ...] = ()) -> Saved:
    if convnet:
        encoder = ConvEncoder(
            ConvNetConfig(image_size=32, architecture="resnet10t"), normalisation=Normalisation(MEAN, STD)
        )
    else:
        encoder = Encoder(SMALL.changed(relative_position=relative), normalisation=Normalisation(MEAN, STD))
    classifier = new_classifier(encoder, num_classes=len(classes), pool="mean", seed=0) if classes else None
    return Saved(encoder.eval(), classifier, classes, VIEW, "", {})


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("kind", [{}, {"relative": True}, {"convnet": True}, {"classes": ("a", "b")}])
@torch.no_grad()
def test_it_computes_what_evaluation_computes(kind: dict, embedded: bool) -> None:
    model = saved(**kind)
    portable = PortableEncoder(model, embed_preprocessing=embedded)
    seen = head_input(model.encoder, IMAGES)
    if model.classifier is not None:
        expected = (model.classifier(seen),)
    else:
        expected = (seen,) if isinstance(seen, torch.Tensor) else (seen.tokens, seen.pooled("mean"))
    found = portable(portable.input_of(IMAGES))
    assert len(found) == len(expected) == len(portable.outputs)
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [{}, {"relative": True}, {"convnet": True}])
def test_the_graph_takes_any_batch(kind: dict) -> None:
    portable = PortableEncoder(saved(**kind))
    graph = portable.program().module()
    for size in (1, 3, 4097):
        images = portable.input_of(IMAGES[:1].expand(size, -1, -1, -1) if size > len(IMAGES) else IMAGES[:size])
        with torch.no_grad():
            torch.testing.assert_close(graph(images), portable(images), rtol=1e-5, atol=1e-5)


def test_the_description_tells_how_to_come_to_the_input() -> None:
    model = saved(classes=("a", "b"))
    told = described(PortableEncoder(model), evaluation=VIEW)
    assert told["input"] == {"name": INPUT, "dtype": "float32", "shape": ["batch", 3, 32, 32]}
    assert [step["do"] for step in told["steps"]] == [
        "rgb", "resize", "centre_crop", "divide", "standardise", "channels_first",
    ]  # fmt: skip
    assert told["steps"][1] == {"do": "resize", "short_side": 40, "interpolation": "bilinear", "antialias": True}
    assert told["outputs"] == {"logits": {"shape": ["batch", 2]}}
    assert told["classes"] == ["a", "b"]


def test_embedded_preprocessing_leaves_resizing_and_cropping_to_do() -> None:
    told = described(PortableEncoder(saved(), embed_preprocessing=True), evaluation=VIEW)
    assert told["input"]["shape"] == ["batch", 32, 32, 3]
    assert [step["do"] for step in told["steps"]] == ["rgb", "resize", "centre_crop"]
    assert told["outputs"]["tokens"]["shape"] == ["batch", 17, 24]
