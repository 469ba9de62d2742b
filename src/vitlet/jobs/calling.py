"""Calls from Python: the jobs under their public names, with arguments checked as the command line checks its words."""

import functools
import inspect
import os
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import pydantic

from vitlet.errors import UsageError
from vitlet.text import did_you_mean, printable

_P = ParamSpec("_P")
_R = TypeVar("_R")
_SHOWN = 60


def checked(function: Callable[_P, _R], name: str) -> Callable[_P, _R]:
    """Return `function` under its public name; arguments of other types than it declares are refused.

    Python accepts anything, and the error would come from somewhere inside. As on the command line, a text that reads
    as a number is one; a `Run` and any other path stands for its text.

    Raises:
        UsageError: from the returned function, naming the argument.
    """
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    for word, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:  # Unpack[a TypedDict]
            flags = typing.get_type_hints(typing.get_args(hints.pop(word))[0], include_extras=True)
            hints |= {flag: hint | None for flag, hint in flags.items()}  # None: not given
    declared = {word: pydantic.TypeAdapter(hint) for word, hint in hints.items()}

    def valid(word: str, value: Any) -> Any:
        if word not in declared:
            return value
        try:
            return declared[word].validate_python(os.fspath(value) if isinstance(value, os.PathLike) else value)
        except pydantic.ValidationError as error:
            raise _wrong_argument(name, word, value, error) from None

    @functools.wraps(function)
    def called(*given: _P.args, **named: _P.kwargs) -> _R:
        first = [valid(word, value) for word, value in zip(parameters, given, strict=False)]
        rest = {word: valid(word, value) for word, value in named.items()}
        return function(*first, *given[len(first) :], **rest)  # type: ignore[arg-type]

    called.__module__, called.__name__, called.__qualname__ = "vitlet", name, name
    return called


def _wrong_argument(function: str, word: str, value: Any, error: pydantic.ValidationError) -> UsageError:
    first = error.errors()[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, UsageError):  # of `Options`, given as plain values
        return raised
    expected = first.get("ctx", {}).get("expected")  # of a choice: 'a', 'b' or 'c'
    choices = [] if expected is None else expected.replace(" or ", ", ").replace("'", "").split(", ")
    shown = printable(repr(value))
    return UsageError(
        f"{word}={shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + '…'} in vitlet.{function}()",
        why=did_you_mean(str(value), choices) or first["msg"],
        fix=f"{word}=[…]" if first["type"] == "sequence_str" else f"see help(vitlet.{function})",
    )
