"""Reads data sets in partitions, such as a Dask DataFrame. One partition at a time is in memory.

No library is imported for this: such a data set is known by its methods. It is computed anew for
each pass, so what is read twice must be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeGuard

from psi.errors import IdsError


class Partitioned(Protocol):
    """What is needed of a Dask DataFrame or Series."""

    @property
    def ndim(self) -> int:
        """Two for a table, one for a column."""

    @property
    def npartitions(self) -> int:
        """The number of partitions."""

    @property
    def partitions(self) -> Any:
        """The partitions by their numbers, each of which can `compute` itself."""


def is_partitioned(source: object) -> TypeGuard[Partitioned]:
    """Return whether a source of ids is a data set in partitions."""
    return all(hasattr(source, each) for each in ("ndim", "npartitions", "partitions"))


def columns_of(source: Partitioned) -> list[str]:
    """Return the names of the columns of a table, or the name of a single column."""
    names: Any = [source.name] if source.ndim == 1 else source.columns  # type: ignore[attr-defined]
    return list(map(str, names))


def name_of(source: Partitioned) -> str:
    """Return what messages call a data set."""
    kind = type(source)
    return f"the {kind.__name__} of {kind.__module__.partition('.')[0]}"


def computed(source: Partitioned, column: str | None = None) -> Iterator[Any]:
    """Yield the partitions one after another, as DataFrames or Series of pandas.

    Args:
        source: the data set.
        column: the only column that is needed of a table; None means all.

    Raises:
        IdsError: a partition cannot be computed. The message names it, and not the reason, which
            may hold values.
    """
    wanted: Any = source
    if column is not None and source.ndim > 1:
        wanted = wanted[wanted.columns[columns_of(source).index(column)]]
    for number in range(source.npartitions):
        try:
            found = wanted.partitions[number].compute()
        except Exception as error:
            raise IdsError(
                f"partition {number} (from 0) of {name_of(source)} cannot be computed:"
                f" {type(error).__name__}; call partitions[{number}].compute() to see why"
            ) from None
        yield found
