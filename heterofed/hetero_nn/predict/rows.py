"""Reads and checks the rows of a joint prediction at the Host, and its results.

The rows of each Collaborator are a stream in the order of its ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterofed.compute.batch import Batch, rows_of
from heterofed.compute.tensors import Layout, check_finite, unpack
from heterofed.errors import FeatureError, RowCountError, RowOrderError
from heterofed.hetero_nn.feature_means import FeatureImputer
from heterofed.hetero_nn.train.lengths import may_follow, one_after_another, tells_lengths
from heterofed.hetero_nn.train.row_order import RowOrder
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.protocol import messages as msg

OUR_COLUMNS = {"id", "parties"}
"""The columns of the table of `predict` that are added to those of `predict_a_batch`."""


class RowStream:
    """One Collaborator's rows, in the order of its ids, in pieces of any length."""

    def __init__(
        self, party: Party, peer: Peer, ids: list[str], order: RowOrder, imputer: FeatureImputer
    ) -> None:
        self._party, self._peer, self._ids, self._order = party, peer, ids, order
        self._imputer = imputer
        self._came = self._batches = 0
        self._held: dict[str, Tensor] = {}

    def rows(self, count: int) -> dict[str, Tensor]:
        """Return the next `count` rows.

        Raises:
            RowCountError: the party sent fewer or more rows than it has ids.
            RowOrderError: the rows have other ids, or another order.
            FeatureError: the features do not have the layout, names, types or shapes of training.
        """
        while self._count < count:
            self._take()
        now = {name: tensor[:count] for name, tensor in self._held.items()}
        self._held = {name: tensor[count:] for name, tensor in self._held.items()}
        return now

    @property
    def _count(self) -> int:
        return len(next(iter(self._held.values()))) if self._held else 0

    def _take(self) -> None:
        mail = self._party.take(self._peer, msg.Features, msg.EndOfFeatures)
        if isinstance(mail.message, msg.EndOfFeatures):
            raise self._other_count(self._came)
        message = mail.of(msg.Features)
        ids = self._ids[self._came : self._came + message.rows]
        if len(ids) < message.rows:
            raise self._other_count(self._came + message.rows)
        if not message.rows:  # any number of these would delay all parties
            raise RowCountError(
                f"{self._peer.name} sent a batch without rows; let its iterate_predict_feature"
                " yield no empty batch",
                party=self._peer.name,
                numbers=(0, len(self._ids)),
            )
        mine = self._order.proof(ids, self._batches, message.rows, "predict")
        self._order.compare(mine, message.ids, self._peer.name, self._batches)
        coding = self._peer.session.feature_coding
        tensors = unpack(message.tensors, mail.payload, self._peer.name, coding=coding)
        check_finite(tensors, "the features", self._peer.name)
        self._check_like_training(message.layout, tensors)
        if self._count:
            most, peer = self._peer.session.max_batch_bytes, self._peer.name
            tensors = {
                name: one_after_another(self._held[name], each, most, peer)
                for name, each in tensors.items()
            }
        self._held = tensors
        done = msg.BatchDone(self._party.round, self._batches, stepped=False)
        self._party.post(self._peer, done)
        self._came += message.rows
        self._batches += 1

    def _check_like_training(self, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
        imputer, name = self._imputer, self._peer.name
        if layout != imputer.layout or tensors.keys() != imputer.means.keys():
            raise FeatureError(
                f"{name} sent its features as a {layout} of {len(tensors)}, or under other names"
                f" than in training, where they were a {imputer.layout} of {len(imputer.means)};"
                " let its"
                " iterate_predict_feature yield the same form as in training",
                party=name,
            )
        masked = tells_lengths(tensors)
        for key, tensor in tensors.items():
            mean, held = imputer.means[key], self._held_row(key)
            # Waiting rows are joined with these to one tensor, with padding if there is a mask.
            alike = held is None or masked or tensor.shape[1:] == held.shape
            for like in (each for each in (mean, held) if each is not None):
                if not (alike and may_follow(tensor, tuple(like.shape), like.dtype)):
                    raise FeatureError(
                        f"{name} sent features {key!r} of {list(tensor.shape[1:])} {tensor.dtype} a"
                        f" row, and {list(like.shape)} {like.dtype} before or in training; yield"
                        " the same form, and where lengths differ a mask beside the features, or"
                        " batches of the Host's rows",
                        party=name,
                    )

    def _held_row(self, key: str) -> Tensor | None:
        return self._held[key][0] if self._count else None

    def end(self) -> None:
        """Receive the end of the stream."""
        mail = self._party.take(self._peer, msg.Features, msg.EndOfFeatures)
        if isinstance(mail.message, msg.Features):
            raise self._other_count(self._came + mail.message.rows)

    def _other_count(self, rows: int) -> RowCountError:
        return RowCountError(
            f"{self._peer.name} sent {rows} rows or more for {len(self._ids)} ids; let"
            " its iterate_predict_feature yield one row per id",
            party=self._peer.name,
            numbers=(rows, len(self._ids)),
        )


def check_some(rows: int, hook: str) -> int:
    """Check that a batch of a prediction has rows, and return their number.

    Raises:
        RowCountError: the batch has no rows.
    """
    if not rows:
        raise RowCountError(f"{hook} yielded a batch without rows; leave it out", numbers=(0, 1))
    return rows


def rows_in(batch: Batch, hook: str) -> int:
    """Return the number of rows of the Host's own batch, by its features, labels or ids.

    Raises:
        FeatureError: the number of rows cannot be determined.
        RowCountError: the batch has no rows.
    """
    if batch.features is None and batch.labels is None:
        if batch.ids is None:
            raise FeatureError(f"{hook}: give labels or ids where there are no features")
        return check_some(len(batch.ids), hook)
    return check_some(rows_of(batch, hook), hook)


def check_own(
    party: Party, batch: Batch, ids: Sequence[str], rows: int, place: int, total: int
) -> None:
    """Check the Host's own batch against the ids at its position.

    Raises:
        RowCountError, RowOrderError: the batch has too many rows, or rows of other ids.
    """
    if len(ids) < rows:
        raise RowCountError(
            f"iterate_predict_feature yielded {place + rows} rows or more for {total} ids; yield"
            " one"
            " row per id",
            numbers=(place + rows, total),
        )
    if batch.ids is not None and list(batch.ids) != list(ids):
        raise RowOrderError(
            "iterate_predict_feature yielded rows of other ids than it was given, or in another"
            " order; read rows in the order of the ids that the hook is given",
            party=party.name,
        )


def as_columns(outcome: object, rows: int) -> dict[str, Tensor]:
    """Return the result of `predict_a_batch` by column, on the CPU.

    Raises:
        FeatureError: the result is not a tensor (or array) or a dict of them, has another number of
            rows, or has two columns of the same name.
    """
    named = outcome if isinstance(outcome, Mapping) else {"prediction": outcome}
    columns: dict[str, Tensor] = {}
    for name, value in named.items():
        tensor = _predictions(value)
        if tensor.dim() not in (1, 2) or len(tensor) != rows:
            raise FeatureError(
                f"predict_a_batch returned {list(tensor.shape)} for {rows} rows; return [rows] or"
                " [rows, columns]"
            )
        new = (
            {str(name): tensor}
            if tensor.dim() == 1
            else {f"{name}_{k}": tensor[:, k] for k in range(tensor.shape[1])}
        )
        if taken := sorted(new.keys() & (columns.keys() | OUR_COLUMNS)):
            raise FeatureError(
                f"predict_a_batch gives a column {taken[0]!r}, which is there already; rename it"
            )
        columns |= new
    if not columns:
        raise FeatureError("predict_a_batch returned no column; return at least one")
    return columns


def _predictions(value: object) -> Tensor:
    """Return one or more columns of predictions as a tensor that NumPy supports."""
    if isinstance(value, np.ndarray) or hasattr(value, "to_numpy"):
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            return torch.tensor(array)
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        raise FeatureError(
            "predict_a_batch must return a tensor or a dict of tensors, not a"
            f" {type(value).__name__}; return predictions [rows] or [rows, columns]"
        )
    # A copy, because user code may reuse the memory.
    tensor = value.detach().cpu().clone().resolve_conj().resolve_neg()
    small = tensor.is_floating_point() and tensor.dtype not in (
        torch.float16,
        torch.float32,
        torch.float64,
    )
    return tensor.float() if small else tensor


def check_same_columns(
    first: Mapping[str, Tensor], columns: Mapping[str, Tensor], number: int
) -> None:
    """Check that a batch of predictions has the columns of the first one.

    Raises:
        FeatureError: a column is missing or new, or has another dtype.
    """
    gone, new = sorted(first.keys() - columns.keys()), sorted(columns.keys() - first.keys())
    if gone or new:
        what = [f"is without {gone}"] * bool(gone) + [f"has {new} too"] * bool(new)
        raise FeatureError(
            f"predict_a_batch must return the same columns for every batch: batch {number}"
            f" {' and '.join(what)}, unlike batch 0; give NaN where there is no value",
            batch=number,
        )
    for name, tensor in columns.items():
        if tensor.dtype != first[name].dtype:
            raise FeatureError(
                f"predict_a_batch gave column {name!r} as {first[name].dtype} in batch 0 and as"
                f" {tensor.dtype} in batch {number}; return one dtype",
                batch=number,
            )


def who_had(
    host: str, present: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]], rows: int
) -> list[str]:
    """Return for each row the names of the parties that had it, the Host first, joined by "+"."""
    codes = np.zeros(rows, dtype=np.int64)
    for bit, here in enumerate(present.values()):
        codes |= here.astype(np.int64) << bit
    words = {
        int(code): "+".join([host, *(name for b, name in enumerate(present) if code >> b & 1)])
        for code in np.unique(codes)
    }
    return [words[int(code)] for code in codes]
