"""A document that lacks a key gives a page without what it says, or an error that names file and key: no traceback."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_objects import detector
from test_replication import document

from vitlet.disk import write_json
from vitlet.errors import CheckpointError, VitletError
from vitlet.jobs.reporting import report
from vitlet.json_objects import JsonObject

ALWAYS_NEEDED = {
    "comparison.json": {"question", "verdict", "protocols"},
    "metrics.jsonl": {"step"},
    "results/knn.json": {"metric", "value"},
    "results/bbox.json": {"metric", "value", "n", "split", "details"},
    "analysis/detections.json": {"num_best", "num_judged", "split", "images"},
    "data_check.json": {"name", "num_images", "bad", "balance", "leaks", "notes", "lost_classes"},
    "replication.json": {"kind", "scale", "seeds", "items", "claims", "runs", "failed", "waiting", "command"},
    "recipe.json": set(),
    "environment.json": set(),
    "analysis/reconstructions.json": set(),
}
"""By the kinds of documents: keys without which there is no page; of others the test does not ask which they are."""


@pytest.fixture
def place(tmp_path: Path, run_maker: Callable[..., Any], comparison_maker: Callable[..., Any]) -> Callable[[str], Path]:
    """Makes the document of a name among what a report about it needs."""

    def make(name: str) -> Path:
        if name == "replication.json":
            write_json(tmp_path / name, document())
            return tmp_path / name
        run = tmp_path / "pretrain"
        if "bbox" in name or "detections" in name:
            detector(run)
        else:
            run_maker(run, steps=11)
        if name == "comparison.json":
            write_json(tmp_path / name, comparison_maker() | {"pretrained": "pretrain"})
            return tmp_path / name
        return run / name

    return make


def told(file: Path) -> VitletError | None:
    """What the report about `file` or about its run says, where it says anything."""
    run = file.parent / "pretrain" if file.name == "comparison.json" else file.parent
    about = file if file.name == "replication.json" else next(p for p in (run, run.parent) if p.name == "pretrain")
    try:
        report([about], out=about.parent / "page.html")
    except VitletError as error:
        return error
    return None


@pytest.mark.parametrize("name", ALWAYS_NEEDED)
def test_no_key_that_is_missing_ends_in_a_traceback(name: str, place: Callable[[str], Path]) -> None:
    file = place(name)
    assert told(file) is None, "whole"
    found, refused = json.loads(file.read_text()), set()  # of metrics.jsonl there is one row
    for key in found:
        file.write_text(json.dumps({k: v for k, v in found.items() if k != key}) + "\n")
        if (error := told(file)) is not None:
            assert error.exit_code == (2 if key == "kind" else CheckpointError.exit_code)
            assert file.name in str(error)
            assert key == "kind" or f"lacks {key}." in str(error)
            refused.add(key)
    assert refused >= ALWAYS_NEEDED[name]


@pytest.mark.parametrize("name", [name for name in ALWAYS_NEEDED if name.endswith(".json")])
def test_what_is_no_object_is_named(name: str, place: Callable[[str], Path]) -> None:
    file = place(name)
    file.write_text("[]")
    assert file.name in str(told(file))


def test_the_control_of_plain_dicts(place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: a foreign comparison beside a run, and a traceback."""
    file = place("comparison.json")
    file.write_text('{"question": "?"}')
    assert "comparison.json lacks protocols" in str(told(file))
    monkeypatch.delattr(JsonObject, "__missing__")
    with pytest.raises(KeyError, match="protocols"):
        told(file)
