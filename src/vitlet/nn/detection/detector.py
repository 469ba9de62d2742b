"""Faster and Mask R-CNN on the encoder, built from torchvision's detection parts.

Papers: Ren et al. 2015, He et al. 2017, with the sizes of Li et al. 2022 (ViTDet).

Differences from ViTDet as run by detectron2: regions are aligned with two samples per bin (torchvision's default) and
without the half-pixel shift; box offsets are trained with smooth L1 instead of L1; the losses are those of `regions`.
"""

from dataclasses import dataclass
from typing import cast

from jaxtyping import Float, Int, Shaped, UInt8
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from vitlet.nn.detection.blocks import WindowedBlocks
from vitlet.nn.detection.pyramid import LEVELS, SimpleFeaturePyramid
from vitlet.nn.detection.regions import KeyedSampler, Proposals, Regions, Targets
from vitlet.nn.encoder import Encoder
from vitlet.nn.init import seeded
from vitlet.rng import derive

_RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class DetectorShape:
    """Sizes of everything above the encoder; `recipes.detection` has the usual values."""

    num_classes: int
    masks: bool
    window: int
    """Side of an attention window in patches."""
    global_blocks: tuple[int, ...]
    recompute: bool
    channels: int
    """Channels of the pyramid and of the heads' convolutions."""
    anchors: tuple[int, ...]
    """Side of the square anchor in pixels, one per pyramid level."""
    proposal_convs: int
    proposal_samples: int
    proposals: int
    """Regions per image that reach the heads; chosen from twice as many per level in training, from as many in use."""
    box_convs: int
    box_width: int
    box_samples: int
    mask_convs: int
    score_threshold: float
    most_detections: int


class Detector(nn.Module):
    """Everything above the encoder; the encoder is passed with each call."""

    def __init__(self, encoder: Encoder, shape: DetectorShape, *, seed: int) -> None:
        """Random weights for an encoder shaped like `encoder`; the same seed gives the same weights."""
        super().__init__()
        self.shape, config = shape, encoder.config
        with seeded(derive(seed, "detector")):
            self.blocks = WindowedBlocks(
                grid=config.grid,
                depth=config.depth,
                head_width=config.width // config.heads,
                window=shape.window,
                global_blocks=shape.global_blocks,
                recompute=shape.recompute,
            )
            self.pyramid = SimpleFeaturePyramid(config.width, channels=shape.channels)
            self.proposals, self.regions = _proposals(shape), _regions(shape)

    def losses(
        self,
        encoder: Encoder,
        images: UInt8[Tensor, "B 3 H W"],
        targets: Targets,
        *,
        key: int,
        slots: Int[Tensor, "B"],
        survival: Float[Tensor, "P B"] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `objectness`, `proposal`, `class`, `box` and, with masks, `mask`: means over the images.

        Args:
            encoder: Encoder whose blocks are run.
            images: Values 0 … 255, of the encoder's image size.
            targets: Objects on the images.
            key: Key of the step; decides which anchors and regions are sampled.
            slots: Slots of the images in the global batch.
            survival: Factors for stochastic depth.
        """
        for sampler in (self.proposals.fg_bg_sampler, self.regions.fg_bg_sampler):
            cast(KeyedSampler, sampler).begin(key, slots)
        features, whole = self.features(encoder, encoder.embed(images), survival=survival), whole_images(images)
        proposals, found = self.proposals(whole, features, targets)
        first = {"objectness": found["loss_objectness"], "proposal": found["loss_rpn_box_reg"]}
        return first | self.regions.losses(features, proposals, whole, targets)

    def detect(self, encoder: Encoder, images: UInt8[Tensor, "B 3 H W"]) -> list[dict[str, Tensor]]:
        """Per image: `boxes` (M 4, pixels), `labels` (M, from 0), `scores` (M, descending) and, with a mask head,
        `masks` (M 28 28, relative to the box, in 0 … 1). Only in evaluation mode.
        """
        assert not self.training
        features, whole = self.features(encoder, encoder.embed(images)), whole_images(images)
        proposals, _ = self.proposals(whole, features)
        found, _ = self.regions(features, proposals, whole.image_sizes)
        for image in found:
            image["labels"] = image["labels"] - 1
            if "masks" in image:
                image["masks"] = image["masks"][:, 0]
        return found

    def features(
        self, encoder: Encoder, patches: Float[Tensor, "B N D"], *, survival: Float[Tensor, "P B"] | None = None
    ) -> dict[str, Float[Tensor, "B _ _ _"]]:
        """The levels of the pyramid by name, for all patches of images, embedded as by `Encoder.embed`."""
        return self.pyramid(self.blocks(encoder, patches, survival=survival))


def whole_images(images: Shaped[Tensor, "B 3 H W"]) -> ImageList:
    """Return images as torchvision's parts take them, each as large as the batch."""
    return ImageList(images, [(images.shape[-2], images.shape[-1])] * len(images))


def _proposals(shape: DetectorShape) -> Proposals:
    anchors = AnchorGenerator(tuple((side,) for side in shape.anchors), (_RATIOS,) * len(LEVELS))
    network = Proposals(
        anchors,
        RPNHead(shape.channels, len(_RATIOS), conv_depth=shape.proposal_convs),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=shape.proposal_samples,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * shape.proposals, "testing": shape.proposals},
        post_nms_top_n={"training": shape.proposals, "testing": shape.proposals},
        nms_thresh=0.7,
    )
    network.fg_bg_sampler = KeyedSampler(shape.proposal_samples, positive_share=0.5, purpose="anchors")
    return network


def _regions(shape: DetectorShape) -> Regions:
    channels = shape.channels
    levels: list[str] = list(LEVELS[:4])
    outputs = shape.num_classes + 1
    predictor = FastRCNNPredictor(shape.box_width, outputs)
    # Small, as in detectron2: the first losses are those of guessing, and the first boxes are the proposals.
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    heads = Regions(
        MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        FastRCNNConvFCHead((channels, 7, 7), [channels] * shape.box_convs, [shape.box_width], norm_layer=LayerNorm2d),
        predictor,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=shape.box_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=shape.score_threshold,
        nms_thresh=0.5,
        detections_per_img=shape.most_detections,
    )
    heads.fg_bg_sampler = KeyedSampler(shape.box_samples, positive_share=0.25, purpose="regions")
    if shape.masks:
        heads.mask_roi_pool = MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2)
        heads.mask_head = MaskRCNNHeads(channels, [channels] * shape.mask_convs, dilation=1, norm_layer=LayerNorm2d)
        heads.mask_predictor = MaskRCNNPredictor(channels, channels, outputs)
    return heads
