"""What is missing in a JSON file is an error that names the file."""

import json
import pickle
from pathlib import Path

import pytest

from vitlet.errors import CheckpointError
from vitlet.json_objects import JsonObject, parse_json

FILE = Path("runs/a/x.json")


def test_a_missing_key_names_file_and_key_at_any_depth() -> None:
    found = parse_json(b'{"a": [{"b": 1}]}', FILE)
    with pytest.raises(CheckpointError, match=r"^runs/a/x\.json lacks c\."):
        found["c"]
    with pytest.raises(CheckpointError, match=r"^runs/a/x\.json lacks d\."):
        found["a"][0]["d"]


def test_it_is_the_dict_that_it_was_otherwise() -> None:
    found = parse_json(b'{"a": [{"b": 1}]}', FILE)
    assert found == {"a": [{"b": 1}]} == json.loads(json.dumps(found))
    assert (found.get("c"), "c" in found, found["a"][0]["b"]) == (None, False, 1)
    assert type(found | {"c": 2}) is dict, "of several files, and of none"


def test_it_travels_to_other_processes() -> None:
    found = pickle.loads(pickle.dumps(parse_json(b'{"a": 1}', FILE)))
    assert (type(found), found, found.file) == (JsonObject, {"a": 1}, FILE)


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_named(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^runs/a/x\.json is not JSON"):
        parse_json(content, FILE)
