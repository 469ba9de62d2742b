"""Boxes and masks follow their image: where a pixel of an object goes, its box and mask go too."""

from pathlib import Path

import pytest
import torch
from pycocotools import mask as reference
from torch import Tensor

from vitlet.augmentation import Fit, LargeScaleJitter, View
from vitlet.data.bad_image import BadImage
from vitlet.data.batch import Targets
from vitlet.data.decode import decode
from vitlet.data.detection.annotations import Annotations, annotations_of
from vitlet.data.detection.following import Objects, look_with_objects
from vitlet.data.detection.outlines import from_masks, to_mask
from vitlet.data.index import Index, open_index
from vitlet.data.views import apply_view
from vitlet.normalisation import Normalisation

JITTER = View(size=48, crop=LargeScaleJitter(scale=(0.5, 2.0)))


@pytest.fixture
def index(annotated: Path) -> Index:
    return open_index(annotated)


@pytest.fixture
def annotations(index: Index) -> Annotations:
    found = annotations_of(index)
    assert found is not None
    return found


def looked(
    index: Index, annotations: Annotations, row: int, *, key: int, view: View = JITTER
) -> tuple[Tensor, Targets]:
    image = decode(index.read(row), path=index.path(row))
    pixels, targets = look_with_objects(image, annotations, row, view=view, masks=True, key=key)
    assert torch.equal(pixels, apply_view(image, view, key=key)), "the image is what it is without objects"
    return pixels, targets


def coloured(pixels: Tensor) -> Tensor:
    """Where the rectangle is; its border blurs by resizing."""
    red, green, blue = pixels.int()
    return (torch.maximum(red, green) - blue) > 60


def test_masks_cover_what_they_covered_and_boxes_are_tight(index: Index, annotations: Annotations) -> None:
    seen = 0
    for key in range(40):
        row = key % 5
        pixels, targets = looked(index, annotations, row, key=key)
        if not len(targets.boxes):
            assert coloured(pixels).sum() < 12, "only what is less than a pixel wide is dropped"
            continue
        seen += 1
        assert targets.labels.tolist() == [row % 2]
        mask, shown = targets.masks[0].bool(), coloured(pixels)
        assert (mask & shown).sum() >= 0.75 * (mask | shown).sum()
        left, top, right, bottom = targets.boxes[0].tolist()
        rows, columns = torch.where(mask)
        ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        for edge, pixel in zip((left, top, right, bottom), ends, strict=True):
            assert abs(edge - int(pixel)) <= 1.0
        assert 0 <= left < right <= 48
        assert 0 <= top < bottom <= 48
    assert seen > 25


def test_flips_and_cuts_happen(index: Index, annotations: Annotations) -> None:
    """The control of the test above: the views differ, and some cut the object."""
    boxes = [looked(index, annotations, 0, key=key)[1].boxes for key in range(20)]
    found = torch.cat(boxes)
    assert len(found.round().unique(dim=0)) > 10
    assert ((found == 0) | (found == 48)).any()


def test_the_same_key_gives_the_same(index: Index, annotations: Annotations) -> None:
    torch.manual_seed(1)
    first = looked(index, annotations, 1, key=3)[1]
    torch.manual_seed(2)
    second = looked(index, annotations, 1, key=3)[1]
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.masks, second.masks)


def test_what_a_mirrored_image_leaves_is_on_the_right(index: Index, annotations: Annotations) -> None:
    """Its boxes are mirrored within the image, not within the square that it leaves empty."""
    view = View(size=96, crop=LargeScaleJitter(scale=(0.5, 0.5)), flip=1.0)
    width = 48  # of 96: the longer side
    for masks in (True, False):
        image = decode(index.read(1), path=index.path(1))
        _, targets = look_with_objects(image, annotations, 1, view=view, masks=masks, key=0)
        left, _, right, _ = targets.boxes[0].tolist()
        assert (left, right) == pytest.approx((width * (1 - 23 / 40), width * (1 - 5 / 40)), abs=0.6)


def test_crowds_are_left_out_and_empty_images_stay(index: Index, annotations: Annotations) -> None:
    whole = View(size=48, crop=Fit(), flip=0)
    assert looked(index, annotations, 0, key=0, view=whole)[1].labels.tolist() == [0]
    empty = looked(index, annotations, 5, key=0, view=whole)[1]
    assert (len(empty.boxes), empty.masks.shape) == (0, (0, 48, 48))
    scale = 48 / 40
    box = looked(index, annotations, 1, key=0, view=whole)[1].boxes[0]
    torch.testing.assert_close(box, torch.tensor([5.0, 6, 23, 19]) * scale, rtol=0, atol=0.3)


def test_what_the_image_leaves_is_filled_as_without_objects(index: Index, annotations: Annotations) -> None:
    image, view = decode(index.read(1), path=index.path(1)), View(size=48, crop=Fit(), flip=0)
    red = Normalisation(mean=(1.0, 0.0, 0.0))
    pixels, _ = Objects(annotations, masks=False).look(image, 1, view=view, key=3, normalisation=red)
    assert pixels[:, -1, -1].tolist() == [255, 0, 0]
    assert torch.equal(pixels, apply_view(image, view, key=3, normalisation=red))


def test_boxes_alone(index: Index, annotations: Annotations) -> None:
    image = decode(index.read(1), path=index.path(1))
    _, targets = Objects(annotations, masks=False).look(image, 1, view=JITTER, key=3)
    assert targets.masks is None
    assert len(targets.boxes) == 1


def test_an_image_of_another_size_than_its_annotations(annotations: Annotations) -> None:
    with pytest.raises(BadImage, match="it has 32×40 pixels, its annotations were made on 40×32"):
        Objects(annotations, masks=True).require(0, torch.zeros(3, 40, 32, dtype=torch.uint8), path="a.png")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_outlines_are_cocos() -> None:
    polygon = [[3.2, 4.1, 20.7, 5.5, 17.3, 22.9, 2.0, 15.5]]
    mine = to_mask(polygon, height=30, width=25)
    theirs = reference.decode(reference.merge(reference.frPyObjects(polygon, 30, 25)))
    assert mine.sum() > 100
    assert (mine == theirs).all()
    (runs,) = from_masks([mine])
    assert (to_mask(runs, height=30, width=25) == mine).all()
    assert reference.area(runs) == mine.sum()
