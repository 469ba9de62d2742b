"""Whose weights a file holds: a licence follows from what only the authors' files have, and else it is not known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitlet.errors import UsageError
from vitlet.nn.encoder import Encoder
from vitlet.nn.posembed import sincos_2d
from vitlet.recipes import by_name
from vitlet.weights.foreign import Imported, import_file

PIXELS = "does not say how its pixels were normalised"


def network(width: int, heads: int, *, order: str = "", **arguments: Any) -> dict[str, Tensor]:
    """The tensors of timm's ViT of 16 patches, with a table of sines and cosines if `order` names one."""
    made = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=width, depth=1, num_heads=heads, num_classes=0, **arguments
    )
    if order:
        made.pos_embed.data = sincos_2d(width, grid=4, column_first=order == "column-row")
    return dict(made.state_dict())


def read(content: Any, folder: Path, **arguments: Any) -> Imported:
    torch.save(content, folder / "file.pth")
    return import_file(folder / "file.pth", **arguments)


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def said(found: Imported, words: str) -> bool:
    return any(words in note for note in found.notes)


def decoder(width: int) -> dict[str, Tensor]:
    return {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, width)}


@pytest.mark.parametrize("more", [{}, decoder(768)], ids=["positions", "decoder"])
def test_the_form_of_mae_puts_nobody_s_licence_on_weights(more: dict[str, Tensor], tmp_path: Path) -> None:
    """MAE's own files have their tensors at the top of `model`, which are the control."""
    tensors = network(768, 12, order="column-row") | more
    authors = read({"model": tensors}, tmp_path)
    assert (authors.kind.name, authors.facts["licence"], authors.notes[0][:7]) == ("MAE", "CC-BY-NC-4.0", "LICENCE")
    assert not said(authors, PIXELS)
    for content in (tensors, {"state_dict": tensors}, {"model": below("encoder.", tensors)}):
        anybody = read(content, tmp_path)
        assert anybody.facts["licence"] == anybody.kind.licence == "not known"
        assert said(anybody, "The files of MAE's authors are CC-BY-NC-4.0; this one does not say whether it is one")
        assert not said(anybody, "facebookresearch")
        assert said(anybody, PIXELS)
        assert anybody.encoder.config == authors.encoder.config


def test_the_positions_of_moco_v3_are_neither_its_licence_nor_its_heads(tmp_path: Path) -> None:
    """MoCo-v3's own files have their tensors below `base_encoder`, which are the control."""
    tensors = network(384, 6, order="row-column")
    authors = read({"state_dict": below("module.base_encoder.", tensors)}, tmp_path)
    assert (authors.kind.name, authors.facts["licence"]) == ("MoCo-v3", "CC-BY-NC-4.0")
    assert (authors.encoder.config.heads, said(authors, PIXELS)) == (12, False)
    for content in (tensors, {"state_dict": below("module.", tensors)}):
        with pytest.raises(UsageError, match=r"does not show its number of heads.*--heads 6 or 12"):
            read(content, tmp_path)
        anybody = read(content, tmp_path, heads=6)
        assert (anybody.facts["licence"], anybody.encoder.config.heads) == ("not known", 6)
        assert anybody.encoder.config.sincos_order == "row-column"
        assert said(anybody, "The files of MoCo-v3's authors are CC-BY-NC-4.0; this one does not say")
        assert said(anybody, PIXELS)


@pytest.mark.parametrize("project", ["DINO", "DINOv2"])
def test_apache_is_not_given_away_by_the_form_of_a_file(project: str, tmp_path: Path) -> None:
    """Anybody trains a teacher, or a network with LayerScale and a mask token."""
    scaled = network(384, 6, init_values=0.5) | {"mask_token": torch.zeros(1, 384)}
    found = read(scaled if project == "DINOv2" else {"teacher": network(384, 6)}, tmp_path)
    assert (found.kind.name, found.facts["licence"]) == (project, "not known")
    assert said(found, f"The files of {project}'s authors are Apache-2.0; this one does not say whether it is one")
    assert said(found, f"pixels are taken to be normalised as {project}'s are")


@pytest.mark.parametrize("recipe", ["debug", "debug_mocov3"])
def test_a_checkpoint_of_our_own_is_nobody_elses(recipe: str, tmp_path: Path) -> None:
    """The decoder of MAE and the momentum copy of MoCo-v3 are called as theirs are."""
    values = by_name(recipe)
    objective = values.objective.build(Encoder(values.encoder), num_classes=0, seed=0)
    tensors = {f"model.{name}": value.contiguous() for name, value in objective.state_dict().items()}
    moments = {"optimizer.encoder.vit.cls_token.exp_avg": torch.zeros(1, 1, 48)}
    save_file({name: value.clone() for name, value in (tensors | moments).items()}, tmp_path / "state.safetensors")
    arguments = {} if recipe == "debug" else {"prefix": "model.encoder.vit"}
    with pytest.raises(UsageError, match="does not show its number of heads"):
        import_file(tmp_path / "state.safetensors", **arguments)
    found = import_file(tmp_path / "state.safetensors", heads=3, **arguments)
    assert (found.kind.name, found.facts["licence"]) == ("checkpoint of vitlet", "not known")
    assert said(found, "a checkpoint of a run of vitlet")
    assert not said(found, "authors")
    assert torch.equal(found.encoder.vit.pos_embed, objective.encoder.vit.pos_embed)
