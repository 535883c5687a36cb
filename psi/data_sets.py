"""Reads data sets in partitions, of Dask and of Ray. One partition at a time is in memory.

Neither library is imported: a data set is known by its methods. It is computed anew for each pass,
so what is read twice must be compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psi.errors import IdsError

if TYPE_CHECKING:
    import pandas as pd


class DataSet(ABC):
    """A data set in partitions.

    Args:
        source: the object of the library.

    Attributes:
        name: what messages call it.
    """

    def __init__(self, source: Any) -> None:
        kind = type(source)
        self._source = source
        self.name = f"the {kind.__name__} of {kind.__module__.partition('.')[0]}"

    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of the columns.

        Raises:
            IdsError: they cannot be found out.
        """

    @abstractmethod
    def ids(self, column: str) -> Iterator[pd.Series[Any]]:
        """Yield one column of the partitions, one after another.

        Raises:
            IdsError: a partition cannot be computed. The message names it, and not the reason,
                which may hold values.
        """

    @abstractmethod
    def tables(self) -> Iterator[pd.DataFrame]:
        """Yield the partitions, one after another.

        Raises:
            IdsError: a partition cannot be computed.
        """

    @contextmanager
    def _computing(self, what: str, how: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise IdsError(
                f"{what} of {self.name} cannot be computed: {type(error).__name__}; call {how} to"
                " see why"
            ) from None


class _Dask(DataSet):
    """A DataFrame or Series of Dask, whose partitions are computed by themselves."""

    def columns(self) -> list[str]:
        """See `DataSet.columns`."""
        return list(map(str, self._columns()))

    def ids(self, column: str) -> Iterator[pd.Series[Any]]:
        """See `DataSet.ids`."""
        if self._source.ndim == 1:
            return self._computed(self._source)
        return self._computed(self._source[self._columns()[self.columns().index(column)]])

    def tables(self) -> Iterator[pd.DataFrame]:
        """See `DataSet.tables`."""
        return self._computed(self._source.to_frame() if self._source.ndim == 1 else self._source)

    def _columns(self) -> list[Any]:
        return [self._source.name] if self._source.ndim == 1 else list(self._source.columns)

    def _computed(self, wanted: Any) -> Iterator[Any]:
        for number in range(wanted.npartitions):
            how = f"partitions[{number}].compute()"
            with self._computing(f"partition {number} (from 0)", how):
                found = wanted.partitions[number].compute()
            yield found


class _Ray(DataSet):
    """A Dataset of Ray, whose blocks are kept in order during a pass."""

    def columns(self) -> list[str]:
        """See `DataSet.columns`."""
        with self._computing("the schema", "columns()"):
            return list(self._source.columns() or [])

    def ids(self, column: str) -> Iterator[pd.Series[Any]]:
        """See `DataSet.ids`."""
        return (each[column] for each in self._blocks(self._source.select_columns([column])))

    def tables(self) -> Iterator[pd.DataFrame]:
        """See `DataSet.tables`."""
        return self._blocks(self._source)

    def _blocks(self, wanted: Any) -> Iterator[Any]:
        options, number = wanted.context.execution_options, 0
        before, options.preserve_order = options.preserve_order, True
        try:
            blocks = iter(wanted.iter_batches(batch_size=None, batch_format="pandas"))
            while True:
                with self._computing(f"block {number} (from 0)", "materialize()"):
                    found = next(blocks, None)
                if found is None:
                    return
                yield found
                number += 1
        finally:
            options.preserve_order = before


def data_set(source: object) -> DataSet | None:
    """Return the data set that an object is, or None if it is none."""
    for kind, methods in (
        (_Dask, ("ndim", "npartitions", "partitions")),
        (_Ray, ("iter_batches", "select_columns", "context")),
    ):
        if all(hasattr(source, each) for each in methods):
            return kind(source)
    return None
