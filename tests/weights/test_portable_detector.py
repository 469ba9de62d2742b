"""A detector with fixed shapes finds what the one that removes what it rejects finds, in the same order."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitlet.augmentation import Fit, View
from vitlet.nn.detection.detector import Detector, DetectorShape
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig
from vitlet.weights import portable_detector
from vitlet.weights.detector import SavedDetector, detector_card
from vitlet.weights.portable import described
from vitlet.weights.portable_detector import PortableDetector

CLASSES = ("a", "b", "c", "d")
SHAPE = DetectorShape(
    num_classes=4, masks=True, window=3, global_blocks=(1,), recompute=False, channels=16,
    anchors=(4, 8, 16, 32, 64), proposal_convs=1, proposal_samples=8, proposals=40, box_convs=1, box_width=32,
    box_samples=8, mask_convs=1, score_threshold=0.25, most_detections=30,
)  # fmt: skip


def saved(**changes: object) -> SavedDetector:
    """Random weights, large in the heads, so that boxes move and scores differ; `changes` of the detector's shape."""
    config = EncoderConfig(image_size=64, patch_size=8, width=24, depth=2, heads=2, final_norm=False)
    encoder = Encoder(config, seed=1).eval()
    detector = Detector(encoder, replace(SHAPE, **changes), seed=2).eval()
    draw = torch.Generator().manual_seed(0)
    heads: Any = detector  # torch types the parts of parts as tensors
    for layer, std in (
        (heads.regions.box_predictor.cls_score, 0.5),
        (heads.regions.box_predictor.bbox_pred, 0.2),
        (heads.proposals.head.cls_logits, 0.5),
        (heads.proposals.head.bbox_pred, 0.2),
    ):
        nn.init.normal_(layer.weight, std=std, generator=draw)
    view = View(size=64, crop=Fit(), flip=0)
    return SavedDetector(encoder, None, CLASSES, view, "", {}, detector=detector, category_ids=(3, 5, 7, 9))


def images(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    coarse = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=draw)
    return coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def same(model: SavedDetector, *, embedded: bool = False) -> list[int]:
    """The number of objects on each of three images, once both agree on all of them."""
    portable, numbers = PortableDetector(model, embed_preprocessing=embedded), []
    for image in images(3).split(1):
        with torch.no_grad():
            (expected,) = model.detector.detect(model.encoder, image)  # pyright: ignore[reportArgumentType]
            found = dict(zip(portable.outputs, portable(portable.input_of(image)), strict=True))
        count = len(expected["scores"])
        assert found.keys() == expected.keys()
        assert not found["scores"][0, count:].any()
        for name, values in expected.items():
            assert list(found[name].shape) == portable.outputs[name]["shape"]
            torch.testing.assert_close(found[name][0, :count], values, rtol=1e-4, atol=1e-4, msg=name)
        numbers.append(count)
    return numbers


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [
        ({"score_threshold": 0.3}, 1, 29),
        ({"most_detections": 5}, 5, 5),
        ({"masks": False, "score_threshold": 0.0}, 30, 30),
        ({"proposals": 2000}, 3, 30),  # more than there are: the number is filled up with rejected ones
        ({"score_threshold": 1.0}, 0, 0),
    ],
    ids=["some", "too many", "boxes", "few regions", "none"],
)
def test_it_finds_what_the_detector_finds(changes: dict, least: int, most: int) -> None:
    numbers = same(saved(**changes))
    assert all(least <= number <= most for number in numbers), numbers


def test_it_takes_bytes_with_embedded_preprocessing() -> None:
    assert any(same(saved(), embedded=True))


def test_a_class_suppresses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: in one place for all groups, boxes of another class or level are lost."""
    right = portable_detector.nms
    monkeypatch.setattr(portable_detector, "nms", lambda boxes, scores, overlap: right(boxes % 65, scores, overlap))
    with pytest.raises(AssertionError):
        same(saved())


def test_its_description_and_card_say_what_it_returns() -> None:
    model = saved()
    told = described(PortableDetector(model), evaluation=model.evaluation)
    assert told["input"]["shape"] == [1, 3, 64, 64]
    assert told["outputs"]["labels"] == {"shape": [1, 30], "dtype": "int64", "category_ids": [3, 5, 7, 9]}
    assert told["outputs"]["scores"]["no_object"] == 0
    assert [step["do"] for step in told["steps"]][:3] == ["rgb", "resize", "pad"]
    proof = {
        "agreement": {"max_relative_error": 1e-6, "top1_agreement": 1.0, "top1_of": "class, box and score", "n": 64,
                      "accuracy": None, "num_detections": 123},
        "tolerance": {"top1_agreement": 0.999}, "tolerance_fp32": {"top1_agreement": 0.999},
        "images": {"name": "photos", "split": "val"}, "throughput": {"ratio": 1.2, "processor": "a CPU"},
    }  # fmt: skip
    text = detector_card(model, target="torch-export", results={}, proof=proof)
    for words in ("# Vision transformer, detector of 4 classes", "Mask R-CNN.", "Import torchvision", "tags: [image-",
                  "the same class, box and score for 100.0 % of 123 detections", "at the right"):  # fmt: skip
        assert words in text
