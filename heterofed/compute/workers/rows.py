"""Splits the arguments of a model by rows, and joins what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from heterofed.errors import ConfigError


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors within tuples, lists and dicts, in order."""
    found: list[Tensor] = []

    def note(each: Tensor) -> Tensor:
        found.append(each)
        return each

    _mapped(value, note)
    return found


def filled(value: Any, tensors: Sequence[Tensor]) -> Any:
    """Return the value with other tensors, in the order of `tensors_of`."""
    rest = iter(tensors)
    return _mapped(value, lambda _: next(rest))


def emptied(value: Any) -> Any:
    """Return the value with small tensors in place of its own, to be `filled` elsewhere."""
    return _mapped(value, lambda _: torch.empty(0, device="cpu"))


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_make"):  # a named tuple
        return value._make(_mapped(each, change) for each in value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(each, change) for each in value)
    if isinstance(value, Mapping):
        return {key: _mapped(each, change) for key, each in value.items()}
    return value


def split_rows(tensors: Sequence[Tensor], ranks: int) -> list[list[Tensor]]:
    """Cut tensors into at most `ranks` parts of about as many rows.

    The first tensor gives the number of rows. Tensors of another length are in every part as a
    whole, such as weights of classes.

    Returns:
        The tensors of each part; no part is without rows, unless there are none at all.
    """
    rows = len(tensors[0]) if tensors and tensors[0].dim() else 0
    parts = max(1, min(ranks, rows))
    cut = [
        each.tensor_split(parts) if each.dim() and len(each) == rows else (each,) * parts
        for each in tensors
    ]
    return [list(each) for each in zip(*cut, strict=True)] or [[]]


def check_rows(outputs: Sequence[Tensor], rows: int) -> None:
    """Refuse what a model returned if it cannot be joined from parts.

    Raises:
        ConfigError: the model returned no tensors with one row per row.
    """
    if not outputs or any(not each.dim() or len(each) != rows for each in outputs):
        raise ConfigError(
            "the feature model runs in several processes, each on a part of the rows: let it return"
            " tensors with one row per row of its first argument, or start one process"
        )
