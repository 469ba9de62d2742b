import io

import pytest
from PIL import Image

from global_state import with_global_state
from vitlet.benchmarks.input import bench, photographs


@pytest.fixture(scope="module")
def measured() -> tuple[dict, bool]:
    return with_global_state(lambda: bench(repeats=1, num_images=4))


@pytest.fixture(scope="module")
def result(measured: tuple[dict, bool]) -> dict:
    return measured[0]


def test_the_result_names_both_chains_and_the_conditions(result: dict) -> None:
    assert set(result) == {
        "published_image_ms",
        "published_batch_ms",
        "ours_uint8_ms",
        "ours_batch_ms",
        "ratio",
        "folder_ms",
        "shards_256_ms",
        "shards_256_raw_ms",
        "packed_ratio",
        "pixel_difference",
        "pixel_difference_worst",
        "num_images",
        "repeats",
        "kilobytes",
        "threads",
        "processor",
        "vector_extensions",
    }
    assert result["threads"] == 1
    assert result["num_images"] == 4
    assert result["ratio"]["uint8"] == result["published_image_ms"] / result["ours_uint8_ms"]
    assert result["ratio"]["normalised"] == result["published_batch_ms"] / result["ours_batch_ms"]


def test_pixels_are_pillows_within_a_tenth_of_a_level(result: dict) -> None:
    assert result["pixel_difference"] < 0.1
    assert result["pixel_difference_worst"] < 0.5


def test_nothing_global_is_left_changed(measured: tuple[dict, bool]) -> None:
    assert measured[1]


def test_photographs_are_imagenet_sized_jpegs_and_always_the_same() -> None:
    files = photographs(6)
    assert files == photographs(6)
    assert len(set(files)) == 6
    for file in files:
        image = Image.open(io.BytesIO(file))
        assert (image.format, image.size) == ("JPEG", (500, 375))
    assert 30_000 < sum(map(len, files)) / 6 < 80_000
