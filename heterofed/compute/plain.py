"""Converts results of hooks to plain Python: ids and names to strings, answers to True or False.

pandas, NumPy, pyarrow and torch return values of their own types. Values with only one possible
meaning are converted, and all others are refused. This module imports none of these libraries.
"""

from __future__ import annotations

import io
from collections.abc import Coroutine, Generator, Iterable, Mapping
from typing import Any

from heterofed.errors import ConfigError, IdError


def strings(values: object, what: str) -> list[str]:
    """Convert strings of any list-like type to a list of `str`.

    Args:
        values: a list, set or generator of strings, an array, Series, Index or pyarrow array.
        what: the name of the values for errors, such as the hook that returned them.

    Raises:
        IdError: the values do not have one dimension, or one of them is not a string. The message
            gives a position, and never a value.
    """
    if type(values) is list and are_plain(values):
        return values.copy()
    plain = list(map(as_string, a_list(values, what)))
    for position, each in enumerate(plain):
        if not isinstance(each, str):
            if _is_missing(each):
                raise IdError(f"{what}: position {position} is missing; drop it")
            raise IdError(
                f"{what}: position {position} is a {type(each).__name__}, not a str; convert ids"
                " with str() in the same way at every party"
            )
    return plain


class Strings(list[str]):
    """A list that holds nothing but values of type `str` itself, which was checked.

    The ids of each batch are such a list, since several parts of heterofed check them.
    """


def are_plain(values: Iterable[Any]) -> bool:
    """Return whether all of the values are of type `str` itself, without a loop in Python."""
    return type(values) is Strings or set(map(type, values)) <= {str}


def a_list(values: object, what: str) -> Iterable[Any]:
    """Return the values if their type can be a list of strings.

    Raises:
        IdError: the values are a string, a table, a mapping or a file, or do not have one
            dimension.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise IdError(f"{what}: give a list of str, not {type(values).__name__}")
    remedy = ""
    if isinstance(values, Mapping) or hasattr(values, "column_names"):
        remedy = "take one column of it"
    elif getattr(values, "ndim", 1) != 1:
        remedy = "take one dimension of it, such as one column of a table"
    elif isinstance(values, io.IOBase):
        remedy = "its lines end in line breaks; take [line.strip() for line in file]"
    if remedy:
        raise IdError(f"{what}: give a list of str, not {type(values).__name__}: {remedy}")
    return values


def as_string(value: Any) -> Any:
    """Convert a string of NumPy, pyarrow or a subclass to `str`; return other values unchanged."""
    if type(value) is str:
        return value
    plain = _plain(value)
    return str.__str__(plain) if isinstance(plain, str) else plain


def as_truth(value: object, what: str) -> bool:
    """Return whether an answer counts as yes, as `if` would take it.

    Args:
        value: the result of a hook; None counts as no.
        what: the name of the hook for errors.

    Raises:
        ConfigError: the value would be true whatever it says (a string, a function that was not
            called, a coroutine), or has no truth value (an array of several values).
    """
    if isinstance(value, str | bytes | Generator | Coroutine) or callable(value):
        raise ConfigError(f"{what} returned a {type(value).__name__}; it must return True or False")
    try:
        return bool(_plain(value))
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"{what} returned a {type(value).__name__} of several values or of none; it must return"
            " True or False"
        ) from None


def as_bool(value: object, what: str) -> bool:
    """Convert True or False of Python, NumPy, pyarrow or torch to `bool`.

    Args:
        value: the result of a hook; None is refused.
        what: the name of the hook for errors.

    Raises:
        TypeError: the value is neither True nor False.
    """
    plain = _plain(value)
    if getattr(plain, "size", None) == 1 or getattr(plain, "numel", lambda: 0)() == 1:
        plain = plain.item()
    if not isinstance(plain, bool):
        raise TypeError(f"{what} must return True or False, not a {type(value).__name__}")
    return plain


def _plain(value: Any) -> Any:
    """Convert a scalar of pyarrow, NumPy or torch to the Python value that it holds."""
    if hasattr(value, "as_py"):
        return value.as_py()
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _is_missing(value: object) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value  # noqa: PLR0124
