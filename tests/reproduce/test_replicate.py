"""The replication as a user runs it, at scale smoke: from a command to tables, claims and page."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from small_images import command

from vitlet.cli import main


def test_a_command_gives_figures_claims_and_page(smoke: Path):
    document = json.loads((smoke / "replication.json").read_text())
    (figure,) = document["items"]
    assert len(figure["measured"]["cka"]["MAE-Tiny"]) == 4
    claims = {claim["number"]: claim for claim in document["claims"]}
    assert len(claims) == 18
    assert claims[1]["answer"] == "undecided", "one seed decides nothing"
    assert len(claims[1]["parts"][0]["runs"]) == 2
    assert (claims[2]["answer"], claims[2]["why"]) == ("not run", "not asked for")
    page = (smoke / "report.html").read_text()
    assert "<svg" in page
    assert "<script" not in page


def test_tables_share_the_runs_of_claims_and_keep_three_places_apart(copied: Path, images: Path):
    assert main(command(images, copied, "--collect", what=("table-1",))) == 0
    (table,) = json.loads((copied / "replication.json").read_text())["items"]
    rows = {row["title"]: row["cells"] for row in table["rows"]}
    ori, impr = rows["MAE, 400 epochs"]
    assert (impr["published"]["value"], impr["not_run"]) == (78.0, None)
    assert impr["measured"]["n"] == 16, "fine-tuned for claim 1, shown in Table 1"
    assert (ori["measured"], ori["not_run"]) == (None, "here there is one recipe of fine-tuning")
    assert rows["D-MAE, 400 epochs"][1]["not_run"] == "not run yet"
    page = (copied / "report.html").read_text()
    assert "unconfirmed: 73.7 [M?]" in page, "recalled figures are never shown as published"
    assert "78.0 [R]" in page
