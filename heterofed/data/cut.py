"""Cuts one data set into parties with their own columns and rows, to try a task out.

Real parties have separate data already; this module makes the data that such parties would hold.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from heterofed.data.frames import ids_in, must_have
from heterofed.data.ids import Positions
from heterofed.data.indexed import IndexedDataset
from heterofed.data.table import VerticalTable
from heterofed.errors import ColumnError, ConfigError

Parts = Mapping[str, Any]


def vertical_split(
    data: Any,
    *,
    parties: Sequence[str] | Mapping[str, Any],
    label_owner: str,
    label: str | None = None,
    id: str | None = None,  # noqa: A002 - the field's own word
    overlap: float = 0.9,
    shuffle: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Cut one data set into parties.

    Args:
        data: a pandas DataFrame, or a map-style torch data set of pairs (input tensor, label).
        parties: a list of names, to divide the columns in order and as evenly as possible; or a
            dict with the columns of each party by name. Columns are names of a frame's columns or,
            for a data set, positions or a slice of the input's last dimension.
        label_owner: the party that gets the label, which will be the Host.
        label: the frame's column of labels.
        id: the frame's column of ids, or None for its index. The items of a data set get the ids
            `row-000`, `row-001` and so on.
        overlap: the share of the rows that every party has, above 0 and at most 1. Each other row
            belongs to at least one party, but not to all.
        shuffle: whether to give every party another order of rows.
        seed: the seed of the random choices. The same seed makes the same cut.

    Returns:
        A `VerticalTable` (of a frame) or an `IndexedDataset` (of a data set) for each party, by
        name.

    Raises:
        ConfigError: there are fewer than two parties, `label_owner` is none of them, `overlap` is
            out of range, the data have no rows or cannot be read by position, or another party
            than `label_owner` was given the label.
        ColumnError: a column does not exist, or there are too few columns.
        IdError: ids of the frame are missing, repeated or fractions.
    """
    names = list(parties)
    if len(names) < 2 or len(set(names)) != len(names):
        raise ConfigError(f"parties={names}: give two or more different names")
    if label_owner not in names:
        raise ConfigError(f"label_owner={label_owner!r}: give one of the parties {names}")
    if isinstance(overlap, bool) or not 0 < overlap <= 1:
        raise ConfigError(f"overlap={overlap!r}: give a share of the rows above 0, at most 1")
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or not len(data):
        raise ConfigError(
            f"a {type(data).__name__} has no rows to divide; give a non-empty DataFrame or"
            " map-style data set with __getitem__ and __len__"
        )
    rows = _dealt_rows(len(data), names, overlap, shuffle, seed)
    if hasattr(data, "columns"):
        frame = data.copy(deep=False)
        frame.columns = frame.columns.map(str)
        label, id_column = (None if each is None else str(each) for each in (label, id))
        return _frame_parts(frame, rows, parties, label_owner, label, id_column)
    return _dataset_parts(data, rows, parties, label_owner)


def _dealt_rows(
    count: int, names: Sequence[str], overlap: float, shuffle: bool, seed: int
) -> dict[str, list[int]]:
    """Return the positions of each party's rows, in the party's order."""
    source = random.Random(f"heterofed vertical_split {seed}")
    order = list(range(count))
    source.shuffle(order)
    common = order[: max(1, round(overlap * count))]
    rows = {name: list(common) for name in names}
    for row in order[len(common) :]:
        for name in source.sample(names, source.randint(1, len(names) - 1)):
            rows[name].append(row)
    for own in rows.values():
        own.sort()
        if shuffle:
            source.shuffle(own)
    return rows


def _dealt_columns(columns: Sequence[Any], parties: Sequence[str]) -> dict[str, list[Any]]:
    """Divide the columns in order and as evenly as possible."""
    if len(columns) < len(parties):
        raise ColumnError(
            f"{len(columns)} columns are too few for {len(parties)} parties; give a party less"
        )
    ends = [round(len(columns) * place / len(parties)) for place in range(len(parties) + 1)]
    return {name: list(columns[ends[k] : ends[k + 1]]) for k, name in enumerate(parties)}


def _frame_parts(
    frame: Any,
    rows: Mapping[str, list[int]],
    parties: Sequence[str] | Parts,
    owner: str,
    label: str | None,
    id_column: str | None,
) -> dict[str, VerticalTable]:
    if label is None or label not in frame.columns:
        raise ColumnError(
            f"label={label!r}: name the column of labels; there are {[*frame.columns]}"
        )
    rest = [each for each in frame.columns if each not in (label, id_column)]
    must_have(frame, [] if id_column is None else [id_column])
    # Check the ids of the whole frame, or parties might get different rows of a repeated id.
    Positions(ids_in(frame.index if id_column is None else frame[id_column]), "the frame")
    columns = (
        {name: [str(column) for column in each] for name, each in parties.items()}
        if isinstance(parties, Mapping)
        else _dealt_columns(rest, parties)
    )
    for name, each in columns.items():
        if label in each and name != owner:
            raise ConfigError(
                f"{name} was given the label {label!r} among its columns, but only {owner} may have"
                " it; leave it out of those columns"
            )
    return {
        name: VerticalTable(
            frame.iloc[rows[name]],
            id=id_column,
            columns=columns[name],
            label=label if name == owner else None,
        )
        for name in rows
    }


class _Part(Dataset[Any]):
    """Some items of a data set, with some columns of their inputs."""

    def __init__(
        self, data: Dataset[Any], rows: Sequence[int], columns: Any, with_label: bool
    ) -> None:
        self._data, self._rows = data, rows
        self._columns, self._with_label = columns, with_label

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Any:
        features, label = self._data[self._rows[position]]
        part = torch.as_tensor(features)[..., self._columns]
        return (part, label) if self._with_label else part


def _dataset_parts(
    data: Any,
    rows: Mapping[str, list[int]],
    parties: Sequence[str] | Parts,
    owner: str,
) -> dict[str, IndexedDataset]:
    first = data[0]
    if not isinstance(first, tuple | list) or len(first) != 2:
        raise ConfigError("items of the data set are no pairs; give a data set of (input, label)")
    if not isinstance(first[0], Tensor | np.ndarray) or not first[0].ndim:
        raise ConfigError(
            "inputs of the data set must be tensors with columns to cut; convert them, or divide a"
            " DataFrame"
        )
    width = first[0].shape[-1]
    if isinstance(parties, Mapping):
        columns = dict(parties)
    else:
        dealt = _dealt_columns(range(width), parties)
        columns = {name: slice(each[0], each[-1] + 1) for name, each in dealt.items()}
    for name, each in columns.items():
        chosen = range(width)[each] if isinstance(each, slice) else list(each)
        if not chosen or not all(0 <= place < width for place in chosen):
            raise ColumnError(
                f"{name}: columns {each} do not exist in an input of {width} columns; give numbers"
                f" from 0 to {width - 1}"
            )
    digits = len(str(len(data) - 1))
    return {
        name: IndexedDataset(
            _Part(data, own, columns[name], name == owner),
            [f"row-{row:0{digits}}" for row in own],
            labelled=name == owner,
        )
        for name, own in rows.items()
    }
