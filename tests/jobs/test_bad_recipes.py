"""Values with which a method cannot work, and teachers that do not fit: answered before any image is opened."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, SHORT, stands

from vitlet.errors import UsageError
from vitlet.jobs import assembly
from vitlet.jobs.training import finetune, pretrain
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.recipe import EncoderConfig
from vitlet.run import Run
from vitlet.weights.folder import write_model
from vitlet.weights.source import evaluation_view

TEACHERS = {
    "shallow": EncoderConfig(image_size=32, patch_size=4, width=24, depth=1, heads=2),
    "coarse": EncoderConfig(image_size=32, patch_size=8, width=24, depth=3, heads=2),
    "small": EncoderConfig(image_size=16, patch_size=4, width=24, depth=3, heads=2),
    "narrow": EncoderConfig(image_size=32, patch_size=4, width=12, depth=3, heads=3),
    "of fourteen": EncoderConfig(image_size=56, patch_size=14, width=24, depth=1, heads=2),
    "of sixteen": EncoderConfig(image_size=224, patch_size=16, width=24, depth=1, heads=2),
    "relative": EncoderConfig(image_size=48, patch_size=4, width=24, depth=1, heads=2, relative_position=True),
    "coarse relative": EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=2, relative_position=True),
}
"""Beside a student of 32 px in patches of 4, three blocks of four heads."""
CLASSIFIERS = {
    "in order": (32, ("dark", "light")),
    "reversed": (32, ("light", "dark")),
    "of others": (32, ("dark", "bright")),
    "large": (48, ("dark", "light")),
    "three": (32, ("dark", "grey", "light")),
}
"""Side of the images and names of the classes."""


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    for name, shape in TEACHERS.items():
        view = evaluation_view(shape.image_size)
        write_model(folder / name, encoder=Encoder(shape), evaluation=view, facts={})
    for name, (side, classes) in CLASSIFIERS.items():
        encoder = Encoder(EncoderConfig(image_size=side, patch_size=8, width=24, depth=1, heads=2, final_norm=False))
        classifier = Classifier(24, num_classes=len(classes), pool="mean", seed=0)
        write_model(
            folder / name, encoder=encoder, evaluation=evaluation_view(side), facts={}, classifier=classifier,
            classes=classes,
        )  # fmt: skip
    return folder


@pytest.fixture
def nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are listed; the check, which decodes them, is not reached."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("images were opened")

    monkeypatch.setattr(assembly, "gather_material", refuse)


@pytest.mark.usefixtures("nothing_is_opened")
@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("debug_distill", {"objective.teacher": "shallow"}, "the teacher has no layer 2.*teacher layer 1 … 1"),
        ("debug_distill", {"objective.teacher": "coarse"}, "in patches of 8, the student.*a teacher of 32 px"),
        ("debug_distill", {"objective.teacher": "small"}, "the teacher sees 16 px.*a teacher of 32 px"),
        ("debug_distill", {"objective.layers": [[9, 2]]}, "the student has no layer 9.*student layer 1 … 3"),
        ("debug_distill", {"objective.layers": [[3, 13]]}, "the teacher has no layer 13.*teacher layer 1 … 12"),
        ("debug_distill", {"objective.hidden": [[4, 1]]}, "the student has no layer 4"),
        ("debug_distill", {"objective.layers": []}, r"nothing is distilled.*objective\.layers="),
        ("debug_distill", {"objective.teacher": ""}, r"needs a teacher.*objective\.teacher=RUN"),
        ("debug_distill", {"encoder.heads": 5}, r"is not a multiple of encoder\.heads 5.*encoder\.width=40"),
        ("debug", {"encoder.heads": 5}, r"is not a multiple of encoder\.heads 5.*encoder\.width=40"),
        ("debug", {"objective.mask_ratio": 0.995}, r"keeps 0 of 64 patches.*objective\.mask_ratio=0\.75"),
        ("debug", {"objective.decoder_heads": 5}, r"a multiple of.*decoder_width=60, or objective\.decoder_heads=4"),
        ("debug", {"objective.decoder_width": 62}, r"62 is not a multiple of 4.*objective\.decoder_width=64"),
        ("debug_distill", {"objective.mae.decoder_heads": 5}, r"decoder_width=60, or objective\.mae\.decoder_heads=4"),
        ("debug_distill", {"objective.mae.decoder_width": 62}, r"a multiple of 4.*objective\.mae\.decoder_width=64"),
        ("debug", {"data.mean": [50, 50, 50]}, r"data\.mean=\[0\.196,0\.196,0\.196\]"),
        ("debug", {"optimizer.betas": [1, 1]}, r"optimizer\.betas\.0 = 1.*less than 1"),
        ("debug", {"data.views.0.size": 48}, r"data\.views\.0\.size 48 is not encoder\.image_size 32"),
        ("debug_mocov3", {"budget.batch_size": 1}, "a batch of one image.*--batch-size 2 or more"),
        ("dino_micro", {"budget.batch_size": 1}, "a batch of one image.*--batch-size 2 or more"),
        ("debug", {"objective.read_after": 2}, r"after block 2 of 3.*read_after=null, or encoder\.depth=2"),
        ("debug", {"objective.read_after": 9}, "cannot read after block 9 of an encoder with 3"),
        (
            "debug_distill",
            {"objective.mae.read_after": 1, "objective.layers": [[1, 2]]},
            r"nothing trains all of block 2 of 3.*objective\.mae\.read_after=null, or .*student block 4",
        ),
        ("debug_distill", {"objective.mae.read_after": 2}, "nothing trains all of block 3 of 3"),
        (
            "finetune_micro_convnet",
            {"budget.batch_size": 15, "objective.mixup": 0.2},
            "--batch-size 15 with mixup.*--batch-size 14 or 16",
        ),
        ("finetune_micro_convnet", {"budget.batch_size": 1}, "a batch of one image.*--batch-size 2 or more"),
        ("dino_micro", {"encoder.relative_position": True}, r"views of \[16, 32\].*_position=false, or 32 pixels"),
        ("dino_tiny_100e", {"encoder.final_norm": False}, r"without a final norm.*final_norm=true, or objective\.pool"),
        ("mocov3_micro", {"encoder.final_norm": False}, r"without a final norm.*Fix: encoder\.final_norm=true\.?$"),
        ("seed_micro", {"objective.teacher": "of fourteen"}, "sees 56 px in patches of 14.*a teacher of 32 px"),
        ("seed_micro", {"objective.teacher": "of sixteen"}, "sees 224 px in patches of 16.*image_size=224, data"),
        ("seed_micro", {"objective.teacher": "relative"}, "the teacher sees 48 px.*a teacher of 32 px"),
        ("debug_supervised", {"objective.teacher": "reversed"}, "the classes in another order.*trained on this data"),
        ("debug_supervised", {"objective.teacher": "of others"}, "other classes than the data.*bright there and light"),
        ("debug_supervised", {"objective.teacher": "large"}, "takes no images of 32 px.*a teacher for images of 32 px"),
        ("debug_supervised", {"objective.teacher": "three"}, "knows 3 classes and the data has 2"),
        ("debug_supervised", {"objective.teacher": "shallow"}, "has no classifier.*a fine-tuning run"),
        ("debug_detection", {"objective.global_blocks": [3]}, r"global block 3 of an encoder that has 3.*=\[2\]"),
    ],
)  # fmt: skip
def test_is_answered_with_the_remedy(
    recipe: str, changes: dict[str, Any], message: str, data: Path, teachers: Path, tmp_path: Path
) -> None:
    words = _placed(changes, teachers)
    tuned = ("finetune_micro_convnet", "debug_supervised", "debug_detection")
    start = {"init": None} if recipe in tuned else {}
    train: Any = finetune if start else pretrain
    with pytest.raises(UsageError, match=message) as caught:
        train(recipe, data=data, out=tmp_path / "run", options=QUIET, set=words, **start)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert stands(tmp_path / "run") == {}, "what was refused may be tried again"


@pytest.mark.usefixtures("nothing_is_opened")
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("debug_distill", {}),
        ("debug_distill", {"objective.mae.read_after": 1, "objective.extra_block": True, "objective.layers": [[4, 2]]}),
        ("debug", {"objective.read_after": 3}),
        ("debug_dino", {"budget.batch_size": 1}),
        ("dino_micro", {"encoder.final_norm": False}),
        ("dino_micro", {"encoder.relative_position": True} | {f"data.views.{i}.size": 32 for i in range(2, 6)}),
        ("seed_micro", {"objective.teacher": "coarse"}),
        ("seed_micro", {"objective.teacher": "coarse relative"}),
        ("seed_micro", {"objective.teacher": "untrained:resnet10t"}),
        (
            "seed_micro",
            {
                "objective.teacher": "of fourteen",
                "encoder.image_size": 56,
                "data.views.0.size": 56,
                "data.evaluation.size": 56,
            },
        ),
    ],
)
def test_control_values_that_fit_go_on_to_the_images(
    recipe: str, changes: dict[str, Any], data: Path, teachers: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="images were opened"):
        pretrain(recipe, data=data, out=tmp_path / "run", options=QUIET, set=_placed(changes, teachers))


def _placed(changes: dict[str, Any], teachers: Path) -> dict[str, Any]:
    """The same changes with the path of a teacher for its name."""
    named = changes.get("objective.teacher")
    return changes | ({"objective.teacher": str(teachers / named)} if named in TEACHERS or named in CLASSIFIERS else {})


@pytest.mark.usefixtures("nothing_is_opened")
def test_a_classifier_of_the_same_classes_goes_on_to_the_images(data: Path, teachers: Path, tmp_path: Path) -> None:
    words = {"objective.teacher": str(teachers / "in order")}
    with pytest.raises(AssertionError, match="images were opened"):
        finetune("debug_supervised", init=None, data=data, out=tmp_path / "run", options=QUIET, set=words)


def test_a_narrower_teacher_with_other_heads_is_mapped(data: Path, teachers: Path, tmp_path: Path) -> None:
    """By the matrix M and a linear layer: width and heads are no obstacle, and are not refused."""
    shape = {key: value for key, value in SHORT.items() if not key.startswith(("encoder.", "objective."))}
    teacher = {
        "objective.teacher": str(teachers / "narrow"),
        "objective.layers": [[3, 3]],
        "objective.hidden": [[1, 1]],
    }
    run = pretrain("debug_distill", data=data, out=tmp_path / "run", options=QUIET, set=shape | teacher)
    assert isinstance(run, Run)
    assert (run.encoder / "model.safetensors").is_file()
