"""The page of comparisons and sweeps: safe, whole, and saying what the document says."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from vitlet.disk import write_json
from vitlet.environment import environment
from vitlet.evaluation.compare import Arm
from vitlet.evaluation.curves import Curve, Point, Question, document
from vitlet.reports.curve_page import _styles, write_curve_page
from vitlet.reports.ledger import rows

HOSTILE = "<script>alert(1)</script>\u202e"


def made(**changes: Any) -> dict[str, Any]:
    def arm(name: str, title: str, base: float, spread: float = 0.01) -> Arm:
        return Arm(name, title, (base, base + 0.001 + spread, base - spread), (0, 1, 2), (60.0, 60.0, 60.0))

    points = tuple(
        Point(x, f"{x:.0f} labels", (arm("random", "random weights", base), arm("mae", HOSTILE, base + 0.1, 0.011)))
        for x, base in ((500.0, 0.25), (5000.0, 0.4))
    )
    curve = Curve("finetune", "Fine-tuning", points, n=10_000, split="test", references=points[0].arms[:1])
    questions = [
        Question("Did it help?", f"fine-tuning with {p.label}", p.arms[1], p.arms[0], 10_000, "test") for p in points
    ]
    starts = [
        {"name": "random", "title": "random weights", "source": None, "pretraining_cpu_seconds": None},
        {"name": "mae", "title": HOSTILE, "source": f"runs/{HOSTILE}", "pretraining_cpu_seconds": 3600.0},
    ]
    found = document(
        "compare", title="Did pre-training help?", axis={"label": "labelled training images", "scale": "log"},
        data={"name": HOSTILE, "fingerprint": "0" * 16, "num_train": 50_000, "num_test": 10_000, "classes": ["a", "b"]},
        starts=starts, curves=[curve], questions=questions,
        budget={"recipe": "finetune_micro", "fingerprint": "f", "duration": {"unit": "images", "n": 12_000},
                "batch_size": 32, "seeds": [0, 1, 2]},
    )  # fmt: skip
    return found | {"machine": environment(), "wall_seconds": 3.0} | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    write_curve_page(made(), folder=out)
    return out


def test_nothing_from_outside_becomes_markup(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?:https?:|//)", page)


def test_it_says_what_the_document_says(folder: Path) -> None:
    page = re.sub(r"\s+", " ", (folder / "report.html").read_text())
    for question in made()["questions"]:
        assert question["sentence"].split(" from ")[0] in page
    assert "<dt>yes</dt><dd>2</dd>" in page
    assert ">3,600<" in page, "pre-training, CPU seconds"
    assert ">360<" in page, "six runs of fine-tuning of a minute"
    assert "12,000 images in batches of 32" in page


def test_what_was_measured_once_has_no_interval_in_new_and_old_documents(tmp_path: Path) -> None:
    """Older ones repeat the value for each seed, with an interval of no width."""
    found = made()
    curve = found["curves"][0]
    for point, changes in zip(
        curve["points"],
        (
            {"values": [0.5526], "seeds": [0], "low": None, "high": None, "once": True},
            {"values": [0.5526] * 3, "low": 0.5526, "high": 0.5526},
        ),
        strict=True,
    ):
        point["arms"][1] |= changes | {"mean": 0.5526, "title": "mae"}
    del curve["points"][1]["arms"][1]["once"]
    page = write_curve_page(found, folder=tmp_path).read_text()
    assert page.count(">one draw: all labels<") == 1
    assert page.count(">the same in every seed<") == 1
    assert "55.3 to 55.3" not in page
    write_json(tmp_path / "ledger/compare.json", found)
    measured = [row[1] for row in rows(tmp_path / "ledger")]
    assert "mae 55.3 % (one draw: all labels)" in measured[0]
    assert "mae 55.3 % (the same in every seed)" in measured[1]
    assert measured[0].startswith("random weights 25.0 % (2"), "the control: an interval"


def test_equal_documents_give_equal_bytes(tmp_path: Path) -> None:
    found = made()
    pages = [write_curve_page(found, folder=tmp_path / name).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_the_figure_is_a_file_too(folder: Path) -> None:
    text = (folder / "figures/finetune.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in text


def test_ids_on_the_page_are_unique(folder: Path) -> None:
    ids = re.findall(r' id="([^"]+)"', (folder / "report.html").read_text())
    assert len(ids) == len(set(ids))


def test_a_note_stands_under_the_title(tmp_path: Path) -> None:
    page = write_curve_page(made(note="One pre-training each."), folder=tmp_path).read_text()
    assert "One pre-training each." in page


def test_random_weights_are_grey_as_on_other_pages() -> None:
    starts = [{"name": n, "source": s} for n, s in (("random", None), ("sup", "a"), ("mae", "b"), ("random-2", None))]
    styles = _styles(starts)
    assert (styles["random"], styles["sup"]) == (1, 0)
    assert len(set(styles.values())) == 4


def test_the_ledger_has_a_row_a_point(tmp_path: Path) -> None:
    write_json(tmp_path / "curve.json", made(data={**made()["data"], "name": "cifar10"}))
    found = rows(tmp_path)
    assert [row[0] for row in found] == ["cifar10: fine-tuning, 500 labels", "cifar10: fine-tuning, 5000 labels"]
    assert found[0][1].startswith("random weights 25.0 % (22.4 to 27.6), ")
    assert found[0][2] == "3 seeds, 10,000 test images"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_opens_without_errors_and_fits(folder: Path, chromium: Any, width: int, scheme: str) -> None:
    view = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems: list[str] = []
    view.on("console", lambda message: problems.append(message.text))
    view.goto((folder / "report.html").as_uri())
    assert problems == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    view.close()
