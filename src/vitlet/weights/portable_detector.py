"""A detector as a single module for export: the detections of one image, in tensors whose shapes no image changes.

    boxes    (1 M 4)      left, top, right and bottom, in pixels of the square that the model sees
    labels   (1 M)        class numbers from 0
    scores   (1 M)        descending; 0 where there is no object
    masks    (1 M 28 28)  relative to the box, inside from 0.5; from a detector with masks

The steps are those of `Detector.detect`, which removes what it rejects. Here rejected regions and objects stay in their
places with a score that says so, and fixed numbers of the best are taken. Three steps handle as many rows as an image
has, between tensors of fixed shapes: the alignment of regions by their level, and the suppression of overlapping boxes
among proposals and among objects. Runtimes have operators of their own for both.
"""

import itertools
from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import nms

from vitlet.nn.detection.detector import whole_images
from vitlet.nn.encoder import Encoder
from vitlet.weights.detector import SavedDetector
from vitlet.weights.portable import Portable

_LEAST_SIDE = 1e-2
"""In pixels: torchvision's heads drop smaller objects."""
_REJECTED = -1.0
_FAR = ((-2.0, -2.0, -1.0, -1.0), (-4.0, -4.0, -3.0, -3.0))


@final
class PortableDetector(Portable):
    """An encoder and the detector on it."""

    any_batch = False

    def __init__(self, saved: SavedDetector, *, embed_preprocessing: bool = False) -> None:
        """Share the tensors of `saved`, and compute for its image size what cannot be traced."""
        super().__init__(saved, embed_preprocessing=embed_preprocessing)
        self.detector, self.category_ids = saved.detector, saved.category_ids
        self.eval().requires_grad_(False)
        images = torch.zeros(1, 3, self.image_size, self.image_size)
        whole, levels = whole_images(images), self._levels(images)
        (anchors,) = self.detector.proposals.anchor_generator(whole, list(levels.values()))
        self.register_buffer("anchors", anchors, persistent=False)
        regions = self.detector.regions
        for pool in (regions.box_roi_pool, regions.mask_roi_pool):
            if pool is not None:
                pool(levels, [anchors[:1]], whole.image_sizes)  # it keeps the scales of the levels

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """`boxes`, `labels`, `scores` and, with a mask head, `masks`."""
        shape = self.detector.shape
        num_regions = min(shape.proposals, len(cast(Tensor, self.anchors)))
        most = min(shape.most_detections, num_regions * shape.num_classes)
        told = {
            "boxes": {"shape": [1, most, 4], "unit": "pixels of the padded square", "order": "left top right bottom"},
            "labels": {"shape": [1, most], "dtype": "int64", "category_ids": list(self.category_ids)},
            "scores": {"shape": [1, most], "order": "descending", "no_object": 0, "least": shape.score_threshold},
        }
        masks = {"shape": [1, most, 28, 28], "relative_to": "box", "inside_from": 0.5}
        return told | ({"masks": masks} if shape.masks else {})

    def computed(self, images: Float[Tensor, "1 3 S S"]) -> tuple[Tensor, ...]:
        """As `Portable.computed`."""
        levels = self._levels(images)
        regions, real = self._proposed(levels)
        boxes, labels, scores = self._objects(levels, regions, real)
        found = (boxes[None], labels[None], scores[None])
        return (*found, self._masks(levels, boxes, labels)[None]) if self.detector.shape.masks else found

    def _levels(self, images: Tensor) -> dict[str, Tensor]:
        encoder = cast(Encoder, self.encoder)
        return self.detector.features(encoder, encoder.vit.patch_embed(images))

    def _proposed(self, levels: dict[str, Tensor]) -> tuple[Float[Tensor, "R 4"], Bool[Tensor, "R"]]:
        """Return the best regions of the image, and which of them are not there to fill up the number."""
        network, count = self.detector.proposals, self.detector.shape.proposals
        found = network.head(list(levels.values()))
        sizes = [scores[0].numel() for scores in found[0]]
        objectness, offsets = concat_box_prediction_layers(*found)
        best = [part.topk(min(count, len(part)))[1] for part in objectness[:, 0].split(sizes)]
        starts = itertools.accumulate(sizes[:-1], initial=0)
        rows = torch.cat([places + start for places, start in zip(best, starts, strict=True)])
        level = torch.cat([torch.full_like(places, number) for number, places in enumerate(best)])
        boxes = network.box_coder.decode_single(offsets[rows], cast(Tensor, self.anchors)[rows])
        boxes = boxes.clamp(0, self.image_size)
        scores = objectness[rows, 0].sigmoid().where(_sides_reach(boxes, network.min_size), _REJECTED)
        kept = scores.where(self._kept(boxes, level, scores, overlap=network.nms_thresh), _REJECTED)
        top, rows = kept.topk(min(count, len(kept)))
        return boxes[rows], top > _REJECTED

    def _objects(
        self, levels: dict[str, Tensor], regions: Float[Tensor, "R 4"], real: Bool[Tensor, "R"]
    ) -> tuple[Float[Tensor, "M 4"], Int[Tensor, "M"], Float[Tensor, "M"]]:
        """Return the boxes, class numbers and scores of the best objects."""
        heads, classes = self.detector.regions, self.detector.shape.num_classes
        aligned = heads.box_roi_pool(levels, [regions], [(self.image_size, self.image_size)])
        logits, offsets = heads.box_predictor(heads.box_head(aligned))
        boxes = heads.box_coder.decode_single(offsets, regions).unflatten(1, (-1, 4))[:, 1:].flatten(0, 1)
        boxes = boxes.clamp(0, self.image_size)
        scores = (logits.softmax(dim=-1) * real[:, None])[:, 1:].flatten()  # the first class is the background
        labels = torch.arange(classes).repeat(len(regions))
        (rows,) = ((scores > heads.score_thresh) & _sides_reach(boxes, _LEAST_SIDE)).nonzero(as_tuple=True)
        kept = self._kept(boxes[rows], labels[rows], scores[rows], overlap=heads.nms_thresh)
        scores = torch.zeros_like(scores).index_put((rows,), scores[rows] * kept)
        top, rows = scores.topk(min(heads.detections_per_img, len(scores)))
        return boxes[rows], labels[rows], top

    def _masks(
        self, levels: dict[str, Tensor], boxes: Float[Tensor, "M 4"], labels: Int[Tensor, "M"]
    ) -> Float[Tensor, "M 28 28"]:
        heads = self.detector.regions
        assert heads.mask_roi_pool is not None
        assert heads.mask_head is not None
        assert heads.mask_predictor is not None
        aligned = heads.mask_roi_pool(levels, [boxes], [(self.image_size, self.image_size)])
        masks = heads.mask_predictor(heads.mask_head(aligned)).sigmoid()
        return masks[torch.arange(len(boxes)), labels + 1]

    def _kept(self, boxes: Tensor, groups: Tensor, scores: Tensor, *, overlap: float) -> Tensor:
        """Which boxes (n 4, n unknown to the graph) no better one of the same group overlaps by more than `overlap`.

        Every group is moved to a place of its own. In a traced graph torchvision's operator must keep two boxes at
        least; two that overlap no other see to it.
        """
        apart = boxes + (groups * (self.image_size + 1)).to(boxes)[:, None]
        apart = torch.cat([boxes.new_tensor(_FAR), apart])
        keep = nms(apart, torch.cat([scores.new_zeros(2), scores]), overlap)
        return torch.zeros_like(apart[:, 0], dtype=torch.bool).index_fill(0, keep, True)[2:]


def _sides_reach(boxes: Float[Tensor, "n 4"], least: float) -> Bool[Tensor, "n"]:
    return ((boxes[:, 2:] - boxes[:, :2]) >= least).all(dim=1)
