"""Weights from elsewhere become a model folder; what happens to each tensor stands in `tests/weights`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import QUIET, SMALLER, stands, write_images
from timm.models.vision_transformer import VisionTransformer

from vitlet.errors import CheckpointError, UsageError
from vitlet.jobs.importing import import_weights
from vitlet.jobs.training import finetune
from vitlet.weights.source import load_encoder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A small ViT of timm's, with a classifier of three classes."""
    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=3)
    file = tmp_path / "foreign.safetensors"
    save_file(network.state_dict(), file)
    return file


def test_a_folder_to_start_from_and_a_word_about_every_tensor(
    foreign: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stands(tmp_path)
    folder = import_weights(foreign, out=tmp_path / "model", heads=2, pixels="half")
    told = capsys.readouterr().out
    for words in ("width 24, depth 1, 2 heads, 32 px", "matched", "classifier", "3 classes", "written: "):
        assert words in told
    assert "LOST" not in told
    assert stands(tmp_path)["foreign.safetensors"] == before["foreign.safetensors"]
    saved = load_encoder(folder)
    assert (saved.encoder.normalisation.mean, saved.classes) == ((0.5, 0.5, 0.5), ("0", "1", "2"))
    run = finetune("debug_supervised", init=folder, data=data, out=tmp_path / "run", options=QUIET, set=SMALLER)
    assert run.recipe_json()["encoder"]["patch_size"] == 8


def test_the_weights_in_a_model_of_ours_are_that_model_and_need_no_import(foreign: Path, tmp_path: Path) -> None:
    """Imported as anybody's file, our own model would lose what its folder tells."""
    model = import_weights(foreign, out=tmp_path / "model", heads=2, pixels="half") / "model.safetensors"
    whole, by_file = load_encoder(model.parent), load_encoder(model)
    assert (by_file.facts, by_file.encoder.config) == (whole.facts, whole.encoder.config)
    before = stands(tmp_path)
    with pytest.raises(UsageError, match=r"model is a folder.*needs no import.*--init .*model as it is"):
        import_weights(model, out=tmp_path / "again", heads=2)
    (model.parent / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is a file"):
        load_encoder(model)
    assert stands(tmp_path).keys() == before.keys()


def test_other_things_are_never_replaced(foreign: Path, tmp_path: Path) -> None:
    precious = write_images(tmp_path / "precious", train=1)
    before = stands(precious)
    for place in (precious, foreign):
        with pytest.raises(UsageError, match="is there and not a model folder"):
            import_weights(foreign, out=place, heads=2, pixels="half")
    assert stands(precious) == before
    for _ in range(2):
        import_weights(foreign, out=tmp_path / "model", heads=2, pixels="half")


def test_nothing_is_left_where_it_cannot_be_done(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(foreign.read_bytes()[:-1])
    for file, problem in ((tmp_path / "broken.safetensors", CheckpointError), (tmp_path / "nothing", UsageError)):
        with pytest.raises(problem):
            import_weights(file, out=tmp_path / "model", heads=2, pixels="half")
    assert not (tmp_path / "model").exists()


def test_what_has_no_place_is_named_and_never_left_out_unasked(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(load_file(foreign) | {"projector.weight": torch.zeros(3, 3)}, tmp_path / "more.safetensors")
    arguments = {"out": tmp_path / "model", "heads": 2, "pixels": "half"}
    with pytest.raises(CheckpointError, match=r"projector\.weight.*--allow-partial"):
        import_weights(tmp_path / "more.safetensors", **arguments)
    assert not (tmp_path / "model").exists()
    import_weights(tmp_path / "more.safetensors", allow_partial=True, **arguments)
    assert "LOST" in capsys.readouterr().out


def test_what_is_left_out_and_what_is_missing_is_told(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student of distillation with its second head and its teacher; the control is the network alone."""
    student = {f"model.{name}": tensor for name, tensor in load_file(foreign).items()}
    second = {"model.head_dist.weight": torch.zeros(3, 24), "model.head_dist.bias": torch.zeros(3)}
    second |= {"model.dist_norm.weight": torch.ones(24), "model.dist_norm.bias": torch.zeros(24)}
    teacher = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    embedded = {f"tch_model.{name}": tensor for name, tensor in teacher.state_dict().items()}
    told = {}
    for name, tensors in {
        "alone": student,
        "taught": student | second | embedded,
        "cut": {name: tensor for name, tensor in student.items() if not name.endswith("norm1.bias")},
    }.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        import_weights(
            tmp_path / f"{name}.safetensors", out=tmp_path / name, heads=2, pixels="half", allow_partial=name == "cut"
        )
        told[name] = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "dropped 4 tensors: distillation head" in told["taught"]
    assert f"dropped {len(embedded)} tensors: embedded teacher" in told["taught"]
    assert "MISSING" not in told["taught"]
    assert "MISSING blocks.0.norm1.bias: untrained values stand there" in told["cut"]
    assert "dropped" not in told["alone"] + told["cut"]
    assert "MISSING" not in told["alone"]
