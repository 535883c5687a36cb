"""Defines the inputs of a model: a matrix of numbers, codes of categories, and bags of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Bag:
    """The tokens of each row, in the format of compressed sparse rows.

    Attributes:
        tokens: the tokens of all rows one after another, [tokens] int64.
        weights: the weights of these tokens, [tokens] float32.
        starts: the positions at which each row's tokens begin, and at which the last ones end,
            [rows + 1] int64.
    """

    tokens: Tensor
    weights: Tensor
    starts: Tensor

    @classmethod
    def of(cls, matrix: Any) -> Bag:
        """Return the bag of a SciPy matrix of compressed sparse rows."""
        return cls(
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            torch.from_numpy(matrix.indptr.astype(np.int64)),
        )

    def take(self, rows: Tensor) -> Bag:
        """Return the bag of some rows, in their order."""
        first = self.starts.index_select(0, rows)
        lengths = self.starts.index_select(0, rows + 1) - first
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        within = torch.arange(int(starts[-1])) - starts[:-1].repeat_interleave(lengths)
        at = first.repeat_interleave(lengths) + within
        return Bag(self.tokens.index_select(0, at), self.weights.index_select(0, at), starts)

    def groups(self, count: int) -> Tensor:
        """Return the weight of each row's tokens in groups by token, [rows, groups] float32."""
        lengths = self.starts[1:] - self.starts[:-1]
        rows = torch.arange(len(lengths)).repeat_interleave(lengths)
        found = torch.zeros(len(lengths) * count)
        return found.index_add(0, rows * count + self.tokens % count, self.weights).view(-1, count)


SHOWN = 16
"""The most categories of a column, and the groups of its tokens, that the leak report looks at."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a model for some rows.

    Attributes:
        dense: the numbers, [rows, numbers] float32.
        codes: the codes by group of embedded columns, [rows, columns] int64.
        bags: the bags by column of tokens.
    """

    dense: Tensor
    codes: dict[str, Tensor] = field(default_factory=dict)
    bags: dict[str, Bag] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dense)

    def as_numbers(self) -> Tensor:
        """Return what the leak report attacks: the numbers, and an indicator of each frequent
        category and of tokens in `SHOWN` groups, [rows, numbers] float32.
        """
        kinds = torch.arange(SHOWN)
        parts = [self.dense]
        for codes in self.codes.values():
            parts.append((codes[:, :, None] == kinds).flatten(1).to(self.dense.dtype))
        parts += [each.groups(SHOWN) for each in self.bags.values()]
        return torch.cat(parts, dim=1)

    def take(self, rows: Tensor) -> Inputs:
        """Return some of the rows, [chosen] int64, in their order."""
        # Indexing by brackets starts torch's threads even for few rows, which costs milliseconds
        # where the cores are busy.
        return Inputs(
            self.dense.index_select(0, rows),
            {name: each.index_select(0, rows) for name, each in self.codes.items()},
            {name: each.take(rows) for name, each in self.bags.items()},
        )


class Table(msgspec.Struct, frozen=True):
    """A table of embeddings.

    Attributes:
        sizes: the number of codes of each column that uses the table; one number for a bag.
        width: the width of an embedding.
    """

    sizes: tuple[int, ...]
    width: int


class Shape(msgspec.Struct, frozen=True):
    """The shape of inputs without the number of rows.

    Attributes:
        dense: the names of the numbers, in their order.
        codes, bags: the tables of embeddings by name.
    """

    dense: tuple[str, ...] = ()
    codes: dict[str, Table] = {}
    bags: dict[str, Table] = {}
