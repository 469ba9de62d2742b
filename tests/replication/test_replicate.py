"""The replication as a user runs it, at scale smoke: from a command to tables, claims and page."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))

from small_images import HOSTILE, command
from test_page import opened, texts

from vitlet.cli import main
from vitlet.environment import environment
from vitlet.replication.catalogue import ITEMS
from vitlet.replication.plan import NODE_FILE


def document_in(out: Path) -> dict:
    return json.loads((out / "replication.json").read_text())


def drawn(page: str, name: str) -> int:
    """Drawings in the section of a table or figure."""
    section = page[page.index(f'<section id="{name}"') :]
    return section[: section.index("</section>")].count("<svg")


def test_everything_runs_to_its_end(smoke: Path):
    document = document_in(smoke)
    assert document["waiting"] == []
    facts = [json.loads(file.read_text()) for file in smoke.glob(f"runs/*/{NODE_FILE}")]
    assert {f["kind"] for f in facts} == {"pretrain", "finetune", "probe", "look"}
    trained = {f["title"].split(" ")[0] for f in facts if f["kind"] == "pretrain"}
    assert trained >= {"mae", "mocov3", "dino", "simmim", "seed", "teacher", "dmae", "mae-0.45"}
    assert {f["subset"] for f in facts} == {None, "40%", "50%", "tail:2"}
    assert {f["keep_blocks"] for f in facts} >= {1, 2}
    assert len({f["num_labels"] for f in facts} - {None}) == 3, "transfer with three numbers of labels"
    assert {claim["answer"] for claim in document["claims"]} == {"undecided"}, "one seed decides nothing"
    cells = [c for item in document["items"] for row in item.get("rows", ()) for c in row["cells"] if c]
    assert all(cell["not_run"] != "not run yet" for cell in cells)
    assert sum(cell["measured"] is not None for cell in cells) > 60
    figures = [item for item in document["items"] if "drawing" in item]
    assert {figure["drawing"] for figure in figures} == {"similarity", "attention", "spectrum"}
    assert all(figure["measured"] and not figure["not_run"] for figure in figures)


def test_the_finished_page_draws_every_figure_and_a_hostile_name_does_nothing(smoke: Path, chromium):
    page = smoke / "report.html"
    for item in document_in(smoke)["items"]:
        is_drawn = "drawing" in item or bool(item["axis"])
        assert bool(drawn(page.read_text(), item["name"])) == is_drawn, item["name"]
    with opened(chromium, page) as view:
        assert view.seen == []
        assert view.locator("script, iframe, object, embed, form, base, video, audio").count() == 0
        assert HOSTILE in texts(view, "pre code")[0]
        assert view.locator("section[aria-labelledby]").count() == len(ITEMS) + 3
        assert view.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_command_gives_figures_claims_and_page(copied: Path, images: Path, capsys: pytest.CaptureFixture[str]):
    assert main(command(images, copied, "--collect")) == 0
    document = document_in(copied)
    (figure,) = document["items"]
    assert len(figure["measured"]["cka"]["MAE-Tiny"]) == 4
    claims = {claim["number"]: claim for claim in document["claims"]}
    assert len(claims) == 18
    assert claims[1]["answer"] == "undecided", "one seed decides nothing"
    behind = [name.rsplit("-", 2)[0] for name in claims[1]["parts"][0]["runs"]]
    assert behind == ["mae", "fine-tuned-from-mae-48-labels", "from-scratch-48-labels"], "pre-training too"
    printed = " ".join(capsys.readouterr().out.split())
    assert f"runs: {claims[1]['parts'][0]['runs'][0]}, " in printed
    assert {run["commit"] for run in document["runs"]} == {environment()["commit"]}
    assert (claims[2]["answer"], claims[2]["why"]) == ("not run", "not asked for")
    page = (copied / "report.html").read_text()
    assert "<svg" in page
    assert "<script" not in page


def test_tables_share_the_runs_of_claims_and_keep_three_places_apart(copied: Path, images: Path):
    (gone,) = copied.glob("runs/fine-tuned-from-dmae-48-labels-*")
    shutil.rmtree(gone)
    assert main(command(images, copied, "--collect", what=("table-1",))) == 0
    (table,) = json.loads((copied / "replication.json").read_text())["items"]
    rows = {row["title"]: row["cells"] for row in table["rows"]}
    *_, ori, impr = rows["MAE, 400 epochs"]
    assert (impr["published"]["value"], impr["not_run"]) == (78.0, None)
    assert impr["measured"]["n"] == 16, "fine-tuned for claim 1, shown in Table 1"
    assert (ori["measured"], ori["not_run"]) == (None, "here there is one recipe of fine-tuning")
    assert rows["D-MAE, 400 epochs"][-1]["not_run"] == "not run yet", "its folder was taken away"
    page = (copied / "report.html").read_text()
    assert "unconfirmed: 73.7 [M?]" in page, "recalled figures are never shown as published"
    assert "78.0 [R]" in page


def test_findings_of_another_folder_stay_in_a_file_that_grows(copied: Path, images: Path, tmp_path: Path, capsys):
    file = tmp_path / "replication.json"
    to_file = command(images, copied, "--collect", "--json", str(file), what=("table-1", "figure-6", "claims"))
    assert main(to_file) == 0
    before = json.loads(file.read_text())
    for gone in [*copied.glob("runs/fine-tuned-from-dmae-48-labels-*"), *copied.glob("runs/look-at-*-d-mae-*")]:
        shutil.rmtree(gone)
    assert main([*to_file[:1], "claims", *to_file[4:]]) == 0
    alone, grown = document_in(copied), json.loads(file.read_text())
    assert [c["number"] for c in alone["claims"] if c["answer"] == "not run"] == [16, 17], (
        "the control: without the file"
    )
    assert grown["claims"] == before["claims"]
    assert grown["items"] == before["items"], "tables that were not asked for stay too"
    assert {run["name"] for run in grown["runs"]} == {run["name"] for run in before["runs"]}
    assert grown["waiting"] == []
    assert len(alone["waiting"]) == 2
    assert "D-MAE" in file.with_suffix(".html").read_text()

    before["claims"][16]["parts"][0]["margin"] = 0.5
    file.write_text(json.dumps(before))
    assert main(to_file) == 0
    assert json.loads(file.read_text())["claims"][16]["answer"] == "not run", "by another rule than today's"
    file.write_text(json.dumps(before | {"seeds": [0, 1, 2]}))
    assert main(to_file) == 2
    assert "They differ in seeds" in capsys.readouterr().err


def test_every_number_is_measured_or_says_why_not(copied: Path, images: Path):
    assert main(command(images, copied, "--collect", what=("all",))) == 0
    document = json.loads((copied / "replication.json").read_text())
    cells = [
        (item["name"], row["title"], cell)
        for item in document["items"]
        for row in item.get("rows", ())
        for cell in row["cells"]
        if cell is not None
    ]
    assert len(cells) > 200
    assert [place for *place, cell in cells if (cell["measured"] is None) != bool(cell["not_run"])] == []
    rows = {title: cell for name, title, cell in reversed(cells) if name == "table-2"}
    assert rows["ResNet-18"]["not_run"] == "measured by vitlet bench models", "its parameters"
    assert rows["Swin-1G"]["not_run"] == "a model of others, not measured here"
    assert "quoted, not measured here" in {cell["not_run"] for *_, cell in cells}
