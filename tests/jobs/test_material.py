"""What a job works on: which images are learned from and counted on, the device, the encoder to start from."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import CLASSES, QUIET, SMALLER, write_image, write_images

from vitlet.cli import app
from vitlet.console import Teller
from vitlet.data.index import Index, open_index
from vitlet.data.splits import SPLITS
from vitlet.data.subsets import divide
from vitlet.errors import DataError, UsageError
from vitlet.jobs.images import judged
from vitlet.jobs.launch import Launch
from vitlet.jobs.material import gather_material, pick_device, start_content, start_encoder
from vitlet.jobs.options import Options
from vitlet.jobs.training import resolved
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.normalisation import Normalisation
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.recipes import by_name
from vitlet.run import Run
from vitlet.weights.folder import write_model
from vitlet.weights.source import evaluation_view, load_encoder


def divided(data: Path) -> tuple[Index, np.ndarray, np.ndarray, str]:
    index = open_index(data)
    train, held, split = divide(index, judged(index, QUIET, Teller(quiet=True)).good)
    assert not set(train) & set(held)
    return index, train, held, split


class TestDivide:
    @pytest.mark.parametrize(("there", "counted"), [(("test", "val"), "test"), (("val",), "val"), (("test",), "test")])
    def test_counts_on_the_test_split_or_else_on_val(
        self, there: tuple[str, ...], counted: str, tmp_path: Path
    ) -> None:
        for split in ("train", *there):
            for code, name in enumerate(CLASSES):
                write_image(tmp_path / split / name / "1.png", code, light=bool(code))
        index, train, held, split = divided(tmp_path)
        assert split == counted
        assert [SPLITS[s] for s in index.splits[train]] == ["train"] * 2
        assert [SPLITS[s] for s in index.splits[held]] == [counted] * 2

    def test_without_either_the_same_fifth_of_each_class_is_held_out(self, data: Path) -> None:
        index, train, held, split = divided(data / "train")
        assert split == "held-out train"
        assert np.bincount(index.labels[held]).tolist() == [3, 3]
        assert len(train) + len(held) == 32
        assert divided(data / "train")[2].tolist() == held.tolist()
        for seed in (0, 1):
            recipe = resolved("debug_supervised", {"seed": seed})
            launch = Launch("finetune", recipe.fingerprint(), str(data / "train"))
            material = gather_material(index, recipe, launch, QUIET, Teller(quiet=True))
            assert material.held_out.tolist() == held.tolist(), (
                "whatever the seed of a run, or runs could not be compared"
            )

    def test_images_without_a_label_are_neither(self, tmp_path: Path) -> None:
        for i in range(6):
            write_image(tmp_path / f"{i}.png", i, light=bool(i % 2))
        labels = ["a", "b", "", "a", "b", ""]
        rows = [f"{i}.png,{label}" for i, label in enumerate(labels)]
        (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
        index, train, held, _ = divided(tmp_path / "table.csv")
        assert sorted([*train, *held]) == [0, 1, 3, 4]
        recipe = by_name("debug")
        launch = Launch("pretrain", recipe.fingerprint(), str(tmp_path))
        material = gather_material(index, recipe, launch, QUIET, Teller(quiet=True))
        assert material.ids.tolist() == [*range(6)], "pre-training takes them all"
        assert len(material.held_out) == 0


def test_bad_images_are_refused_by_name(tmp_path: Path) -> None:
    root = write_images(tmp_path, train=4)
    (root / "train/dark/broken.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 9 images cannot be used.*broken\.png"):
        judged(open_index(root), QUIET, Teller(quiet=True))
    assert judged(open_index(root), QUIET.changed(max_bad=0.2), Teller(quiet=True)).good.sum() == 8


def test_the_device_that_is_asked_for_or_none() -> None:
    assert pick_device(QUIET.changed(device="cpu")) == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device(QUIET).type == best
    for absent in {"cuda", "mps"} - {best}:
        with pytest.raises(UsageError, match=rf"no {absent} device on this machine.*--device auto"):
            pick_device(QUIET.changed(device=absent))


def test_each_rank_of_a_host_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device(QUIET) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    for asked in ("auto", "cuda"):
        assert pick_device(QUIET.changed(device=asked)) == torch.device("cuda", 1)
    assert pick_device(QUIET.changed(device="cpu")) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"rank 2 of this host has no GPU.*There are 2.*--device cpu"):
        pick_device(QUIET)


def test_how_the_data_was_understood_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bus", "train"):
        write_image(tmp_path / name / "1.png", len(name), light=True)
    judged(open_index(tmp_path), Options(), Teller())
    assert "note: train is read as a class like bus" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        (Launch("pretrain", "", "/d/images"), ()),
        (Launch("pretrain", "", "/d/images", "/r/before"), ("--init", "r/before")),
        (Launch("finetune", "", "/d/images"), ("--init", "none")),
        (Launch("finetune", "", "/d/images", "/r/before", 20), ("--init", "r/before", "--num-labels", "20")),
        (Launch("pretrain", "", "/d/images", subset="0.1"), ("--subset", "0.1")),
        (Launch("pretrain", "", "/d/images", max_bad=0.125), ("--max-bad", "0.125")),
        (Launch("pretrain", "", "/d/images", follow_outside=True), ("--follow-outside",)),
    ],
)
def test_the_command_of_a_run_is_one_that_the_command_line_takes(
    launch: Launch, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative, so that it can move with the folders around it."""
    for folder in ("d/images", "r/before", "r/run"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    rooted = Launch(
        launch.verb, launch.recipe, str(tmp_path) + launch.data, launch.init and str(tmp_path) + launch.init,
        launch.num_labels, subset=launch.subset, max_bad=launch.max_bad, follow_outside=launch.follow_outside,
    )  # fmt: skip
    command = rooted.command(Path("r/run"))
    assert command == ["vitlet", launch.verb, "r/run/recipe.json", "--data", "d/images", *words, "--out", "NEW"]
    app.parse_args(command[1:], exit_on_error=False, print_error=False)
    assert shlex.split(shlex.join(command)) == command


class TestStart:
    def started(self, name: str, init: Path | str | None, *, seed: int = 3, **changes: object) -> tuple:
        recipe = resolved(name, {"seed": seed, "set": changes})
        where = None if init is None else str(init)
        return start_encoder(recipe, Launch("finetune", "", "", where, start=start_content(where)))[:2]

    def test_an_encoder_brings_its_tensors_its_shape_and_its_pixels(self, tmp_path: Path) -> None:
        source = Encoder(
            EncoderConfig(image_size=32, patch_size=8, width=36, depth=2, heads=3, mlp_ratio=2),
            normalisation=Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
            seed=7,
        )
        write_model(tmp_path / "model", encoder=source, evaluation=evaluation_view(32), facts={})
        encoder, recipe = self.started("debug_supervised", tmp_path / "model")
        for name, tensor in source.vit.state_dict().items():
            assert name.startswith("norm.") or torch.equal(encoder.vit.state_dict()[name], tensor), name
        shape = recipe.encoder
        assert (shape.patch_size, shape.width, shape.depth, shape.heads, shape.mlp_ratio) == (8, 36, 2, 3, 2)
        assert not shape.final_norm, "what is no tensor is the recipe's"
        assert recipe.data.normalisation == encoder.normalisation == source.normalisation

    def test_without_one_the_seed_decides(self) -> None:
        first, second, third = (self.started("debug", None, seed=seed)[0] for seed in (3, 3, 4))
        one, two, three = (e.state_dict()["vit.blocks.0.attn.qkv.weight"] for e in (first, second, third))
        assert torch.equal(one, two)
        assert not torch.equal(one, three)

    def test_another_image_size_is_refused(self, tmp_path: Path) -> None:
        small = Encoder(EncoderConfig(image_size=16, patch_size=4, width=24, depth=1, heads=2))
        write_model(tmp_path / "model", encoder=small, evaluation=evaluation_view(16), facts={})
        with pytest.raises(UsageError, match=r"sees 16 px.*debug_supervised works on 32 px"):
            self.started("debug_supervised", tmp_path / "model")

    def test_a_convnet_and_a_transformer_are_not_the_same(self, pretrained: Run, tmp_path: Path) -> None:
        net = ConvEncoder(ConvNetConfig(architecture="test_efficientnet", image_size=32))
        write_model(tmp_path / "net", encoder=net, evaluation=evaluation_view(32), facts={})
        with pytest.raises(UsageError, match="is a ConvNet"):
            self.started("debug_supervised", tmp_path / "net")
        with pytest.raises(UsageError, match="trains a ConvNet and the initial encoder is a vision transformer"):
            self.started("finetune_micro_convnet", pretrained.path)
        encoder, recipe = self.started("finetune_micro_convnet", tmp_path / "net")
        assert recipe.encoder.architecture == "test_efficientnet"
        assert all(torch.equal(encoder.state_dict()[name], tensor) for name, tensor in net.state_dict().items())

    @pytest.mark.parametrize("recipe", ["debug", "debug_supervised"])
    @pytest.mark.parametrize("source", ["column-row", "row-column", "learned"])
    def test_positions_keep_the_name_of_what_they_are(self, recipe: str, source: str, tmp_path: Path) -> None:
        """Where the recipe fixes them, they are fixed if the source's were; where it learns them, it still does."""
        position = {"position": "learned"} if source == "learned" else {"position": "sincos", "sincos_order": source}
        first = Encoder(EncoderConfig(image_size=32, patch_size=8, width=36, depth=1, heads=3, **position), seed=7)
        write_model(tmp_path / "model", encoder=first, evaluation=evaluation_view(32), facts={})
        encoder, changed = self.started(recipe, tmp_path / "model")
        learns = source == "learned" or recipe == "debug_supervised"
        assert torch.equal(encoder.vit.pos_embed, first.vit.pos_embed)
        assert encoder.vit.pos_embed.requires_grad == learns
        assert changed.encoder == encoder.config
        assert encoder.config.position == ("learned" if learns else "sincos")
        if not learns:
            assert encoder.config.sincos_order == source
            named = Encoder(encoder.config).vit.pos_embed
            assert torch.equal(named, encoder.vit.pos_embed), "what is written is what the name stands for"

    @pytest.mark.parametrize(
        ("recipe", "final_norm", "keep_blocks", "said"),
        [
            ("debug", False, None, "the initial encoder has no final norm; a new one is trained"),
            ("debug_supervised", True, None, "the final norm of the initial encoder is left out"),
            ("debug", True, None, ""), ("debug_supervised", False, None, ""), ("debug_supervised", True, 1, ""),
        ],
    )  # fmt: skip
    def test_a_norm_that_is_dropped_or_new_is_said(
        self, recipe: str, final_norm: bool, keep_blocks: int | None, said: str, data: Path, tmp_path: Path
    ) -> None:
        """In one line, and nothing where it is the source's; with some blocks kept, all above is known to be new."""
        shape = EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=2, final_norm=final_norm)
        write_model(tmp_path / "m", encoder=Encoder(shape), evaluation=evaluation_view(32), facts={})
        start = start_content(tmp_path / "m", keep_blocks)
        launch = Launch("finetune", "", str(data), str(tmp_path / "m"), keep_blocks=keep_blocks, start=start)
        _, _, note = start_encoder(resolved(recipe, {}), launch)
        assert bool(note) == bool(said)
        assert note.startswith(said)

    def test_a_run_of_the_right_shape_needs_no_change(self, pretrained: Run) -> None:
        encoder, recipe = self.started("debug", pretrained.path)
        assert recipe.encoder == by_name("debug").encoder
        found = load_encoder(pretrained.path).encoder.state_dict()
        assert all(torch.equal(encoder.state_dict()[name], tensor) for name, tensor in found.items())


def test_half_a_shape_is_no_shape() -> None:
    """`SMALLER` is what these tests train; it must stay a valid change of every debug recipe."""
    for name in ("debug", "debug_supervised", "debug_simmim", "debug_mocov3"):
        assert resolved(name, {"set": SMALLER}).encoder.width == 24
