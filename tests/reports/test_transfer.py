"""The page about a transfer: numbers with intervals, what was tried, what was left out; names from outside inert."""

from pathlib import Path
from typing import Any

import pytest

from vitlet.disk import write_json
from vitlet.environment import environment
from vitlet.errors import CheckpointError
from vitlet.reports.ledger import rows as ledger_rows
from vitlet.reports.transfer import write_transfer_page


def setting(lr: float, value: float | None) -> dict[str, Any]:
    return {
        "recipe": "transfer_micro",
        "lr": lr,
        "duration": {"unit": "epochs", "n": 20},
        "warmup": {"unit": "epochs", "n": 4},
        "layer_decay": 0.75,
        "value": value,
        "split": "held-out train",
        "n": 800,
    }


def row(data: str, encoder: str, *values: float) -> dict[str, Any]:
    return {
        "data": data,
        "data_title": data,
        "encoder": encoder,
        "state": "done",
        "values": list(values),
        "seeds": list(range(len(values))),
        "mean": sum(values) / len(values),
        "low": min(values) if len(values) > 1 else None,
        "high": max(values) if len(values) > 1 else None,
        "n": 1000,
        "split": "test",
        "num_classes": 10,
        "labels": "4,000 labels",
        "selection": "s",
        "chosen": setting(0.1, 0.7),
        "tried": [setting(0.03, 0.6), setting(0.1, 0.7), setting(9.0, None)],
        "runs": ["r"],
        "cpu_seconds": 61.0,
    }


def page(folder: Path, *rows: dict[str, Any]) -> str:
    found = {"kind": "transfer", "suite": "mine", "selection": "chosen on held-out training images", "rows": list(rows)}
    write_json(folder / "transfer.json", found | {"wall_seconds": 3.0, "machine": environment()})
    return write_transfer_page(folder).read_text()


def test_the_page_shows_every_number_with_what_belongs_to_it(tmp_path: Path) -> None:
    missing = {"data": "pets", "data_title": "Pets", "encoder": "mae", "state": "left out", "why": "it is not whole"}
    text = page(tmp_path, row("Digits", "mae", 0.613, 0.701), row("Digits", "random", 0.121), missing)
    for shown in ("65.7", "12.1", "61.3", "70.1", "4,000 labels", "20 epochs", "diverged", "it is not whole"):
        assert shown in text, shown
    assert "chosen on held-out training images" in text
    assert text.count('class="differs"') == 2, "in each table of what was tried the best setting is marked"
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_seeds_that_diverged_are_said_beside_mean_and_interval(tmp_path: Path) -> None:
    text = page(tmp_path, row("Digits", "mae", 0.613, 0.701) | {"diverged": [0]}, row("Digits", "random", 0.121))
    assert text.count("1 of 3 seeds diverged") == 2, "in the overview and with the chosen setting"
    rows = ledger_rows(tmp_path)
    assert [n for *_, n, _ in rows] == ["2 seeds (1 more diverged), 1,000 test images", "1 seed, 1,000 test images"]


def test_where_everything_is_missing_there_is_still_a_page(tmp_path: Path) -> None:
    missing = {"data": "a", "data_title": "A", "encoder": "mae", "state": "left out", "why": "nowhere"}
    text = page(tmp_path, missing)
    assert "nowhere" in text
    assert 'id="accuracy"' not in text


def test_a_name_from_outside_is_text(tmp_path: Path) -> None:
    text = page(tmp_path, row("<img src=x onerror=alert(1)>", "a\u202eb", 0.5, 0.6))
    assert "<img src=x" not in text
    assert "\u202e" not in text


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"transfer\.json"):
        write_transfer_page(tmp_path)


def test_an_interval_ends_where_accuracies_end_and_one_epoch_is_one(tmp_path: Path) -> None:
    few = row("Digits", "mae", 0.75, 1.0) | {"low": -0.713, "high": 2.463}
    few["chosen"] = few["chosen"] | {"duration": {"unit": "epochs", "n": 1}}
    text = page(tmp_path, few)
    assert "0.0 to 100.0\N{NO-BREAK SPACE}%" in text
    assert "246.3" not in text
    assert ">1 epoch<" in text
