"""What is refused from the words alone. The messages as people see them are in `test_cli.py`."""

from pathlib import Path

import pytest

from vitlet.arguments import Shared, chosen_recipe, refuse_empty
from vitlet.cli import app
from vitlet.disk import existing
from vitlet.errors import UsageError


def test_flags_change_the_recipe_and_nothing_else():
    plain = chosen_recipe("mae_micro", Shared())
    changed = chosen_recipe("mae_micro", Shared(epochs=3, batch_size=64, set=("objective.mask_ratio=0.5",)))
    assert changed.budget.duration.to_json() == {"unit": "epochs", "n": 3.0}
    assert changed.budget.batch_size == 64
    assert changed.objective.mask_ratio == 0.5
    assert changed.optimizer == plain.optimizer
    assert changed.data == plain.data
    assert chosen_recipe("mae_micro", Shared(workers=3, max_bad=0.5, fresh=True)) == plain


@pytest.mark.parametrize(("name", "wrong", "right"), [
    ("mae_micro", "finetune", "pretrain"), ("finetune_micro", "pretrain", "finetune"),
])  # fmt: skip
def test_a_recipe_is_for_its_verb(name: str, wrong, right):
    assert chosen_recipe(name, Shared(), verb=right).name == name
    with pytest.raises(UsageError, match=f"vitlet {right} {name}"):
        chosen_recipe(name, Shared(), verb=wrong)


@pytest.mark.parametrize(("words", "named"), [
    (["pretrain", "debug", "--data", ""], "--data"),
    (["pretrain", "debug", "--data="], "--data"),
    (["probe", "", "--data", "images"], "probe"),
    ([""], "vitlet"),
])  # fmt: skip
def test_an_empty_word_is_not_the_current_folder(words: list[str], named: str):
    with pytest.raises(UsageError, match=f"empty value after {named}"):
        refuse_empty(words)


def test_words_that_hold_an_equals_sign_are_not_empty():
    refuse_empty(["pretrain", "debug", "--set", "objective.mask_ratio=0.5", "--data=images"])


def test_existing(tmp_path: Path):
    assert existing(tmp_path) == tmp_path
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "nowhere", tmp_path / "dangling", Path("a" * 300), Path("a\ud800")):
        with pytest.raises(UsageError, match="no file or folder"):
            existing(path)


def test_what_is_not_there_is_answered_with_a_near_name(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for wrong in ("photo", "phtos", "photso/train"):
        with pytest.raises(UsageError, match=r"holds no pho?t.*Did you mean photos\?"):
            existing(tmp_path / wrong)
    with pytest.raises(UsageError) as caught:
        existing(tmp_path / "zebra")
    assert "Did you mean" not in str(caught.value), "the control: nothing is near"


COMMANDS = (
    "demo --data images",
    *(f"{verb} run --data images" for verb in ("probe", "evaluate", "resume")),
    *(f"{verb} run --data images --out out" for verb in ("analyse", "embed", "predict", "detect", "compare", "study")),
    "sweep keep-blocks run --data images --out out",
    "sweep distill-layers recipe --data images --teacher run --layers [[1,1]] --out out",
    *(f"{verb} --data images --out out" for verb in ("learn", "overfit")),
    "transfer run --suite paper --out out",
    "export run --out out --images images",
    "push run hf://user/name --images images",
    *(f"{verb} images --out out" for verb in ("check", "pack")),
    "pretrain recipe --data images --out out",
    "finetune recipe --init none --data images --out out",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_judge_images_take_what_errors_about_them_advise(command: str) -> None:
    words = ["--max-bad", "0.1", *(["--follow-outside"] if not command.startswith("resume") else [])]  # it remembers
    _, bound, _ = app.parse_args([*command.split(), *words], exit_on_error=False, print_error=False)
    given = bound.arguments
    groups = [given[name].options() for name in ("looking", "reading", "shared") if name in given]
    assert ([group.max_bad for group in groups] or [given["max_bad"]]) == [0.1]
    if not command.startswith("resume"):
        assert ([group.follow_outside for group in groups] or [given["follow_outside"]]) == [True]
    _, bound, _ = app.parse_args(command.split(), exit_on_error=False, print_error=False)
    assert bound.arguments.keys() & {"max_bad", "follow_outside", "looking", "reading", "shared"} == set(), (
        "the control"
    )
