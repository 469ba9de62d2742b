"""Options that a recipe cannot take."""

from pathlib import Path

import pytest

from vitlet.errors import UsageError
from vitlet.jobs.options import Options, overrides, require_uncut
from vitlet.jobs.training import pretrain
from vitlet.recipes import by_name


def test_a_loss_that_compares_the_images_of_a_batch_refuses_to_see_parts_of_it() -> None:
    with pytest.raises(UsageError, match=r"--micro-batch with mocov3_micro.*leave --micro-batch out"):
        require_uncut(by_name("mocov3_micro"), Options(micro_batch=8))
    require_uncut(by_name("mocov3_micro"), Options())
    require_uncut(by_name("dino_tiny_100e"), Options(micro_batch=8))
    with pytest.raises(UsageError, match="--micro-batch with dino_micro"):
        require_uncut(by_name("dino_micro"), Options(micro_batch=8))


def test_a_keyword_that_is_none_is_refused_though_python_lets_any_pass(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no argument 'epoch'\. Did you mean epochs\?"):
        pretrain("debug", data=tmp_path, out=tmp_path / "run", epoch=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"no argument 'workers'.*options=Options\(workers=…\)"):
        pretrain("debug", data=tmp_path, out=tmp_path / "run", workers=2)  # type: ignore[call-arg]
    assert overrides({"epochs": 2, "seed": 1, "set": {"a.b": 3}}) == {
        "a.b": 3,
        "budget.duration": {"unit": "epochs", "n": 2},
        "budget.seed": 1,
    }
