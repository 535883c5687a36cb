"""Defines the first layers of a half, which read numbers, codes of categories and bags of
tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from heterofed.tabular.prepare.inputs import Inputs, Shape, Table

SPARSE_FROM = 1_000
"""A table with this number of embeddings or more has a sparse gradient; a step changes a few."""


class Codes(nn.Module):
    """Embeddings of several columns of categories, in one table.

    Args:
        table: the description of the table.
        width: the width of an embedding.
    """

    offsets: Tensor

    def __init__(self, table: Table, width: int) -> None:
        super().__init__()
        starts = torch.tensor([0, *table.sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", starts, persistent=False)
        rows = sum(table.sizes)
        self.embeddings = nn.Embedding(rows, width, sparse=rows >= SPARSE_FROM)
        nn.init.normal_(self.embeddings.weight, std=1 / math.sqrt(width))

    def forward(self, codes: Tensor) -> Tensor:
        """Return embeddings, [rows, columns, width], of codes [rows, columns]."""
        output: Tensor = self.embeddings(codes + self.offsets)
        return output


class Tokens(nn.Module):
    """Weighted sums of the embeddings of a row's tokens."""

    def __init__(self, table: Table, width: int) -> None:
        super().__init__()
        rows = table.sizes[0]
        self.embeddings = nn.EmbeddingBag(
            rows, width, mode="sum", include_last_offset=True, sparse=rows >= SPARSE_FROM
        )
        nn.init.normal_(self.embeddings.weight, std=1 / math.sqrt(width))

    def forward(self, bag: object) -> Tensor:
        """Return the sums, [rows, width]."""
        output: Tensor = self.embeddings(bag.tokens, bag.starts, bag.weights)  # type: ignore[attr-defined]
        return output


class Features(nn.Module):
    """All inputs of a row side by side: its numbers and its embeddings.

    Args:
        shape: the shape of the inputs.

    Attributes:
        width: the number of outputs for a row.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.codes = nn.ModuleList(Codes(each, each.width) for each in shape.codes.values())
        self.bags = nn.ModuleList(Tokens(each, each.width) for each in shape.bags.values())
        tables = [len(each.sizes) * each.width for each in shape.codes.values()]
        self.width = len(shape.dense) + sum(tables) + sum(e.width for e in shape.bags.values())

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the inputs, [rows, width]."""
        codes = zip(self.codes, inputs.codes.values(), strict=True)
        bags = zip(self.bags, inputs.bags.values(), strict=True)
        parts = [layer(each).flatten(1) for layer, each in codes]
        parts += [layer(each) for layer, each in bags]
        return torch.cat([inputs.dense, *parts], dim=1) if parts else inputs.dense


class Linear(nn.Module):
    """A weight for each number, each category and each token, which are the terms of a linear
    model.

    Args:
        shape: the shape of the inputs.
        outputs: the number of outputs of the model.
    """

    def __init__(self, shape: Shape, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(len(shape.dense), outputs, bias=False) if shape.dense else None
        self.codes = nn.ModuleList(Codes(each, outputs) for each in shape.codes.values())
        self.bags = nn.ModuleList(Tokens(each, outputs) for each in shape.bags.values())
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the sum of the terms, [rows, outputs]."""
        codes = zip(self.codes, inputs.codes.values(), strict=True)
        bags = zip(self.bags, inputs.bags.values(), strict=True)
        parts = [layer(each).sum(dim=1) for layer, each in codes]
        parts += [layer(each) for layer, each in bags]
        if self.dense is not None:
            parts.append(self.dense(inputs.dense))
        return torch.stack(parts).sum(dim=0)


class Fields(nn.Module):
    """A vector for each number and each category, for the products of any two of them.

    Factorization machines (Rendle, 2010) add up the products of all pairs. For this, a party needs
    to send only the sum of its vectors and the sum of their squares.

    Args:
        shape: the shape of the inputs.
        width: the width of a vector.
    """

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.dense = nn.Parameter(torch.randn(len(shape.dense), width) / width)
        self.codes = nn.ModuleList(Codes(each, width) for each in shape.codes.values())
        self.bags = nn.ModuleList(Tokens(each, width) for each in shape.bags.values())
        for layer in (*self.codes, *self.bags):
            nn.init.normal_(layer.embeddings.weight, std=1 / width)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return the sum of a row's vectors, and the sum of their squares: [rows, width] each."""
        total = inputs.dense @ self.dense
        squares = inputs.dense.square() @ self.dense.square()
        for layer, each in zip(self.codes, inputs.codes.values(), strict=True):
            vectors = layer(each)
            total, squares = total + vectors.sum(dim=1), squares + vectors.square().sum(dim=1)
        for layer, bag in zip(self.bags, inputs.bags.values(), strict=True):
            vector = layer(bag)
            total, squares = total + vector, squares + vector.square()
        return total, squares
