"""Tensors are what was written and what is wanted, to the name and the byte, or none is used."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitlet.errors import CheckpointError
from vitlet.weights.detector import Labels, load_detector, read_labels, write_detector
from vitlet.weights.tensors import require_same, sealed, unsealed


def tensors(**changes: Tensor | None) -> dict[str, Tensor]:
    made = {"a": torch.zeros(2, 3), "b": torch.ones(4), **changes}
    return {name: value for name, value in made.items() if value is not None}


def test_what_was_sealed_comes_back(tmp_path: Path) -> None:
    content, sha256 = sealed({"a": torch.arange(6.0).view(2, 3).T.requires_grad_()})
    (tmp_path / "w").write_bytes(content)
    assert torch.equal(unsealed(tmp_path / "w", sha256=sha256)["a"], torch.arange(6.0).view(2, 3).T)


@pytest.mark.parametrize("harm", ["flipped", "cut", "missing"])
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path, harm: str) -> None:
    content, sha256 = sealed(tensors())
    changed = {"flipped": content[:-1] + bytes([content[-1] ^ 1]), "cut": content[:-1]}.get(harm)
    if changed is not None:
        (tmp_path / "w").write_bytes(changed)
    with pytest.raises(CheckpointError, match=r"w is missing or damaged.*SHA-256"):
        unsealed(tmp_path / "w", sha256=sha256)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (tensors(b=None), r"1 tensor of 2 differs: b: missing there, \(4,\) here"),
        (tensors(c=torch.ones(1)), r"1 tensor of 3 differs: c: \(1,\) there, missing here"),
        (tensors(a=torch.zeros(3, 2)), r"1 tensor of 2 differs: a: \(3, 2\) there, \(2, 3\) here"),
        ({}, r"2 tensors of 2 differ: a: missing there, \(2, 3\) here; b: "),
    ],
    ids=["missing", "surplus", "shape", "nothing"],
)
def test_every_difference_is_named(there: dict[str, Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^It is another\. {words}.*Fix: take this"):
        require_same(there, tensors(), what="It is another", fix="take this")


def test_types_matter_where_they_are_asked_for() -> None:
    half = tensors(b=torch.ones(4, dtype=torch.float16))
    require_same(half, tensors(), what="It is another")
    with pytest.raises(CheckpointError, match=r"b: float16 \(4,\) there, float32 \(4,\) here"):
        require_same(half, tensors(), what="It is another", types=True)


def test_names_from_a_file_cannot_move_the_cursor() -> None:
    with pytest.raises(CheckpointError) as caught:
        require_same({"\x1b[2J": torch.ones(1)}, {}, what="It is another")
    assert "\x1b" not in str(caught.value)
    assert r"\x1b[2J" in str(caught.value)


def test_a_detector_is_loaded_whole_or_not_at_all(tmp_path: Path) -> None:
    """By the same functions as an encoder."""
    labels, made, other = Labels(("cat", "dog"), (3, 7)), nn.Linear(3, 2), nn.Linear(3, 2)
    write_detector(tmp_path / "d", made, labels=labels, facts={})
    assert read_labels(tmp_path / "d") == labels
    load_detector(tmp_path / "d", other)
    assert torch.equal(other.weight, made.weight)
    wider = nn.Linear(4, 2)
    before = wider.weight.clone()
    with pytest.raises(CheckpointError, match=r"does not fit the detector.*1 tensor of 2 differs: weight: \(2, 3\)"):
        load_detector(tmp_path / "d", wider)
    assert torch.equal(wider.weight, before)
    file = tmp_path / "d" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is missing or damaged"):
        load_detector(tmp_path / "d", made)
