"""The paper's sweeps in a fraction of a second: what each point starts from, what is asked, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import QUIET

from in_place import in_place
from vitlet.disk import read_json
from vitlet.errors import UsageError
from vitlet.jobs import side_by_side
from vitlet.jobs.sweeping import layer_words, sweep_distill_layers, sweep_keep_blocks
from vitlet.recipes import by_name, with_overrides
from vitlet.run import Run
from vitlet.weights.source import load_encoder

STILL: dict[str, Any] = {
    "budget.batch_size": 8,
    "budget.duration": {"unit": "steps", "n": 1},
    "budget.checkpoint_every": {"unit": "steps", "n": 1},
    "optimizer.warmup": {"unit": "steps", "n": 1},
}
"""One step at the warm-up's learning rate of 0: weights stay what they were at the start."""
ONE: dict[str, Any] = {"recipe": "debug_supervised", "seeds": 1, "set": STILL}
JUDGED: dict[str, Any] = {"finetune": "debug_supervised", "seeds": 1, "finetune_set": STILL}
"""The same, beside a recipe of pre-training."""
TEACHER = "untrained:vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "processes", in_place)


def test_each_point_starts_from_its_blocks(
    data: Path, pretrained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sweep_keep_blocks([pretrained.path], data=data, out=tmp_path, num_labels=8, options=QUIET, **ONE)
    assert capsys.readouterr().out == "", "quiet"
    (curve,) = found["curves"]
    assert [point["x"] for point in curve["points"]] == [0, 1, 2, 3]
    assert [arm["name"] for arm in curve["references"]] == ["random-1"]
    assert curve["references"][0]["runs"] == curve["points"][0]["arms"][0]["runs"], "K = 0 is random, trained once"
    assert len(list((tmp_path / "runs").iterdir())) == 4
    source = load_encoder(pretrained.path).encoder.state_dict()
    for point in curve["points"]:
        (name,) = point["arms"][0]["runs"]
        kept = load_encoder(tmp_path / "runs" / name).encoder.state_dict()
        same = [
            torch.equal(kept[f"vit.blocks.{i}.attn.qkv.weight"], source[f"vit.blocks.{i}.attn.qkv.weight"])
            for i in range(3)
        ]
        assert same == [i < point["x"] for i in range(3)]
        assert read_json(tmp_path / "runs" / name / "results/top1.json")["protocol"] == "fine-tuning, 8 labels"
    assert [q["question"] for q in found["questions"]] == [
        "Did pretrained help with 3 blocks kept?",
        "Does pretrained with 3 blocks do better than with 1 block?",
        "Does pretrained with 3 blocks do better than with 2 blocks?",
    ]
    page = (tmp_path / "report.html").read_text()
    assert "How many pre-trained blocks are worth keeping?" in page
    assert "Nothing kept is the line" in page
    assert (tmp_path / "figures/finetune.svg").is_file()


def test_blocks_that_are_not_there_are_refused(data: Path, pretrained: Run, tmp_path: Path) -> None:
    for blocks, words in (((4,), "4 blocks of an encoder that has 3"), ((), "no number of blocks")):
        with pytest.raises(UsageError, match=rf"{words}.*--blocks with numbers from 0 to 3"):
            sweep_keep_blocks([pretrained.path], data=data, out=tmp_path, blocks=blocks, **ONE)
    with pytest.raises(UsageError, match="no run to cut"):
        sweep_keep_blocks([], data=data, out=tmp_path)
    assert not any(tmp_path.iterdir())


def test_each_list_is_distilled_once_and_judged_beside_none(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The second step moves the weights. Tokens are compared in every list, but for the one that distils nothing.
    settings = STILL | {"budget.duration": {"unit": "steps", "n": 2}, "objective.hidden": [[1, 1]]}
    arguments: dict[str, Any] = {
        "data": data, "teacher": TEACHER, "out": tmp_path, "layers": [((3, 2),), ((1, 1), (3, 2))],
        "num_labels": 8, "set": settings, **JUDGED,
    }  # fmt: skip
    found = sweep_distill_layers("debug_distill", **arguments)
    assert [curve["name"] for curve in found["curves"]] == ["finetune", "knn", "logistic"]
    for curve in found["curves"]:
        assert [point["tick"] for point in curve["points"]] == ["none", "3←2", "1←1, 3←2"]
        assert len({tuple(point["arms"][0]["runs"]) for point in curve["points"]}) == (
            3 if curve["name"] == "finetune" else 1
        )
    objectives = [
        Run(tmp_path / "pretrained" / Path(start["source"]).name).recipe_json()["objective"]
        for start in found["pretrained"]
    ]
    assert [o["weight"] for o in objectives] == [0, 1, 1]
    assert [o["hidden"] for o in objectives] == [[], [[1, 1]], [[1, 1]]]
    assert [o["layers"] for o in objectives[1:]] == [[[3, 2]], [[1, 1], [3, 2]]]
    total = sum(start["pretraining_cpu_seconds"] for start in found["pretrained"])
    assert found["starts"][1]["pretraining_cpu_seconds"] == pytest.approx(total)
    assert [(q["question"]) for q in found["questions"]] == [
        "Does distilling block 3 from 2 help?",
        "Does distilling blocks 1 from 1, 3 from 2 help?",
        "Is block 3 from 2 better than blocks 1 from 1, 3 from 2?",
    ]
    before = sorted(p.name for p in (tmp_path / "pretrained").iterdir())
    assert capsys.readouterr().out, "the control: without the option it is not quiet"
    again = sweep_distill_layers("debug_distill", **arguments | {"layers": [((3, 2),)], "options": QUIET})
    assert capsys.readouterr().out == "", "quiet"
    assert sorted(p.name for p in (tmp_path / "pretrained").iterdir()) == before, "what is there is used again"
    assert again["curves"][0]["points"][1]["arms"][0]["runs"] == found["curves"][0]["points"][1]["arms"][0]["runs"]


@pytest.mark.parametrize(
    ("recipe", "layers", "words"),
    [
        ("debug", [((1, 1),)], "debug does not distil attention"),
        ("debug_distill", [((3, 2),), ((4, 2),)], r"block 4 from 2 cannot be distilled\. The student has 3 blocks"),
        ("debug_supervised", [((1, 1),)], "does not distil"),
        ("d2mae_micro", [((5, 4),)], r"d2mae_micro is decoupled.*untrained.*Fix: dmae_micro or"),
    ],
)
def test_what_cannot_be_distilled_is_refused_at_once(
    recipe: str, layers: list[Any], words: str, tmp_path: Path
) -> None:
    nowhere = tmp_path / "of which no image is opened"
    with pytest.raises(UsageError, match=words):
        sweep_distill_layers(recipe, data=nowhere, teacher=TEACHER, out=tmp_path, layers=layers, **JUDGED)
    assert not any(tmp_path.iterdir())


def test_control_the_decoupled_student_without_distillation_is_no_recipe() -> None:
    with pytest.raises(UsageError, match="nothing trains all of block 4 of 4"):
        with_overrides(by_name("d2mae_micro"), {"objective.weight": 0.0})
    with_overrides(by_name("dmae_micro"), {"objective.weight": 0.0})


def test_a_block_that_the_teacher_lacks_is_refused(data: Path, pretrained: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"block 3 from 4 cannot be distilled.*the teacher 3"):
        sweep_distill_layers(
            "debug_distill", data=data, teacher=str(pretrained.path), out=tmp_path, layers=[((3, 4),)], **JUDGED
        )


def test_layers_in_words() -> None:
    assert layer_words(()) == "nothing distilled"
    assert layer_words(((4, 12),)) == "block 4 from 12"
    assert layer_words(((1, 1), (2, 2))) == "blocks 1 from 1, 2 from 2"
