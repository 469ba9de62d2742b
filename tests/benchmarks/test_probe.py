"""The benchmark of a grid of learning rates, in small; times are not tested."""

from typing import Any

import pytest

from vitlet.benchmarks import probe as module
from vitlet.benchmarks.probe import bench
from vitlet.recipe import EncoderConfig

SMALL = EncoderConfig(image_size=16, patch_size=8, width=24, depth=1, heads=4)


def test_both_ratios_come_from_the_same_turns_and_the_features_are_in_one_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = module.linear_probe, list[int]()

    def noted(*arguments: Any, rates: Any, **options: Any) -> Any:
        asked.append(len(rates))
        return real(*arguments, rates=rates, **options)

    monkeypatch.setattr(module, "linear_probe", noted)
    found = bench(repeats=1, num_train=40, num_test=20, num_classes=2, shape=SMALL)
    assert asked == [1, 13, 1, 13], "in turns, the first of which does not count"
    ms = found["cpu_ms"]
    assert found["rates"] == 13
    assert found["ratio"]["from cached features"] == pytest.approx(ms["grid"] / ms["one rate"])
    assert found["ratio"]["from images"] == pytest.approx(
        (ms["features"] + ms["grid"]) / (ms["features"] + ms["one rate"])
    )
