"""The arithmetic of the budget against numbers worked out by hand, and the page against its file."""

import json
from pathlib import Path

import pytest

from vitlet.benchmarks.budget import bench, computed, tables
from vitlet.recipes.mae import mae_micro, mae_tiny_400e
from vitlet.reports.ledger import fill

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {
    "step_ms_per_image": 10.0,
    "kept_for_backward_bytes_per_image": 1e6,
    "gradient_bytes": 25_000_000,
    "checkpoint_bytes": 80_000_000,
    "input": {"jpeg": {"bytes": 50_000.0, "ms": 2.0}},
}
ASSUMED = {"images": 1_281_167, "network_bits_per_second": 10e9, "micro_batch": 16}


VIEWS = 4096 * 224 * 224 * 3
"""Bytes of a whole batch."""


def test_one_device_sends_nothing() -> None:
    one = computed(mae_tiny_400e(), MEASURED, ASSUMED, devices=1)
    assert one["steps"] == 400 * 312
    assert one["network_bytes_per_step"] == one["network_share"] == 0
    assert one["hours"] == pytest.approx(400 * 312 * 40.96 / 3600)
    assert one["loader_cores"]["jpeg"] == pytest.approx(0.2)  # 2 ms of every 10 ms
    assert one["disk_bytes"]["jpeg"] == 1_281_167 * 50_000
    assert one["memory_bytes"] == 116e6 + VIEWS
    assert one["prefetched_bytes"] == 2 * VIEWS
    assert one["run_bytes"] == 160e6
    assert one["store_bytes"]["jpeg"] == 401 * 1_281_167 * 50_000  # 400 epochs and the check
    assert one["store_bits_per_second"]["jpeg"] == pytest.approx(40e6)  # 50 kB every 10 ms


def test_many_devices_share_the_batch_and_average_by_a_ring() -> None:
    many = computed(mae_tiny_400e(), MEASURED, ASSUMED, devices=64)
    sent = 2 * 63 / 64 * 25e6
    seconds = 0.64 + 8 * sent / 10e9
    assert many["network_bytes_per_step"] == pytest.approx(sent)
    assert many["hours"] == pytest.approx(400 * 312 * seconds / 3600)
    assert many["memory_bytes"] == 116e6 + VIEWS / 64
    assert many["store_bytes"]["jpeg"] == 464 * 1_281_167 * 50_000, "every host checks all images"
    assert many["store_bits_per_second"]["jpeg"] == pytest.approx(64 * 8 * 50_000 / seconds)
    assert many["network_share"] == pytest.approx(8 * sent / 10e9 / seconds)


def test_a_small_recipe_is_measured() -> None:
    found = bench(recipe=mae_micro(), repeats=1, micro_batch=2, num_photographs=2)
    measured = found["measured"]
    assert measured["step_ms_per_image"] > 0
    assert measured["checkpoint_bytes"] > 3 * measured["gradient_bytes"]  # weights and two moments
    jpeg, raw = measured["input"]["short side 256"], measured["input"]["256, raw"]
    assert raw["bytes"] > 256 * 341 * 3
    assert raw["bytes"] > 5 * jpeg["bytes"]
    twice = bench(recipe=mae_micro(), repeats=1, micro_batch=4, num_photographs=2)["measured"]
    kept = "kept_for_backward_bytes_per_image"
    assert twice[kept] == pytest.approx(measured[kept], rel=0.3)
    assert f"{measured['gradient_bytes'] / 1e6:.1f} MB" in tables(found)


def test_what_is_computed_follows_from_what_was_measured() -> None:
    figures = json.loads((ROOT / "docs/results/bench-budget.json").read_text())["figures"]
    for num, whole in figures["computed"].items():
        assert computed(mae_tiny_400e(), figures["measured"], figures["assumed"], devices=int(num)) == whole


def test_the_page_is_what_the_file_says() -> None:
    """`python -m vitlet.benchmarks.budget`, given the two paths below, brings it up to date."""
    page = (ROOT / "docs/guides/budget.md").read_text()
    figures = json.loads((ROOT / "docs/results/bench-budget.json").read_text())["figures"]
    assert fill(page, {"results": lambda _: tables(figures)}) == page
