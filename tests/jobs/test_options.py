"""Options that a recipe cannot take."""

import os
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


@pytest.mark.parametrize(
    ("cores", "ranks", "workers"),
    [(2, "1", 1), (8, "1", 7), (64, "1", 16), (64, "2", 16), (64, "8", 7), (8, "4", 1), (4, "8", 1)],
)
def test_the_ranks_of_a_host_share_its_cores_among_their_loaders(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: str, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert Options().num_workers(image_size=224) == workers
    assert Options().num_workers(image_size=32) == 0
    assert Options(workers=5).num_workers(image_size=224) == 5, "what was asked for stands"
