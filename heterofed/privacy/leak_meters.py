"""Measures, for a limit, what a batch that is about to be sent would reveal.

A meter is given each batch before it is sent and returns a number between 0 and 1 for each attack,
as `leak_tests` needs it. Batches with too few rows are measured together with those after them. A
digest of what was measured tells whether it has been measured before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from heterofed.privacy.input_attacks import ridge_reconstruction
from heterofed.privacy.label_attacks import cosine_leak, norm_leak, numbered_anew, spectral_leak
from heterofed.privacy.leakage import rows_to_measure
from heterofed.privacy.rows import vectors

Measure = Literal["label_auc", "input_r2"]

LEAST_ROWS = 32
"""The fewest rows that are measured together."""

MOST_POOLED = 4096
"""The most rows that wait for others; the oldest are dropped."""

MOST_NUMBERS = 1 << 24
"""The most numbers that wait, unless so many are needed for one measurement."""

MOST_CLASSES = 16
"""The most classes that are measured in a batch: the most frequent ones."""

MOST_COLUMNS = 256
"""The most columns of the inputs that are rebuilt, evenly spaced over all of them."""

_CPU = torch.device("cpu")


class Measured(NamedTuple):
    """The measurements of what is about to be sent.

    Attributes:
        parts: the measurement of each part, by attack; none if there are too few rows yet.
        digest: a digest of the rows that were measured.
    """

    parts: Sequence[dict[str, float]] = ()
    digest: bytes = b""


class _Pool:
    """Rows of tensors that wait until there are enough to measure them.

    Rows of different lengths wait together, the shorter ones padded with zeros: a party could else
    change the length with each batch, so that nothing were ever measured.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, *tensors: Tensor, enough: Callable[[int], int]) -> tuple[Tensor, ...]:
        """Add rows, and return all that wait.

        Args:
            tensors: tensors of the same rows.
            enough: returns the number of rows to measure together, given the longest row.
        """
        self._parts.append(tensors)
        columns = list(zip(*self._parts, strict=True))
        widths = [max(each[:1].numel() for each in parts) for parts in columns]
        most = min(MOST_POOLED, max(enough(max(widths)), MOST_NUMBERS // max(1, sum(widths))))
        joined = tuple(_joined(parts, most) for parts in columns)
        self._parts = [joined]
        return joined

    @property
    def rows(self) -> Sequence[Tensor]:
        """The rows that wait; none if there are none."""
        return [each for part in self._parts for each in part]

    @rows.setter
    def rows(self, rows: Sequence[Tensor]) -> None:
        self._parts = [tuple(rows)] if rows else []

    def clear(self) -> None:
        """Forget the rows, which were measured."""
        self._parts.clear()


def _joined(parts: Sequence[Tensor], most: int) -> Tensor:
    """Return the last rows on the device of the last part; others may be from a checkpoint."""
    device, rows = parts[-1].device, sum(map(len, parts))
    if parts[-1].dim() == 1:
        return torch.cat([each.to(device) for each in parts])[-most:]
    widest = max(each.shape[1] for each in parts)
    kept, dropped = [], max(0, rows - most)
    for each in parts:
        kept.append(F.pad(each[dropped:].to(device), (0, widest - each.shape[1])))
        dropped = max(0, dropped - len(each))
    return torch.cat(kept)


def _digest(*tensors: Tensor) -> bytes:
    made = blake2b(digest_size=16)
    for each in tensors:
        made.update(f"{each.dtype} {tuple(each.shape)}".encode())
        made.update(each.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return made.digest()


class Meter:
    """A meter, with the rows that wait until there are enough to measure them."""

    def __init__(self) -> None:
        self._pool = _Pool()

    @property
    def waiting(self) -> Sequence[Tensor]:
        """The rows that wait, for a checkpoint."""
        return [each.cpu() for each in self._pool.rows]

    @waiting.setter
    def waiting(self, rows: Sequence[Tensor]) -> None:
        self._pool.rows = rows


class LabelMeter(Meter):
    """Measures what gradients for one Collaborator reveal of the labels, as AUCs of attacks.

    An attacker may read a score either way round, so each attack is measured both ways: an AUC that
    were folded to at least 0.5 would be too high on average.
    """

    def measured(self, sent: Tensor, clean: Tensor, labels: Tensor, parts: int = 1) -> Measured:
        """Return the AUC of each attack on gradients that are about to be sent.

        Args:
            sent: the gradients as they are sent, of shape [rows, d].
            clean: the gradients before any defence, of shape [rows, d].
            labels: the class numbers, int64 of shape [rows].
            parts: the number of parts to measure separately, if each has enough rows.
        """
        most = max(1, rows_to_measure([sent, clean]))
        rows = (each.detach()[:most].clone() for each in (sent, clean, labels.to(sent.device)))
        sent, clean, labels = self._pool.add(*rows, enough=lambda _: LEAST_ROWS)
        counts = numbered_anew(labels)[1].bincount()
        if len(sent) < LEAST_ROWS or int((counts > 1).sum()) < 2:
            return Measured()
        self._pool.clear()
        digest = _digest(sent, clean, labels)
        if len(sent) < 2 * LEAST_ROWS * parts:
            parts = 1
        each = (tensor.chunk(parts) for tensor in (sent, clean, labels))
        found = [label_aucs(*part) for part in zip(*each, strict=True)]
        return Measured([aucs for aucs in found if aucs], digest)


def label_aucs(sent: Tensor, clean: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the AUC of each attack, class and reading; see `LabelMeter.measured`."""
    classes, numbers = numbered_anew(labels)
    if len(classes) < 2:
        return {}
    frequent = set(numbers.bincount().argsort(descending=True)[:MOST_CLASSES].tolist())
    generator = torch.Generator().manual_seed(0)  # takes nothing from the user's streams
    attacks = {
        "norm": norm_leak(sent, numbers),
        "cosine": cosine_leak(sent, numbers, clean=clean, generator=generator),
        "spectral": spectral_leak(sent, numbers),
    }
    found: dict[str, float] = {}
    for name, aucs in attacks.items():
        for place, value in enumerate(aucs.tolist()):
            if math.isnan(value) or (len(aucs) > 1 and place not in frequent):
                continue
            number = classes[-1] if len(aucs) == 1 else classes[place]
            found[f"{name} {number}"] = value
            if name != "cosine":  # its attacker knows which way round
                found[f"{name} {number} reversed"] = 1 - value
    return found


class InputMeter(Meter):
    """Measures what features reveal of the inputs: the share of their variance that ridge
    regression rebuilds for half of the rows, from the other half.
    """

    def measured(self, inputs: Tensor, sent: Tensor, parts: int = 1) -> Measured:
        """Return the share of the inputs' variance that features about to be sent would reveal.

        Args:
            inputs: the inputs of the feature model, of shape [rows, ...].
            sent: the features as they are sent, of shape [rows, d].
            parts: the number of parts to measure separately, if each has enough rows.
        """
        x, z = _some_columns(vectors(inputs.detach())), vectors(sent.detach())
        rows = (each.to(_CPU, torch.float32) for each in (x, z))
        x, z = self._pool.add(*rows, enough=_rows_to_rebuild)
        enough = _rows_to_rebuild(z.shape[1])
        if len(z) < enough:
            return Measured()
        self._pool.clear()
        digest = _digest(x, z)
        if len(z) < enough * parts:
            parts = 1
        pairs = zip(x.chunk(parts), z.chunk(parts), strict=True)
        found = [ridge_reconstruction(*pair).r2 for pair in pairs]
        shares = [{"ridge": min(max(each, 0.0), 1.0)} for each in found if math.isfinite(each)]
        return Measured(shares, digest)


def _rows_to_rebuild(width: int) -> int:
    """Return from how many rows of features of this width the inputs are rebuilt."""
    return min(max(2 * LEAST_ROWS, 4 * width), MOST_POOLED)


def _some_columns(rows: Tensor) -> Tensor:
    width = rows.shape[1]
    if width <= MOST_COLUMNS:
        return rows
    chosen = torch.linspace(0, width - 1, MOST_COLUMNS, device=rows.device).long()
    return rows[:, chosen]
