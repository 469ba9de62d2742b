"""What a range or a colour is refused with, in a recipe and on the command line."""

import json
from typing import Any

import pytest

from vitlet.config import parse_value
from vitlet.errors import UsageError
from vitlet.recipes import all_recipes, by_name, with_overrides


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.views.0.crop.scale", [20, 100], r"\[20,100\] is no range of shares"),
        ("data.views.0.crop.scale", [0.2, 1.5], "is no range of shares"),
        ("data.views.0.crop.scale", [1.0, 0.2], r"from 1 down to 0\.2"),
        ("data.views.0.crop.ratio", [1.3, 0.75], r"from 1\.3 down to 0\.75"),
        ("data.mean", [50, 50, 50], r"\[50,50,50\] for pixels of 0 … 1.*White is 1 here, and not 255"),
        ("data.std", [58.4, 57.1, 57.4], "for pixels of 0 … 1"),
        ("data.std", [1e5, 1e5, 1e5], "for pixels of 0 … 1"),
    ],
)
def test_what_was_meant_is_named_with_its_key_and_is_accepted(key: str, value: list[float], words: str) -> None:
    recipe = by_name("mae_micro_crops")
    with pytest.raises(UsageError, match=words) as caught:
        with_overrides(recipe, {key: value})
    assert caught.value.where == key
    name, _, meant = caught.value.fix.partition("=")
    assert name == key
    with_overrides(recipe, {key: parse_value(meant)})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.views.0.crop.scale", [0, 1]),
        ("data.views.0.crop.ratio", [0, 1]),
        ("data.views.0.crop.ratio", [1, 1e5]),
        ("data.mean", [-0.1, 0, 0]),
        ("data.std", [0, 1, 1]),
        ("data.std", [-1, 1, 1]),
        ("optimizer.betas", [1, 1]),
        ("optimizer.betas", [0.9, 1]),
        ("optimizer.betas", [-0.1, 0.9]),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_its_key(key: str, value: list[float]) -> None:
    with pytest.raises(UsageError, match=rf"{key}\.\d = .*Fix: give {key}\.\d"):
        with_overrides(by_name("mae_micro_crops"), {key: value})


def test_an_enlargement_may_be_above_one_and_a_range_may_be_a_point() -> None:
    crop = {"kind": "large-scale-jitter", "scale": [0.5, 2.0]}
    with_overrides(by_name("detection_micro"), {"data.views.0.crop": crop})
    with_overrides(by_name("mae_micro_crops"), {"data.views.0.crop.scale": [1, 1], "optimizer.betas": [0, 0]})
    with pytest.raises(UsageError, match=r"from 2 down to 0\.5"):
        with_overrides(by_name("detection_micro"), {"data.views.0.crop": crop | {"scale": [2.0, 0.5]}})


def test_every_recipe_is_within_the_bounds() -> None:
    for make in all_recipes().values():
        recipe: Any = make()
        assert type(recipe).from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
