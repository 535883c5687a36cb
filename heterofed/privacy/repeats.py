"""What was sent instead of gradients, for batches that are trained again.

A Collaborator may make all go back to a checkpoint and send its features again, moved in their last
digits. Were noise drawn anew for such gradients, a few repeats would average it away; were the same
noise added to them, the difference of two answers would be without noise. So where a row's gradient
has moved by less than its noise hides, what was sent is sent again, bit for bit, whatever became of
the other rows: as answers are kept in surveys that are repeated (Ding, Kulkarni and Yekhanin, NIPS
2017).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NEAR = 1 / 8
"""Of the noise's length: what moves less is the same."""

MAX_BYTES = 256 << 20
"""That are kept in memory; beyond that the oldest batches are forgotten."""


class Place(NamedTuple):
    """Where gradients stand in a task."""

    phase: str
    peer: str
    round: int
    batch: int | None


class Repeats:
    """Gradients of this round and the one before it, as they were and as they were sent."""

    def __init__(self) -> None:
        self._kept: dict[Place, list[tuple[Tensor, Tensor]]] = {}
        self._bytes = 0

    def answer(self, place: Place, rows: Tensor, hide: Callable[[], Tensor]) -> Tensor:
        """What to send there: of rows that were answered before, the same again.

        Row by row: were all hidden anew where one has moved, a peer could move a row that it does
        not care for, and average the answers about all others.

        Args:
            place: the place of the batch.
            rows: its gradients, [rows, d].
            hide: gives what to send of them, where there are some that were not answered.
        """
        clean = rows.detach().cpu().clone()
        if place not in self._kept:
            first = hide()
            self._note(place, clean, first.detach().cpu().clone())
            return first
        known, sent = self._known(place, clean)
        if not bool(known.all()):
            sent = torch.where(known[:, None], sent, hide().detach().to(sent))
            self._note(place, clean, sent)
        return sent.to(rows)

    def _known(self, place: Place, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows were answered before, and how; in `clean` they become what they were then."""
        plain, sent = clean.double(), torch.zeros_like(clean)
        known = torch.zeros(len(clean), dtype=torch.bool)
        for before, answer in self._kept[place]:
            if before.shape == clean.shape:
                same = ~known & _near(plain, before.double(), answer.double())
                clean[same], sent[same] = before[same], answer[same].to(sent)
                known |= same
        return known, sent

    def _note(self, place: Place, rows: Tensor, sent: Tensor) -> None:
        """Keep what was sent for these gradients."""
        pair = rows, sent
        self._kept.setdefault(place, []).append(pair)
        self._bytes += _size(pair)
        # No checkpoint is older than the one before the last.
        for old in [each for each in self._kept if each.round < place.round - 1]:
            self._forget(old)
        while self._bytes > MAX_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, place: Place) -> None:
        self._bytes -= sum(map(_size, self._kept.pop(place)))


def _near(rows: Tensor, clean: Tensor, sent: Tensor) -> Tensor:
    """Which rows have moved by less than the noise of a usual row of that batch hides."""
    noise = (sent - clean).square().sum(1).mean().sqrt()
    near: Tensor = (rows - clean).square().sum(1).sqrt() <= NEAR * noise
    return near


def _size(pair: tuple[Tensor, Tensor]) -> int:
    return sum(each.nbytes for each in pair)
