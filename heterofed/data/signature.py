"""The signature of a trained half: its input columns, its replacements of missing values, and the
shapes of its features.

The signature is recorded in training, kept with the model, and compared before a row is predicted.
This module knows no tensor and no DataFrame; tables describe themselves to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import msgspec

from heterofed.errors import ColumnError, ConfigError, FeatureError
from heterofed.files import read

SIGNATURE = "signature.json"

SHOWN = 5
"""The most columns that an error message names."""


class Table(Protocol):
    """The description of itself that a table gives to a reader."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the feature columns, in order."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of these columns, by their names in pandas."""

    @property
    def missing(self) -> str:
        """The treatment of missing values: "error", "mean" or "zero"."""

    def means_of(self, ids: Sequence[str]) -> list[float]:
        """Return the mean of each column over the rows of `ids`; ids without a row are skipped."""

    def is_like(self, dtypes: Sequence[str]) -> list[bool]:
        """Return for each column whether its values could have the given dtype."""


class Columns(msgspec.Struct):
    """A table on which a half was trained.

    Attributes:
        names: the names of its columns, in order.
        dtypes: the dtypes of its columns, in order.
        missing: how missing values were treated: "error", "mean" or "zero".
        means: the mean of each column over this party's train rows if it replaces missing values,
            else None.
    """

    names: list[str]
    dtypes: list[str]
    missing: str
    means: list[float] | None = None


class Signature(msgspec.Struct):
    """The inputs and outputs with which a half was trained.

    Attributes:
        tables: every `VerticalTable` that the hooks read.
        columns: the result of the hook `feature_columns`, or None.
        frames: the column names of the scheduler's DataFrames, by name of the attribute.
        features: the layout of the features that `iterate_train_feature` yielded, or None before
            the first batch.
        tensors: the dtype of each of these features, and its shape without the rows or None if
            the shapes varied.
    """

    tables: list[Columns] = []
    columns: list[str] | None = None
    frames: dict[str, list[str]] = {}
    features: str | None = None
    tensors: dict[str, tuple[str, list[int] | None]] = {}


def read_signature(folder: Path) -> Signature | None:
    """Return the signature in a results folder, or None if it has none.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / SIGNATURE
    try:
        return msgspec.json.decode(read(path), type=Signature)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}); restore it") from None


_reading: ContextVar[Reader | None] = ContextVar("heterofed_reading", default=None)


def current_reader() -> Reader | None:
    """Return the reader of the half whose hook is running, or None outside of hooks."""
    return _reading.get()


