"""Weights by content: what changes it, what does not, and that no recipe's teacher is overlooked."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import timm

from vitlet.errors import CheckpointError, UsageError
from vitlet.nn.encoder import Encoder
from vitlet.normalisation import Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.recipes import all_recipes, by_name
from vitlet.recipes.distill import DistillObjective
from vitlet.recipes.supervised import SupervisedObjective
from vitlet.weights.content import folder_content, require_same_teacher, teacher_content
from vitlet.weights.folder import write_model
from vitlet.weights.source import evaluation_view

SHAPE = EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=2)


def written(path: Path, shape: EncoderConfig = SHAPE, *, seed: int = 1, mean: float = 0.5, run: str = "a") -> Path:
    encoder = Encoder(shape, seed=seed, normalisation=Normalisation((mean,) * 3))
    write_model(path, encoder=encoder, evaluation=evaluation_view(32), facts={"run": run})
    return path


def test_a_folder_is_known_by_tensors_heads_and_pixel_statistics(tmp_path: Path) -> None:
    first = folder_content(written(tmp_path / "first"))
    assert folder_content(written(tmp_path / "moved", run="b")) == first, "neither place nor provenance"
    others = {
        "seed": written(tmp_path / "seed", seed=2),
        "heads": written(tmp_path / "heads", SHAPE.changed(heads=3)),
        "mean": written(tmp_path / "mean", mean=0.4),
    }
    tensors = {name: (path / "model.safetensors").read_bytes() for name, path in others.items()}
    assert tensors["heads"] == tensors["mean"] == (tmp_path / "first/model.safetensors").read_bytes()
    assert len({first, *map(folder_content, others.values())}) == 4
    shutil.move(tmp_path / "first", tmp_path / "run/encoder")
    assert folder_content(tmp_path / "run") == first, "of a run, its encoder"
    with pytest.raises(CheckpointError, match="no finished encoder"):
        folder_content(tmp_path)


def test_a_classifier_of_timm_is_known_by_name_and_bytes(tmp_path: Path) -> None:
    """A teacher of fine-tuning is any network of timm, in a file or a folder that is not ours."""
    file = tmp_path / "w.safetensors"
    contents = set()
    for number in range(2):
        model = timm.create_model("resnet10t", num_classes=2 + number)
        safetensors.torch.save_file(model.state_dict(), file)
        contents |= {
            teacher_content(SupervisedObjective(teacher=f"timm:{name}@{file}")) for name in ("resnet10t", "resnet14t")
        }
    assert len(contents) == 4
    folder = tmp_path / "timm"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "resnet10t", "num_classes": 3}')
    shutil.copy(file, folder / "model.safetensors")
    before = teacher_content(SupervisedObjective(teacher=str(folder)))
    (folder / "model.safetensors").write_bytes(b"other")
    assert teacher_content(SupervisedObjective(teacher=str(folder))) != before


def test_what_is_not_on_the_disk_has_no_content(tmp_path: Path) -> None:
    assert teacher_content(DistillObjective(teacher="untrained:vit_tiny_patch16_224")) == ""
    assert teacher_content(DistillObjective()) == teacher_content(by_name("mae_micro").objective) == ""
    with pytest.raises(UsageError, match="no file or folder"):
        teacher_content(DistillObjective(teacher=str(tmp_path / "gone")))


def test_another_teacher_is_refused_where_the_first_is_known(tmp_path: Path) -> None:
    objective = DistillObjective(teacher=str(written(tmp_path / "t")))
    content = teacher_content(objective)
    require_same_teacher(objective, content)
    written(tmp_path / "t", seed=2)
    with pytest.raises(CheckpointError, match="t is not the teacher that the run began with"):
        require_same_teacher(objective, content)
    require_same_teacher(objective, "")


def test_no_recipe_learns_from_weights_under_another_name() -> None:
    """`teacher_content` looks for `teacher`: a value called otherwise would be overlooked."""
    named = {
        field
        for name in all_recipes()
        for field, about in type(by_name(name).objective).model_fields.items()
        if about.annotation in (str, str | None) and "method" not in field
    }
    assert named == {"teacher"}, "a recipe names something on the disk that no key holds"
