"""What was sent instead of gradients, for batches that are trained again.

A Collaborator may make all go back to a checkpoint and send its features again, moved in their last
digits. Were noise drawn anew for such gradients, a few repeats would average it away; were the same
noise added to them, the difference of two answers would be without noise. So where gradients have
moved by less than their noise hides, what was sent is sent again, bit for bit: as answers are kept
in surveys that are repeated (Ding, Kulkarni and Yekhanin, NIPS 2017).
"""

from __future__ import annotations

from typing import NamedTuple

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

    def find(self, place: Place, rows: Tensor) -> Tensor | None:
        """What was sent there for gradients like these; None where nothing was.

        Args:
            place: of the batch.
            rows: its gradients, [rows, d].
        """
        plain = rows.detach().cpu().double()
        for clean, sent in self._kept.get(place, ()):
            if clean.shape == plain.shape and _near(plain, clean.double(), sent.double()):
                return sent.to(rows)
        return None

    def note(self, place: Place, rows: Tensor, sent: Tensor) -> None:
        """Keep what was sent for these gradients."""
        pair = rows.detach().cpu().clone(), sent.detach().cpu().clone()
        self._kept.setdefault(place, []).append(pair)
        self._bytes += _size(pair)
        # No checkpoint is older than the one before the last.
        for old in [each for each in self._kept if each.round < place.round - 1]:
            self._forget(old)
        while self._bytes > MAX_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, place: Place) -> None:
        self._bytes -= sum(map(_size, self._kept.pop(place)))


def _near(rows: Tensor, clean: Tensor, sent: Tensor) -> bool:
    if rows.numel() == 0:
        return True
    noise = (sent - clean).square().sum(1).mean().sqrt()
    return bool((rows - clean).square().sum(1).amax().sqrt() <= NEAR * noise)


def _size(pair: tuple[Tensor, Tensor]) -> int:
    return sum(each.nbytes for each in pair)
