"""Evaluation by several ranks: every image is looked at by one of them, and the files are those of one process."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_runs import QUIET, write_image

from vitlet.data import check as decoding
from vitlet.errors import DataError
from vitlet.evaluation import features
from vitlet.jobs import evaluation
from vitlet.jobs.analysing import analyse
from vitlet.jobs.checking import check
from vitlet.jobs.evaluation import embed, probe
from vitlet.run import Run

TOLERANT = QUIET.changed(max_bad=0.5)


@pytest.fixture
def by_ranks(tmp_path: Path, on_ranks: Callable[..., None]) -> Callable[..., list[int]]:
    """Like `on_ranks`; returns how many images each rank looked at."""

    def run(body: Callable[[], object], *, size: int) -> list[int]:
        def counting() -> None:
            real, seen = features.each_once, []

            def counted(loader):
                for batch in real(loader):
                    seen.append(len(batch))
                    yield batch

            features.each_once = evaluation.each_once = counted
            body()
            (tmp_path / f"seen-{os.environ['RANK']}").write_text(str(sum(seen)))

        on_ranks(counting, size=size)
        return [int((tmp_path / f"seen-{rank}").read_text()) for rank in range(size)]

    return run


@pytest.mark.parametrize("size", [2, 3])
def test_features_of_several_ranks_are_those_of_one(
    size: int, pretrained: Run, tmp_path: Path, by_ranks: Callable[..., list[int]]
) -> None:
    images = tmp_path / "images"
    for number in range(7):
        write_image(images / f"{number}.png", number, light=number % 2 == 1)
    (images / "broken.png").write_bytes(b"no image")
    embed(pretrained.path, data=images, out=tmp_path / "alone.parquet", options=TOLERANT)
    many = tmp_path / "many.parquet"
    looked = by_ranks(lambda: embed(pretrained.path, data=images, out=many, options=TOLERANT), size=size)
    assert sum(looked) == 7
    assert max(looked) - min(looked) <= 1
    one, other = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("alone", "many"))
    assert other["path"].to_pylist() == one["path"].to_pylist() == [f"{i}.png" for i in range(7)]
    np.testing.assert_allclose(np.stack(other["feature"].to_pylist()), np.stack(one["feature"].to_pylist()), rtol=1e-5)


def test_fewer_images_than_ranks(pretrained: Run, tmp_path: Path, by_ranks: Callable[..., list[int]]) -> None:
    write_image(tmp_path / "images" / "1.png", 1, light=True)
    body = lambda: embed(pretrained.path, data=tmp_path / "images", out=tmp_path / "f.parquet", options=QUIET)  # noqa: E731
    by_ranks(body, size=2)
    assert pq.read_table(tmp_path / "f.parquet").num_rows == 1


def test_a_probe_is_written_once(
    pretrained: Run, data: Path, tmp_path: Path, by_ranks: Callable[..., list[int]]
) -> None:
    run = Run(shutil.copytree(pretrained.path, tmp_path / "run"))
    shutil.rmtree(run.results, ignore_errors=True)
    alone = probe(run.path, data=data, protocol="knn", options=QUIET)
    looked = by_ranks(lambda: probe(run.path, data=data, protocol="knn", options=QUIET), size=2)
    assert min(looked) > 0
    (file,) = run.results.glob("*.json")
    assert f'"value": {alone.value}' in file.read_text()
    assert sum(looked) >= alone.n


def test_fewer_batches_than_ranks_are_looked_at_by_some(
    pretrained: Run, data: Path, tmp_path: Path, by_ranks: Callable[..., list[int]]
) -> None:
    alone, many = tmp_path / "alone", tmp_path / "many"
    analyse([str(pretrained.path)], data=data, out=alone, images=32, options=QUIET)
    by_ranks(lambda: analyse([str(pretrained.path)], data=data, out=many, images=32, options=QUIET), size=2)
    for name, key in (("similarity", "cka"), ("spectrum", "patch_delta.0")):
        with np.load(alone / f"analysis/{name}.npz") as one, np.load(many / f"analysis/{name}.npz") as other:
            np.testing.assert_allclose(other[key], one[key], rtol=1e-5)


def test_a_check_is_made_by_one_rank_of_a_host(tmp_path: Path, on_ranks: Callable[..., None]) -> None:
    """The other takes what it found; both refuse what is bad, and the files are those of one process."""
    images = tmp_path / "images"
    for number in range(6):
        write_image(images / f"{number}.png", number, light=number % 2 == 1)
    (images / "broken.png").write_bytes(b"no image")
    check(images, out=tmp_path / "alone", options=TOLERANT)

    def body() -> None:
        os.environ["VITLET_CACHE"] = str(tmp_path / "cache")  # the first of the host finds nothing there
        real, decoded = decoding.parallel, []

        def counted(examine: Any, rows: Iterable[int], **named: Any) -> Any:
            decoded.extend(rows := list(rows))
            return real(examine, rows, **named)

        decoding.parallel = counted
        check(images, out=tmp_path / "two", options=TOLERANT)
        with pytest.raises(DataError, match="1 of 7"):
            check(images, options=QUIET)
        (tmp_path / f"decoded-{os.environ['RANK']}").write_text(str(len(decoded)))

    on_ranks(body, size=2)
    assert [(tmp_path / f"decoded-{rank}").read_text() for rank in range(2)] == ["7", "0"]
    for name in ("bad_files.csv", "copies.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    one, two = (json.loads((tmp_path / name / "data_check.json").read_text()) for name in ("alone", "two"))
    assert two | {"images_per_second": 0} == one | {"images_per_second": 0}
