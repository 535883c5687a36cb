"""Remembers the noisy gradients that were sent, for batches that are trained again.

A Collaborator can make all parties roll back to a checkpoint, and then send its features again with
changes in the last digits. If new noise were drawn for such gradients, a few repetitions would
average it away. If the same noise were added, the difference of two answers would have no noise. So
if a row's gradient has moved by less than its noise hides, the same bits are sent again, whatever
happened to the other rows. Repeated surveys memoise answers in the same way (Ding, Kulkarni and
Yekhanin, NIPS 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NEAR = 1 / 8
"""The share of the noise's length; a gradient that moved by less is treated as unchanged."""

MAX_BYTES = 256 << 20
"""The most bytes that are kept in memory; after that, the oldest batches are forgotten."""


class Place(NamedTuple):
    """The place of a batch of gradients in a task."""

    phase: str
    peer: str
    round: int
    batch: int | None


class Repeats:
    """The gradients of this round and the previous one, before the defence and as they were
    sent.
    """

    def __init__(self) -> None:
        self._kept: dict[Place, list[tuple[Tensor, Tensor]]] = {}
        self._bytes = 0

    def answer(self, place: Place, rows: Tensor, hide: Callable[[], Tensor]) -> Tensor:
        """Return the gradients to send, which are the same as before for rows that were sent
        before.

        This is decided for each row. If all rows got new noise because one has moved, a peer could
        move a row that it does not care for, and average the noise of all others.

        Args:
            place: the place of the batch.
            rows: the gradients of the batch, of shape [rows, d].
            hide: returns the gradients to send for all rows. It is called for each batch, because a
                defence may learn from it, as it did the first time.
        """
        clean, hidden = rows.detach().cpu().clone(), hide()
        if place not in self._kept:
            self._note(place, clean, hidden.detach().cpu().clone())
            return hidden
        known, sent = self._known(place, clean)
        if not bool(known.all()):
            sent = torch.where(known[:, None], sent, hidden.detach().to(sent))
            self._note(place, clean, sent)
        return sent.to(rows)

    def _known(self, place: Place, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return which rows were sent before, and as what; set these rows of `clean` to their old
        values.
        """
        plain, sent = clean.double(), torch.zeros_like(clean)
        known = torch.zeros(len(clean), dtype=torch.bool)
        for before, answer in self._kept[place]:
            if before.shape == clean.shape:
                same = ~known & _near(plain, before.double(), answer.double())
                clean[same], sent[same] = before[same], answer[same].to(sent)
                known |= same
        return known, sent

    def _note(self, place: Place, rows: Tensor, sent: Tensor) -> None:
        """Store what was sent for these gradients."""
        pair = rows, sent
        self._kept.setdefault(place, []).append(pair)
        self._bytes += _size(pair)
        # The parties never roll back further than to the checkpoint before the last one.
        for old in [each for each in self._kept if each.round < place.round - 1]:
            self._forget(old)
        while self._bytes > MAX_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, place: Place) -> None:
        """Forget the tensors of a place."""
        self._bytes -= sum(map(_size, self._kept.pop(place)))


def _near(rows: Tensor, clean: Tensor, sent: Tensor) -> Tensor:
    """Return which rows have moved by less than the noise of a typical row of the batch hides."""
    noise = (sent - clean).square().sum(1).mean().sqrt()
    near: Tensor = (rows - clean).square().sum(1).sqrt() <= NEAR * noise
    return near


def _size(pair: tuple[Tensor, Tensor]) -> int:
    """Return the bytes of both tensors."""
    return sum(each.nbytes for each in pair)