class Reader:
    """Records the signature of a half in training, or compares with it in other runs.

    Args:
        signature: the signature of the half so far; training adds to it.
        party: the feature key of the half's party, for error messages.
        train_ids: the ids of this party's train rows; empty before the split.
        trains: whether this run trains the half; otherwise it predicts.
    """

    def __init__(
        self, signature: Signature, party: str, train_ids: Sequence[str], *, trains: bool
    ) -> None:
        self.signature = signature
        self._party, self._train_ids, self._trains = party, train_ids, trains
        self._means: WeakKeyDictionary[Table, list[float] | None] = WeakKeyDictionary()

    def reading(self) -> AbstractContextManager[None]:
        """Make this reader the current one during the block."""
        return _Reading(self)

    def means(self, table: Table) -> list[float] | None:
        """Record or compare a table, and return the means that replace its missing values.

        Returns:
            The mean of each column, or None if missing values are not replaced by means or the
            train rows are not known yet.

        Raises:
            ColumnError: the columns or their order differ from those of the training.
        """
        if self._trains and not self._train_ids:
            return None
        if table not in self._means:
            self._means[table] = self._admit(table).means
        return self._means[table]

    def _admit(self, table: Table) -> Columns:
        kept = self._alike(table)
        if kept is None:
            kept = Columns(list(table.columns), list(table.dtypes), table.missing)
            if table.missing == "mean":
                kept.means = table.means_of(self._train_ids)
            self.signature.tables.append(kept)
            return kept
        if {kept.missing, table.missing} == {"mean", "zero"} or (
            table.missing == "mean" and kept.means is None
        ):
            raise ColumnError(
                f"{self._party}: the model was trained with missing={kept.missing!r} and this table"
                f" has missing={table.missing!r}; give the same",
                party=self._party,
            )
        fits = table.is_like(kept.dtypes)
        if not all(fits):
            at = fits.index(False)
            raise ColumnError(
                f"{self._party}: column {kept.names[at]!r} was {kept.dtypes[at]} in training and"
                f" has other {table.dtypes[at]} values here; give the same kind of values",
                party=self._party,
            )
        return kept

    def _alike(self, table: Table) -> Columns | None:
        """Return the table of the training that this one matches, or None for a new one in
        training.
        """
        tables = self.signature.tables
        for kept in tables:
            if kept.names == list(table.columns):
                return kept
        nearest = max(
            tables, key=lambda each: len(set(each.names) & set(table.columns)), default=None
        )
        if nearest is None:
            if self._trains:
                return None
            if table.missing == "mean":
                raise ColumnError(
                    f"{self._party}: the run has no means for missing='mean', because its hooks"
                    " read no such table in training; give missing='zero', or drop those rows",
                    party=self._party,
                )
            return Columns(list(table.columns), list(table.dtypes), table.missing)
        if self._trains and set(nearest.names) != set(table.columns):
            return None
        raise self._others(nearest.names, list(table.columns))

    def compare_columns(self, names: Sequence[str] | None) -> None:
        """Record the result of `feature_columns`, or compare it with that of the training.

        Raises:
            ColumnError: the columns or their order differ.
        """
        kept = self.signature.columns
        if self._trains:
            self.signature.columns = None if names is None else list(names)
        elif kept is not None and list(names or ()) != kept:
            raise self._others(kept, list(names or ()))

    def compare_frames(self, frames: Mapping[str, Sequence[str]]) -> None:
        """Record the columns of DataFrames, or compare their order with that of the training.

        It is not known which of the columns a hook reads, so only columns that exist in both are
        compared. If there is a `feature_columns` or a table, nothing is compared.

        Raises:
            ColumnError: the order of columns differs from that of the training.
        """
        if self._trains:
            self.signature.frames = {name: list(each) for name, each in frames.items()}
            return
        if self.signature.columns is not None:
            return
        for name, columns in frames.items():
            kept = self.signature.frames.get(name, [])
            then = [each for each in kept if each in columns]
            now = [each for each in columns if each in kept]
            if then != now:
                raise ColumnError(
                    f"{self._others(then, now)}; or define feature_columns to say which columns of"
                    f" self.{name} the hooks read",
                    party=self._party,
                )

    def compare_features(
        self, layout: str, tensors: Mapping[str, tuple[str, list[int]]], hook: str
    ) -> None:
        """Record the form of a hook's features, or compare it with that of the training.

        Args:
            layout: the layout of the features, or "none" if there are none.
            tensors: the dtype, and the shape without the rows, of each tensor by name.
            hook: the name of the hook.

        Raises:
            FeatureError: layout, names, dtypes or shapes differ. Different floating dtypes are
                allowed.
        """
        kept = self.signature
        if kept.features is None:
            if self._trains:
                kept.features, kept.tensors = layout, dict(tensors)
            return
        if self._trains:
            for name, (dtype, shape) in tensors.items():
                if kept.tensors.get(name, (dtype, shape))[1] != shape:
                    kept.tensors[name] = (dtype, None)
            return
        if layout != kept.features or tensors.keys() != kept.tensors.keys():
            raise FeatureError(
                f"{hook} of {self._party} yields features as {_named(layout, tensors)}, but in"
                f" training it yielded them as {_named(kept.features, kept.tensors)}; yield the"
                " same form",
                party=self._party,
            )
        for name, (dtype, shape) in tensors.items():
            then, width = kept.tensors[name]
            label = f" {name!r}" if name else ""
            floating = _kind(then) == _kind("float32")
            other = width is not None and not same_but_for_length(shape, width, floating=floating)
            if other or _kind(dtype) != _kind(then):
                raise FeatureError(
                    f"{hook} of {self._party} yields features{label} of {shape} {dtype} per row,"
                    f" but in training they were {width} {then}; give the half the inputs it was"
                    " trained on",
                    party=self._party,
                )

    def _others(self, then: list[str], now: list[str]) -> ColumnError:
        """Return an error that names the columns that differ."""
        gone = [each for each in then if each not in now]
        new = [each for each in now if each not in then]
        if gone or new:
            parts = [f"without {_some(gone)}"] * bool(gone) + [f"with {_some(new)}"] * bool(new)
            what = f"it is given columns {' and '.join(parts)}"
        else:
            places = (place for place, each in enumerate(then) if now[place : place + 1] != [each])
            at = next(places, 0)
            what = (
                f"its columns come in another order: {then[at]!r} was column {at} and is column"
                f" {now.index(then[at])}"
            )
        return ColumnError(
            f"{self._party}: the model was trained on other columns: {what}; give the {len(then)}"
            f" columns of the training in their order: {_some(then)}",
            party=self._party,
        )


class _Reading:
    """The block of `Reader.reading`; a class, because each batch enters several of them."""

    __slots__ = ("_reader", "_token")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._token: Token[Reader | None] | None = None

    def __enter__(self) -> None:
        self._token = _reading.set(self._reader)

    def __exit__(self, *_error: object) -> None:
        if self._token is not None:
            _reading.reset(self._token)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _named(layout: str, tensors: Mapping[str, Any]) -> str:
    names = [name for name in tensors if name]
    return {"none": "nothing"}.get(layout, f"a {layout}") + (f" of {_some(names)}" if names else "")


def same_but_for_length(shape: Sequence[int], like: Sequence[int], *, floating: bool) -> bool:
    """Return whether rows of two shapes may belong to the same features.

    The first dimension may differ, as a length, if a row has several dimensions, such as [length,
    width], or if it holds integers or bools, such as a mask of [length]. The width of an embedding
    of floats may not differ.
    """
    has_length = len(like) >= 2 or (len(like) == 1 and not floating)
    return tuple(shape) == tuple(like) or (has_length and len(shape) == len(like))


def _kind(dtype: str) -> str:
    return "float" if "float" in dtype else dtype
