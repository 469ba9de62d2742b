"""What the loop is told of a recipe, and that it takes a step: short of memory, and of larger images than planned."""

import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, losses

from vitlet.errors import ResourceError
from vitlet.jobs.training import finetune, pretrain
from vitlet.train import loop


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a forward pass there is never enough."""

    def refuse(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(loop, "get_total_norm", refuse)


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize(
    ("recipe", "batch_size", "changes", "option"),
    [
        ("debug", 8, {}, "micro_batch=4"),
        ("debug_mocov3", 8, {}, "batch_size=4"),
        ("dino_micro", 8, {}, "batch_size=4"),
        ("seed_micro", 8, {"objective.teacher": "untrained:test_vit"}, "batch_size=4"),
        ("debug_supervised", 4, {"objective.mixup": 0.2}, "micro_batch=2"),
        ("finetune_micro_convnet", 4, {"objective.mixup": 0.2}, "batch_size=2"),
    ],
)
def test_what_is_proposed_for_too_little_memory_is_accepted(
    recipe: str, batch_size: int, changes: dict[str, Any], option: str, data: Path, tmp_path: Path
) -> None:
    """By the same command with that option, which then is short of memory again."""
    start = {"init": None} if recipe in ("debug_supervised", "finetune_micro_convnet") else {}
    train: Any = finetune if start else pretrain
    command: dict[str, Any] = {"data": data, "set": changes, **start}
    with pytest.raises(ResourceError, match="not enough memory") as caught:
        train(recipe, **command, out=tmp_path / "a", options=QUIET, batch_size=batch_size)
    found = re.search(r"--(micro-batch|batch-size) (\d+)", str(caught.value))
    assert found
    assert f"{found[1].replace('-', '_')}={found[2]}" == option
    size, part = (int(found[2]), None) if found[1] == "batch-size" else (batch_size, int(found[2]))
    with pytest.raises(ResourceError, match="not enough memory"):
        train(recipe, **command, out=tmp_path / "b", options=QUIET.changed(micro_batch=part), batch_size=size)


@pytest.mark.parametrize(
    ("recipe", "sizes"), [("mae_micro", [64]), ("mocov3_micro", [64] * 2), ("dino_micro", [64] * 2 + [32] * 4)]
)
def test_a_micro_recipe_takes_a_step_at_64_pixels(recipe: str, sizes: list[int], data: Path, tmp_path: Path) -> None:
    """By the changes that `docs/guides/my-folder.md` gives."""
    larger = {"encoder.image_size": 64, "encoder.patch_size": 8, "data.evaluation.size": 64}
    larger |= {f"data.views.{number}.size": size for number, size in enumerate(sizes)}
    brief = {"budget.duration": {"unit": "steps", "n": 1}, "encoder.depth": 1}
    run = pretrain(recipe, data=data, out=tmp_path / "run", options=QUIET, batch_size=8, set=larger | brief)
    (row,) = losses(run)
    assert row > 0
