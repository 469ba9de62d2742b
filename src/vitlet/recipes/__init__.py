"""Recipes: functions without arguments that return a `Recipe`; the function's name is the recipe's name.

Every module in this package is searched. None of them imports torch before `ObjectiveConfig.build` is called.
"""

import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from typing import Any

from vitlet.config import apply_overrides
from vitlet.errors import UsageError
from vitlet.recipe import Recipe
from vitlet.text import did_you_mean


@functools.cache
def all_recipes() -> dict[str, Callable[[], Recipe]]:
    """Every recipe by name, in the order of modules and of the functions in them."""
    found: dict[str, Callable[[], Recipe]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and _returns_recipe(function):
                found[name] = function
    return found


def _returns_recipe(function: Callable[..., Any]) -> bool:
    made = typing.get_type_hints(function).get("return")
    public = not function.__name__.startswith("_") and not inspect.signature(function).parameters
    return public and inspect.isclass(made) and issubclass(made, Recipe)


def by_name(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        UsageError: for an unknown name; suggests the nearest recipe.
    """
    recipes = all_recipes()
    if name not in recipes:
        raise UsageError(f"no recipe {name!r}", why=did_you_mean(name, recipes), fix="vitlet recipes")
    return recipes[name]()


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Return a copy with dotted keys replaced and everything validated again."""
    return type(recipe).from_json(apply_overrides(recipe.to_json(), overrides))


def from_json(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Build the recipe that `values` (a recipe.json) describe; its name determines the type of the objective.

    Raises:
        UsageError: for an unknown recipe, key or value.
    """
    name = values.get("name") if isinstance(values, Mapping) else None
    if not isinstance(name, str):
        raise UsageError("this is not a recipe", where=where, why="it has no name", fix="give a recipe.json of a run")
    return type(by_name(name)).from_json(values, where=where)
