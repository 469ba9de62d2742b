import math

import pytest

from vitlet.config import Config, apply_overrides, dotted_keys, flatten, parse_value
from vitlet.errors import UsageError
from vitlet.recipes import by_name, with_overrides

VALUES = by_name("finetune_micro").to_json()


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("true", True), ("null", None), ("[0.2, 1]", [0.2, 1]), ('"3"', "3"), ("bf16", "bf16")],
)
def test_values_of_the_command_line(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_overrides_reach_every_key_and_leave_the_original_alone() -> None:
    before = by_name("finetune_micro").to_json()
    for key in dotted_keys(VALUES):
        changed = apply_overrides(VALUES, {key: "x"})
        node = changed
        for part in key.split("."):
            node = node[int(part)] if isinstance(node, list) else node[part]
        assert node == "x"
    assert before == VALUES


def test_several_overrides_take_effect_together() -> None:
    recipe = with_overrides(
        by_name("finetune_micro"),
        {"optimizer.base_lr": 2e-3, "data.views.0.flip": 0.0, "optimizer.betas.1": 0.95, "data.mean": [0.5, 0.5, 0.5]},
    )
    assert recipe.optimizer.base_lr == 2e-3
    assert recipe.data.views[0].flip == 0.0
    assert recipe.optimizer.betas == (0.9, 0.95)
    assert recipe.data.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "key", ["optimizer.base_lrr", "optimiser.base_lr", "data.views.3.flip", "data.views.x", "a", "name.x"]
)
def test_an_unknown_key_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=f"unknown key '{key}'"):
        apply_overrides(VALUES, {key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.base_lr", math.nan),
        ("optimizer.base_lr", math.inf),
        ("optimizer.base_lr", -1.0),
        ("optimizer.base_lr", 0),
        ("optimizer.base_lr", "fast"),
        ("optimizer.layer_decay", 1.5),
        ("encoder.drop_path", -0.1),
        ("budget.batch_size", 0),
        ("budget.batch_size", 2.5),
        ("budget.precision", "fp64"),
        ("budget.seed", -1),
        ("data.views", []),
        ("data.mean", [1, 2]),
        ("encoder.depth", None),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key.replace(".", r"\.")) as caught:
        with_overrides(by_name("finetune_micro"), {key: value})
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_all_faults_are_named_at_once() -> None:
    values = by_name("mae_micro").to_json()
    values["optimizer"] |= {"base_lr": -1, "wamup": 3}
    del values["budget"]["duration"]
    with pytest.raises(UsageError) as caught:
        type(by_name("mae_micro")).from_json(values, where="recipe.json")
    text = str(caught.value)
    assert "recipe.json" in text
    assert "optimizer.base_lr = -1" in text
    assert "unknown key 'optimizer.wamup'. Did you mean warmup" in text
    assert "'budget.duration' is missing" in text


def test_a_key_within_a_union_is_named_as_it_is_given() -> None:
    """Pydantic puts the kind of a crop into the path, which `--set` would not take."""
    with pytest.raises(UsageError, match=r"^data\.views\.0\.crop\.padding = 99.*give data\.views\.0\.crop\.padding"):
        with_overrides(by_name("finetune_micro"), {"data.views.0.crop.padding": 99})
    with pytest.raises(UsageError, match=r"unknown key 'data\.views\.0\.crop\.paddin'\. Did you mean padding"):
        with_overrides(by_name("finetune_micro"), {"data.views.0.crop": {"kind": "shift", "paddin": 2}})
    with pytest.raises(UsageError, match=r"^budget\.duration\.n = -1"):
        with_overrides(by_name("finetune_micro"), {"budget.duration.n": -1})


def test_configs_are_frozen_and_checked_when_changed() -> None:
    optimizer = by_name("mae_micro").optimizer
    with pytest.raises(ValueError, match="frozen"):
        optimizer.base_lr = 1.0
    assert optimizer.changed(base_lr=1.0).base_lr == 1.0
    with pytest.raises(UsageError, match="base_lr"):
        optimizer.changed(base_lr=-1.0)
    assert issubclass(type(optimizer), Config)


def test_a_recipe_is_flattened_without_losing_a_value():
    nested = {"a": {"b": [1, 2], "c": [{"d": None}, {"d": "x"}]}, "e": True, "f": {}}
    assert flatten(nested) == {
        "a.b": "[1, 2]", "a.c.0.d": "null", "a.c.1.d": "x", "e": "true", "f": "{}",
    }  # fmt: skip
