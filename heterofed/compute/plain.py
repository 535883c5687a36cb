"""What hooks return, as plain Python: ids and names as strings, answers as True or False.

pandas, NumPy, pyarrow and torch give values of types of their own. Those that can only mean one
thing are converted, all others are refused where they are returned. Loads none of these libraries.
"""

from __future__ import annotations

import io
from collections.abc import Coroutine, Generator, Iterable, Mapping
from typing import Any

from heterofed.errors import ConfigError, IdError


def strings(values: object, what: str) -> list[str]:
    """Strings of any list-like type, as a list of `str`.

    Args:
        values: a list, set or generator of strings, an array, Series, Index or pyarrow array.
        what: names the values in errors, such as the hook that returned them.

    Raises:
        IdError: they are of more or less than one dimension, or one of them is no string. The
            message gives a position, never a value.
    """
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


def a_list(values: object, what: str) -> Iterable[Any]:
    """What may be a list of strings, by its own type alone.

    Raises:
        IdError: it is one string, a table, a mapping, a file, or of another number of dimensions.
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
    """A string of NumPy or pyarrow, or of a subclass, as a `str`; anything else as it is."""
    if type(value) is str:
        return value
    plain = _plain(value)
    return str.__str__(plain) if isinstance(plain, str) else plain


def as_truth(value: object, what: str) -> bool:
    """Whether an answer counts as yes, as `if` would take it.

    Args:
        value: what a hook answered; None counts as no.
        what: names it in errors.

    Raises:
        ConfigError: it is true whatever it says (a string, a function that was not called, a
            coroutine), or has no truth (an array of several values).
    """
    if isinstance(value, str | bytes | Generator | Coroutine) or callable(value):
        raise ConfigError(f"{what} must return True or False, not a {type(value).__name__}")
    try:
        return bool(_plain(value))
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"{what} must return True or False, not a {type(value).__name__} of several values or"
            " of none"
        ) from None


def as_bool(value: object, what: str) -> bool:
    """True or False, also of NumPy, pyarrow or torch.

    Args:
        value: what a hook answered; None is no answer, and refused.
        what: names it in errors.

    Raises:
        TypeError: it is neither.
    """
    plain = _plain(value)
    if getattr(plain, "size", None) == 1 or getattr(plain, "numel", lambda: 0)() == 1:
        plain = plain.item()
    if not isinstance(plain, bool):
        raise TypeError(f"{what} must return True or False, not a {type(value).__name__}")
    return plain


def _plain(value: Any) -> Any:
    """A scalar of pyarrow, NumPy or torch as the Python value that it holds."""
    if hasattr(value, "as_py"):
        return value.as_py()
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _is_missing(value: object) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value  # noqa: PLR0124
