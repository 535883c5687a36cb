"""What a half is fed: its columns and their order, what stands for missing values, the shape of its
features. Noted in training, kept with the model, and compared before a row is served.

Knows no tensor and no DataFrame: what reads rows describes itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import msgspec

from heterofed.errors import ColumnError, ConfigError, FeatureError
from heterofed.files import read

SIGNATURE = "signature.json"

SHOWN = 5
"""Columns that a message names."""


class Table(Protocol):
    """What is asked of a table that hooks read."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its features, in order."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Of these columns, by their names in pandas."""

    @property
    def missing(self) -> str:
        """What is done about missing values."""

    def means_of(self, ids: Sequence[str]) -> list[float]:
        """The mean of each column over the rows of those of `ids` that the table has."""

    def is_like(self, dtypes: Sequence[str]) -> list[bool]:
        """Whether the values of each column could be of these dtypes."""


class Columns(msgspec.Struct):
    """One table as a half was trained on it.

    Attributes:
        names, dtypes: of its columns, in their order.
        missing: what was done about missing values.
        means: of each column over this party's train rows, where these stand for missing values.
    """

    names: list[str]
    dtypes: list[str]
    missing: str
    means: list[float] | None = None


class Signature(msgspec.Struct):
    """What a half was trained on.

    Attributes:
        tables: every `VerticalTable` that the hooks read.
        columns: what `feature_columns` returned; None: nothing.
        frames: column names of the DataFrames that the scheduler held, by attribute.
        features: layout of what `iterate_train_feature` yielded; None before the first batch.
        tensors: of those features: dtype and shape without the rows; None where shapes varied.
    """

    tables: list[Columns] = []
    columns: list[str] | None = None
    frames: dict[str, list[str]] = {}
    features: str | None = None
    tensors: dict[str, tuple[str, list[int] | None]] = {}


def read_signature(folder: Path) -> Signature | None:
    """The signature that a run left in its results folder; None where it left none.

    Raises:
        ConfigError: it is damaged.
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
    """The half whose hook runs now; None outside of hooks."""
    return _reading.get()


class Reader:
    """A half that reads rows in one run, and notes or compares what it reads.

    Args:
        signature: what is known of the half; training adds to it.
        party: whose half it is, for errors.
        train_ids: this party's train rows; empty before the split.
        trains: whether this run trains the half; else it serves with it.
    """

    def __init__(
        self, signature: Signature, party: str, train_ids: Sequence[str], *, trains: bool
    ) -> None:
        self.signature = signature
        self._party, self._train_ids, self._trains = party, train_ids, trains
        self._means: WeakKeyDictionary[Table, list[float] | None] = WeakKeyDictionary()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let tables that are read in this block find this half."""
        token = _reading.set(self)
        try:
            yield
        finally:
            _reading.reset(token)

    def means(self, table: Table) -> list[float] | None:
        """What stands for a table's missing values, once it is known to be one that fits this half;
        None where nothing does, or the train rows are not known yet.

        Raises:
            ColumnError: its columns are others than the half was trained on, or in another order.
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
                f" is {table.dtypes[at]} of other numbers here; give the values as in training",
                party=self._party,
            )
        return kept

    def _alike(self, table: Table) -> Columns | None:
        """The table of the training that this one is like; None where training reads a new one."""
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
                    f"{self._party}: the run kept no means for missing='mean'; its hooks read no"
                    " such table in training",
                    party=self._party,
                )
            return Columns(list(table.columns), list(table.dtypes), table.missing)
        if self._trains and set(nearest.names) != set(table.columns):
            return None
        raise self._others(nearest.names, list(table.columns))

    def compare_columns(self, names: Sequence[str] | None) -> None:
        """Note what `feature_columns` returned, or compare it with what it did in training.

        Raises:
            ColumnError: the columns are others, or in another order.
        """
        kept = self.signature.columns
        if self._trains:
            self.signature.columns = None if names is None else list(names)
        elif kept is not None and list(names or ()) != kept:
            raise self._others(kept, list(names or ()))

    def compare_frames(self, frames: Mapping[str, Sequence[str]]) -> None:
        """Note the columns of DataFrames, or compare their order; which of their columns a hook
        reads is not known, so only columns that both have count, and nothing where
        `feature_columns` or a table says more.

        Raises:
            ColumnError: columns stand in another order than in training.
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
        """Note what a hook yields, or compare it with what it yielded in training.

        Args:
            layout: of the features; "none" where there are none.
            tensors: dtype, and shape without the rows, by name.
            hook: names it.

        Raises:
            FeatureError: they are arranged, named, typed or shaped otherwise. Floating dtypes may
                differ.
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
                f"{hook} of {self._party} yields features as {_named(layout, tensors)}, and yielded"
                f" them as {_named(kept.features, kept.tensors)} in training",
                party=self._party,
            )
        for name, (dtype, shape) in tensors.items():
            then, width = kept.tensors[name]
            label = f" {name!r}" if name else ""
            floating = _kind(then) == _kind("float32")
            other = width is not None and not same_but_for_length(shape, width, floating=floating)
            if other or _kind(dtype) != _kind(then):
                raise FeatureError(
                    f"{hook} of {self._party} yields features{label} of {shape} {dtype} a row, and"
                    f" in training they were {width} {then}; give the half what it was trained on",
                    party=self._party,
                )

    def _others(self, then: list[str], now: list[str]) -> ColumnError:
        """Columns that differ, by name."""
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


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _named(layout: str, tensors: Mapping[str, Any]) -> str:
    names = [name for name in tensors if name]
    return {"none": "nothing"}.get(layout, f"a {layout}") + (f" of {_some(names)}" if names else "")


def same_but_for_length(shape: Sequence[int], like: Sequence[int], *, floating: bool) -> bool:
    """Whether rows of one shape may be of the same features as rows of another.

    Lengths may differ where a row has several dimensions, as [length, width], and in integers and
    bools, as a mask of [length]. The width of an embedding of floats may not.
    """
    has_length = len(like) >= 2 or (len(like) == 1 and not floating)
    return tuple(shape) == tuple(like) or (has_length and len(shape) == len(like))


def _kind(dtype: str) -> str:
    return "float" if "float" in dtype else dtype
