"""The benchmark of detection, in small."""

import pytest
import torch

from vitlet.benchmarks.detection import _batch, bench
from vitlet.recipe import EncoderConfig
from vitlet.recipes.detection import DetectionObjective


@pytest.mark.timeout(300)
def test_both_take_a_step_and_the_ratio_is_theirs_over_ours() -> None:
    before = torch.get_rng_state()
    found = bench(
        repeats=1,
        size=64,
        encoder=EncoderConfig(image_size=64, patch_size=16, width=24, depth=3, heads=2, final_norm=False),
        objective=DetectionObjective(channels=16, box_width=16, box_samples=16, global_blocks=(2,), window=2),
        reference={"box_batch_size_per_image": 8, "rpn_post_nms_top_n_train": 20},
    )
    assert found["ratio"] == pytest.approx(found["cpu_ms"]["torchvision"] / found["cpu_ms"]["vitlet"])
    assert found["parameters"]["torchvision"] > 44_000_000 > 100 * found["parameters"]["vitlet"] / 2
    assert torch.equal(torch.get_rng_state(), before)


def test_objects_are_as_large_as_their_masks() -> None:
    (targets,) = _batch(100, 1).targets
    for box, mask in zip(targets.boxes, targets.masks, strict=True):
        sides = box[2:] - box[:2]
        assert (sides >= 3.9).all()
        assert abs(float(mask.sum()) - float(sides.prod())) <= float(sides.sum()) + 1
