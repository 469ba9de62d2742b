"""What a file of weights or a folder of a model is, before torch is imported."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vitlet.augmentation import Centre, View
from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import new_classifier
from vitlet.recipe import EncoderConfig
from vitlet.weights.files import container_of, importable, own_config, require_classifier, require_replaceable
from vitlet.weights.folder import read_model, write_model
from vitlet.weights.names import CONFIG

SMALL = EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=4)


def model(place: Path, *classes: str) -> Path:
    encoder = Encoder(SMALL.changed(final_norm=not classes))
    head: dict[str, Any] = {}
    if classes:
        head = {"classifier": new_classifier(encoder, num_classes=len(classes), pool="mean", seed=0)}
    view = View(size=32, crop=Centre(), flip=0)
    write_model(place, encoder=encoder, evaluation=view, facts={}, classes=classes, **head)
    return place


def test_the_first_bytes_say_what_holds_the_tensors(tmp_path: Path) -> None:
    tensors, file = {"a": torch.zeros(2)}, tmp_path / "weights"
    safetensors.torch.save_file(tensors, file)
    assert container_of(file) == "safetensors"
    for zipped, container in ((True, "zip"), (False, "pickle")):
        torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
        assert container_of(file) == container
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(CheckpointError, match="not a weights file"):
        container_of(file)
    with pytest.raises(CheckpointError, match="cannot read"):
        container_of(tmp_path)


def test_folders_and_other_files_are_not_imported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder.*needs no import"):
        importable(model(tmp_path / "model") / "model.safetensors")
    (tmp_path / "photo.pth").write_bytes(b"GIF89a")
    with pytest.raises(CheckpointError, match="not a weights file"):
        importable(tmp_path / "photo.pth")
    torch.save({"a": torch.zeros(2)}, tmp_path / "tensors.pth")
    assert importable(tmp_path / "tensors.pth") == tmp_path / "tensors.pth"


def test_whether_there_is_a_classifier_is_known_as_when_it_is_read(tmp_path: Path) -> None:
    encoder, classifier = model(tmp_path / "encoder"), model(tmp_path / "classifier", "cat", "dog")
    assert read_model(encoder).classifier is None
    with pytest.raises(UsageError, match=r"encoder is an encoder without a classifier.*then predict with NEW"):
        require_classifier(encoder, then="predict with NEW")
    assert read_model(classifier).classifier is not None
    require_classifier(classifier, then="predict with NEW")
    require_classifier(f"timm:vit_tiny_patch16_224@{encoder / 'model.safetensors'}", then="")  # its tensors will show


@pytest.mark.parametrize("content", [{}, [], {"vitlet": 1}])
def test_a_config_of_others_is_refused(content: object, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"was not written by vitlet.*vitlet import"):
        own_config(tmp_path)


def test_only_model_folders_are_replaced(tmp_path: Path) -> None:
    for place in (tmp_path / "new", model(tmp_path / "model")):
        require_replaceable(place)
    (tmp_path / "model/model.onnx").write_text("")
    with pytest.raises(UsageError, match="is there and not a model folder"):
        require_replaceable(tmp_path / "model")
    require_replaceable(tmp_path / "model", files={"model.onnx"})
