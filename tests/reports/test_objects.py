"""The section about detection, from the files of a run alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from vitlet.disk import write_json
from vitlet.errors import CheckpointError
from vitlet.reports.contents import read
from vitlet.reports.objects import objects
from vitlet.reports.page import write_page
from vitlet.run import Run

NUMBERS = {"AP": 0.4321, "AP50": 0.6, "APs": None}


def detector(path: Path, *, pictures: bool = True) -> Run:
    write_json(path / "recipe.json", {"name": "detection_micro", "objective": {"method": "detection"}})
    run = Run(path)
    for kind in ("bbox", "segm"):
        details = {"numbers": NUMBERS, "per_class": {"<b>cat</b>": 0.2, "dog": 0.9, "never": None}}
        write_json(
            run.results / f"{kind}.json",
            {
                "metric": f"{kind}_ap",
                "value": 0.4321,
                "n": 7,
                "split": "val",
                "protocol": "detection",
                "details": details,
            },
        )
    if pictures:
        images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
        run.analysis.mkdir()
        np.savez(run.analysis / "detections.npz", truth=images, found=images)
        listed = [{"file": f"{i}.png", "f1": 1 - i / 2} for i in range(3)]
        write_json(run.analysis / "detections.json", {"num_best": 2, "num_judged": 9, "split": "val", "images": listed})
    return run


def test_numbers_classes_and_galleries(tmp_path: Path) -> None:
    (found,) = objects(read([detector(tmp_path / "run")]))
    assert found.numbers.rows == (("boxes", "43.2", "60.0", "–"), ("masks", "43.2", "60.0", "–"))
    assert found.classes.rows == (("dog", "90.0", "90.0"), ("<b>cat</b>", "20.0", "20.0"))
    best, worst = found.pictures
    assert best.caption.startswith("The 2 best of 9 images")
    assert worst.sets[0][0].label == "annotated: 2.png (F1 0.00)"


def test_the_page_shows_them_escaped_and_draws_no_interval_around_an_ap(tmp_path: Path) -> None:
    page = write_page([detector(tmp_path / "run")], out=tmp_path / "report.html").read_text()
    assert 'id="objects"' in page
    assert "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "<b>cat</b>" not in page
    assert 'id="accuracy"' not in page
    assert page.count('<img src="data:image/png') == 4


def test_a_run_without_detections_has_no_section(tmp_path: Path) -> None:
    write_json(tmp_path / "other/recipe.json", {"name": "mae_micro"})
    assert objects(read([Run(tmp_path / "other")])) == ()
    (found,) = objects(read([detector(tmp_path / "bare", pictures=False)]))
    assert found.pictures == ()


def test_damaged_pictures_are_named(tmp_path: Path) -> None:
    run = detector(tmp_path / "run")
    (run.analysis / "detections.npz").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"detections\.npz cannot be read"):
        read([run])
    run = detector(tmp_path / "other")
    about = json.loads((run.analysis / "detections.json").read_text())
    write_json(run.analysis / "detections.json", about | {"images": about["images"][:2]})
    with pytest.raises(CheckpointError, match="shapes differ"):
        read([run])
