"""Options that a recipe cannot take."""

import os
from pathlib import Path
from typing import Any

import pytest

from vitlet.errors import UsageError
from vitlet.jobs.options import Options, overrides, require_uncut
from vitlet.jobs.training import pretrain
from vitlet.recipes import by_name, with_overrides


def test_a_loss_that_compares_the_images_of_a_batch_refuses_to_see_parts_of_it() -> None:
    with pytest.raises(UsageError, match=r"--micro-batch with mocov3_micro.*leave --micro-batch out"):
        require_uncut(by_name("mocov3_micro"), Options(micro_batch=8))
    require_uncut(by_name("mocov3_micro"), Options())
    require_uncut(by_name("dino_tiny_100e"), Options(micro_batch=8))
    with pytest.raises(UsageError, match="--micro-batch with dino_micro"):
        require_uncut(by_name("dino_micro"), Options(micro_batch=8))


def test_seed_sees_parts_of_a_batch_unless_its_student_normalises_by_the_batch() -> None:
    """Each image is compared with the queue, which moves once a step with the whole batch."""
    require_uncut(by_name("debug_seed"), Options(micro_batch=8))
    with pytest.raises(UsageError, match=r"--micro-batch with seed_micro\. .*batch normalisation depends on all"):
        require_uncut(by_name("seed_micro"), Options(micro_batch=8))


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "message"),
    [
        (15, None, 1, r"--batch-size 15 with mixup.*Fix: --batch-size 14 or 16, or objective\.mixup=0"),
        (12, None, 4, r"--batch-size 12 over 4 ranks.*3 leave one without.*Fix: --batch-size 8 or 16"),
        (1, None, 1, r"Fix: --batch-size 2,"),
        (16, 3, 1, r"--micro-batch 3 with mixup.*Fix: --micro-batch 2 or 4"),
        (16, 1, 2, r"Fix: --micro-batch 2$"),
    ],
)
def test_pairs_that_are_mixed_are_not_separated(batch: int, micro: int | None, ranks: int, message: str) -> None:
    plain = with_overrides(by_name("finetune_micro"), {"budget.batch_size": batch})
    require_uncut(plain, Options(micro_batch=micro), num_ranks=ranks)
    for kind in ("mixup", "cutmix"):
        mixing = with_overrides(plain, {f"objective.{kind}": 0.2})
        with pytest.raises(UsageError, match=message) as caught:
            require_uncut(mixing, Options(micro_batch=micro), num_ranks=ranks)
        option, value = caught.value.fix.split(",")[0].split()[:2]
        size, part = (int(value), micro) if option == "--batch-size" else (batch, int(value))
        mended = with_overrides(mixing, {"budget.batch_size": size})
        require_uncut(mended, Options(micro_batch=part), num_ranks=ranks)


def test_a_part_that_is_the_whole_share_may_be_of_any_size() -> None:
    mixing = with_overrides(by_name("finetune_micro"), {"budget.batch_size": 16, "objective.mixup": 0.2})
    require_uncut(mixing, Options(micro_batch=9), num_ranks=2)
    with pytest.raises(UsageError, match="--micro-batch 9"):
        require_uncut(mixing, Options(micro_batch=9))


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
    ("flags", "message"),
    [
        ({"epochs": -1.0}, r"^--epochs -1\. Input should be greater than or equal to 0\. Fix: give --epochs"),
        ({"epochs": float("nan")}, "^--epochs nan.*finite"),
        ({"batch_size": 0}, "^--batch-size 0.*greater than or equal to 1"),
        ({"seed": 2**32}, "^--seed 4294967296.*less than 2147483648"),
        ({"precision": "fp8"}, "^--precision fp8.*'bf16'"),
    ],
)
def test_a_value_that_no_recipe_takes_is_refused_by_the_name_of_its_flag(flags: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        overrides(flags)


def test_bounds_of_flags_are_those_of_the_recipe() -> None:
    overrides({"epochs": 0, "batch_size": 10**7, "seed": 2**31 - 1, "precision": "bf16"})
    for key, value in (("budget.batch_size", 10**7 + 1), ("budget.seed", 2**31)):
        with pytest.raises(UsageError, match=key):
            with_overrides(by_name("debug"), {key: value})
        with pytest.raises(UsageError, match=r"^--"):
            overrides({key.removeprefix("budget."): value})  # type: ignore[misc]


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


def test_a_run_keeps_what_it_may_not_go_on_without() -> None:
    begun = Options(micro_batch=64, log=("mlflow",), compile=True, workers=3, max_bad=0.5)
    assert begun.kept() == {"micro_batch": 64, "compile": True, "log": ["mlflow"]}
    resumed = Options(workers=1).over(begun.kept(), where="environment.json")
    assert resumed == Options(micro_batch=64, compile=True, log=("mlflow",), workers=1)
    assert Options(micro_batch=16).over(begun.kept(), where="").micro_batch == 16
    assert Options(workers=1).over({}, where="") == Options(workers=1)
    with pytest.raises(UsageError, match=r"environment\.json.*micro_batch"):
        Options().over({"micro_batch": 0}, where="environment.json")
