"""The analysis page: drawn from the stored files alone, hostile names included."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from vitlet.analysis import record
from vitlet.analysis.diagnosis import Suggestion
from vitlet.analysis.layers import ProbeCurve
from vitlet.analysis.survey import Subject, Survey
from vitlet.data.batch import Batch
from vitlet.disk import write_json
from vitlet.environment import environment
from vitlet.errors import CheckpointError
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig
from vitlet.reports.analysis import write_analysis_page

CONFIG = EncoderConfig(image_size=16, patch_size=4, width=24, depth=2, heads=3)
HOSTILE = "<script>alert(1)</script>&'\""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an analysis of two encoders leaves, one of a name that means harm."""
    out = tmp_path_factory.mktemp("analysed")
    subjects = [Subject("plain", Encoder(CONFIG, seed=1)), Subject(HOSTILE, Encoder(CONFIG, seed=2))]
    survey = Survey(subjects)
    draw = torch.Generator().manual_seed(0)
    for first in (0, 8):
        pixels = torch.randint(0, 256, (8, 3, 16, 16), generator=draw, dtype=torch.uint8)
        positions = torch.arange(first, first + 8)
        survey.run([Batch((pixels,), positions % 2, positions, positions)])
    correct = np.arange(48).reshape(3, 16) % 3 == 0
    curves = [[ProbeCurve("knn", correct), ProbeCurve("logistic", correct)]] * 2
    source = out / "analysis"
    record.write_survey(source, survey, published=False)
    gradients = [
        record.Gradients({"attention": [0.1, 0.2], "mlp": [0.3, 0.4]}, "mean loss over 16 images"),
        record.Gradients(None, "no classifier, so no loss"),
    ]
    record.write_layers(source, survey, curves, gradients, num_labels=100)
    record.write_weights(source, [("plain", HOSTILE, {"attention": [0.1, 0.2], "mlp": [0.3, 0.4]})])
    maps = torch.full((8, 3, 4, 4), 1 / 16)
    colours = np.zeros((8, 4, 4, 3), dtype=np.uint8)
    record.write_pictures(
        source,
        np.zeros((8, 16, 16, 3), dtype=np.uint8),
        names=["plain", HOSTILE],
        colours=[colours] * 2,
        attention=[maps] * 2,
    )
    suggestions = [
        Suggestion("Initialisation", f"{HOSTILE} is better.", "Start there.", "vitlet finetune X", "high"),
        Suggestion("Top blocks", "Nothing.", "", "", "no evidence"),
    ]
    record.write_diagnosis(source, suggestions)
    about = {
        "models": [{"name": "plain", "source": "runs/plain"}, {"name": HOSTILE, "source": "runs/evil"}],
        "data": {"name": "digits", "fingerprint": "0"}, "split": "test", "images": 16, "batch_size": 8, "seed": 0,
        "published_quirks": False, "wall_seconds": 3.0, "environment": environment(),
    }  # fmt: skip
    write_json(source / "about.json", about)
    write_analysis_page(out)
    return out


def test_nothing_from_outside_becomes_markup(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"(?:src|href)=\"(?:https?:|//)", page)
    assert "default-src 'none'" in page


def test_equal_files_give_equal_bytes(folder: Path) -> None:
    before = (folder / "report.html").read_bytes()
    write_analysis_page(folder)
    assert (folder / "report.html").read_bytes() == before


def test_suggestions_say_how_sure_they_are(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "confidence: high" in page
    assert page.index("confidence: high") < page.index("no evidence</span>")
    assert "vitlet finetune X" in page


def test_each_figure_is_a_file_that_follows_the_theme_by_itself(folder: Path) -> None:
    files = sorted((folder / "figures").glob("*.svg"))
    assert {f.name.split("-")[0] for f in files} == {"similarity", "attention", "spectrum", "layers", "weights"}
    for file in files:
        text = file.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        used, known = (set(re.findall(pattern, text)) for pattern in (r"var\(--([\w-]+)\)", r"--([\w-]+): #"))
        assert used <= known
        assert "prefers-color-scheme: dark" in text


def test_ids_on_the_page_are_unique(folder: Path) -> None:
    ids = re.findall(r' id="([^"]+)"', (folder / "report.html").read_text())
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_the_page_opens_without_errors_and_fits(folder: Path, chromium, width: int, scheme: str) -> None:
    view = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems: list[str] = []
    view.on("console", lambda message: problems.append(message.text))
    view.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    view.goto((folder / "report.html").as_uri())
    assert problems == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    sizes = view.eval_on_selector_all(
        "svg text", "all => all.map(e => e.getBoundingClientRect().height).filter(h => h > 0)"
    )
    assert min(sizes) >= 9.5
    view.close()


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "analysis").iterdir():
        (tmp_path / "analysis").mkdir(exist_ok=True)
        (tmp_path / "analysis" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "analysis" / "similarity.npz").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"similarity\.npz cannot be read"):
        write_analysis_page(tmp_path)
