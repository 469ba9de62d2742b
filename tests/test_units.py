import math

import pytest
from pydantic import TypeAdapter, ValidationError

from vitlet.errors import UsageError
from vitlet.units import Duration, Epochs, Images, Share, Steps, cosine, steps_per_epoch, to_steps, warmup_cosine


def test_an_epoch_drops_the_rest() -> None:
    assert steps_per_epoch(num_images=1_281_167, batch_size=4096) == 312
    assert steps_per_epoch(num_images=10, batch_size=10) == 1
    with pytest.raises(UsageError, match=r"batch size 64 is larger than the 10 training images.*--batch-size 10"):
        steps_per_epoch(num_images=10, batch_size=64)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (Steps(n=7), 7),
        (Epochs(n=2), 20),
        (Epochs(n=0.25), 2),
        (Images(n=100), 10),
        (Images(n=101), 11),
        (Epochs(n=0), 0),
    ],
)
def test_durations_in_steps(duration: Epochs | Steps | Images, steps: int) -> None:
    assert to_steps(duration, num_images=105, batch_size=10) == steps


def test_steps_and_images_need_no_full_batch() -> None:
    assert to_steps(Steps(n=3), num_images=1, batch_size=10) == 3
    assert to_steps(Images(n=5), num_images=1, batch_size=10) == 1


def test_the_unit_decides_the_type() -> None:
    adapter = TypeAdapter(Duration)
    assert adapter.validate_json('{"unit": "epochs", "n": 2.5}') == Epochs(n=2.5)
    assert adapter.validate_json('{"unit": "steps", "n": 2}') == Steps(n=2)
    for wrong in ('{"unit": "days", "n": 2}', '{"unit": "steps", "n": 2.5}', '{"unit": "epochs", "n": -1}', '{"n": 2}'):
        with pytest.raises(ValidationError):
            adapter.validate_json(wrong)


def test_warm_up_and_cosine_at_named_steps() -> None:
    def lr(step: int) -> float:
        return warmup_cosine(step, total=110, warmup=10, start=0.1, peak=1.1, end=0.01)

    assert lr(0) == 0.1
    assert lr(5) == pytest.approx(0.6)
    assert lr(10) == pytest.approx(1.1)
    assert lr(60) == pytest.approx((1.1 + 0.01) / 2)
    assert lr(35) == pytest.approx(0.01 + 1.09 * (1 + math.cos(math.pi / 4)) / 2)
    assert lr(110) == lr(1000) == 0.01
    assert all(lr(s) > lr(s + 1) for s in range(10, 109))


def test_degenerate_schedules() -> None:
    assert warmup_cosine(0, total=0, warmup=0, start=0, peak=1, end=0.5) == 0.5
    assert warmup_cosine(4, total=5, warmup=5, start=0, peak=1, end=0.5) == pytest.approx(0.8)
    assert cosine(0, total=10, start=0.99, end=1.0) == 0.99
    assert cosine(5, total=10, start=0.99, end=1.0) == pytest.approx(0.995)
    assert cosine(10, total=10, start=0.99, end=1.0) == 1.0


def test_a_share_is_of_the_run_it_stands_in():
    assert to_steps(Share(n=0.1), num_images=10, batch_size=2, total=50) == 5
    with pytest.raises(AssertionError, match="share of itself"):
        to_steps(Share(n=0.1), num_images=10, batch_size=2)
