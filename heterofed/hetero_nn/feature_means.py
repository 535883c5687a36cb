"""Computes the means of each Collaborator's features, which replace the features of missing
rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import PLAIN, SMALL, Layout
from heterofed.errors import MissingPartyError
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.results import write_whole
from heterofed.runs.artifacts import Trained, read_weights

MEANS = "feature_means.pt"

WHAT = "the means of features"
"""The name of these means in log lines about their failures."""

SUMMED_AT_ONCE = 1 << 17
"""The number of values above which rows are summed in parts, so that no large copy is made."""

MAX_ROW = 1 << 22
"""The most numbers in a row of one party of which means are kept. The sums of such a row take 32
MiB in float64, however narrow the dtype is that a peer sends.
"""


@dataclass(frozen=True, slots=True)
class FeatureImputer:
    """Imputes one party's features of missing rows, by their means or by zeros.

    Attributes:
        layout: the form in which the party's hook yielded the features.
        means: the means by tensor name, [...] without the dimension of rows; zero for integers and
            bools. None if batches differed in more than the number of rows, or if rows had more
            than `MAX_ROW` numbers.
    """

    layout: Layout
    means: dict[str, Tensor | None]

    @property
    def row_bytes(self) -> int:
        """The bytes of the features of one row; 0 if they had no fixed shape in training."""
        means = [each for each in self.means.values() if each is not None]
        return sum(each.numel() * each.element_size() for each in means)

    def fill(
        self, tensors: Mapping[str, Tensor], here: Tensor, party: str, *, by_mean: bool
    ) -> dict[str, Tensor]:
        """Return the features of all rows, from those of the rows that a party has.

        Args:
            tensors: the features of the rows that the party has, by name; empty if it has none.
            here: whether the party has each row, bools of shape [rows].
            party: the feature key of the party.
            by_mean: whether means replace missing features; otherwise zeros do.

        Raises:
            MissingPartyError: the features had no fixed shape or too many numbers, so that nothing
            can replace a row.
        """
        filled = {}
        for name, mean in self.means.items():
            if mean is None or (name in tensors and tensors[name].shape[1:] != mean.shape):
                raise MissingPartyError(
                    f"nothing can stand for rows that {party} does not have: its features had no"
                    f" one shape in training, or more than {MAX_ROW} numbers a row; leave those ids"
                    " out of the prediction",
                    party=party,
                )
            value = mean if by_mean else torch.zeros_like(mean)
            filled[name] = value.expand(len(here), *mean.shape).clone()
            if name in tensors:
                filled[name][here] = tensors[name]
        return filled


class FeatureMeans:
    """Sums up each Collaborator's features over a round, to compute their means.

    Args:
        state: receives the sums as plain values that a checkpoint can keep; a resumed round
            continues with them.
        harmless: reports features that cannot be summed; then nothing can replace those of the
            party.
    """

    def __init__(self, state: dict[str, Any], harmless: Harmless) -> None:
        self._state = state
        self._harmless = harmless
        # Batches of few numbers are added up as they are, and their rows at the end.
        self._added: dict[tuple[str, str], NDArray[np.float64]] = {}

    def add(self, party: str, batch: FeatureBatch) -> None:
        """Add the features of a batch; this method never raises an error."""
        counted = False
        with self._harmless(WHAT):
            self._add(party, batch.layout, batch.tensors)
            counted = True
        if not counted:
            sums = dict.fromkeys(batch.tensors)
            lost = {"layout": batch.layout, "rows": 0, "sums": sums, "types": {}}
            self._state[party] = lost

    def _add(self, party: str, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
        kept = self._state.get(party)
        if kept is None:
            kept = self._state[party] = {"layout": layout, "rows": 0, "sums": {}, "types": {}}
        sums = kept["sums"]
        if not _are_of(sums, tensors):
            self._begin(sums, kept["types"], tensors)
        for name, tensor in tensors.items():
            if sums[name] is None:
                continue
            if tensor.dtype in PLAIN and tensor.is_cpu and tensor.numel() <= SMALL:
                self._add_small((party, name), tensor.detach().numpy())
            elif tensor.is_floating_point():
                sums[name] = sums[name].to(tensor.device) + _sum_of_rows(tensor.detach())
        kept["rows"] += tensor.shape[0]

    def _begin(
        self, sums: dict[str, Tensor | None], types: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """Begin the sums of new tensors, and end those of tensors whose rows have changed."""
        wide = sum(math.prod(tensor.shape[1:]) for tensor in tensors.values()) > MAX_ROW
        for name, tensor in tensors.items():
            if name not in sums:
                sums[name] = None if wide else _no_sum(tensor)
                types[name] = tensor.dtype
            so_far = sums[name]
            if wide or so_far is None or so_far.shape != tensor.shape[1:]:
                sums[name] = None

    def _add_small(self, place: tuple[str, str], rows: NDArray[Any]) -> None:
        added = self._added.get(place)
        if added is not None and added.shape == rows.shape:
            np.add(added, rows, out=added)
            return
        self._settle(place)
        self._added[place] = rows.astype(np.float64)

    def _settle(self, place: tuple[str, str]) -> None:
        """Add what was added up for a tensor to its sum, unless it has none any more."""
        party, name = place
        added, sums = self._added.pop(place, None), self._state[party]["sums"]
        if added is not None and (total := sums.get(name)) is not None:
            sums[name] = None  # if the next line fails, the sum is not whole
            sums[name] = total + torch.from_numpy(np.asarray(added.sum(axis=0)))

    def settle(self) -> None:
        """Complete the sums, and bring those of features on a GPU to main memory; until then
        nothing waits for them.
        """
        for place in list(self._added):
            with self._harmless(WHAT):
                self._settle(place)
        for kept in self._state.values():
            kept["sums"] = {
                name: total if total is None else total.cpu()
                for name, total in kept["sums"].items()
            }

    def save(self, path: Path) -> None:
        """Write the means to a file, in task order."""
        self.settle()
        means = {
            party: {
                "layout": kept["layout"],
                "means": {
                    name: None if total is None else _mean(total, kept["rows"], kept["types"][name])
                    for name, total in kept["sums"].items()
                },
            }
            for party, kept in self._state.items()
        }
        write_whole(path, lambda file: torch.save(means, file))


def _are_of(sums: Mapping[str, Tensor | None], tensors: Mapping[str, Tensor]) -> bool:
    """Return whether all of these tensors have a sum, whose shape is that of their rows."""
    for name, tensor in tensors.items():
        total = sums.get(name)
        if total is None or total.shape != tensor.shape[1:]:
            return False
    return True


def _no_sum(tensor: Tensor) -> Tensor:
    """Return the sum of no rows; that of integers stays zero and takes no memory."""
    if tensor.is_floating_point():
        return torch.zeros(tensor.shape[1:], dtype=torch.float64)
    return torch.zeros((), dtype=torch.float64).expand(tensor.shape[1:])


def _sum_of_rows(tensor: Tensor) -> Tensor:
    """Return the sum over rows in float64, without a copy of the whole tensor in float64."""
    if tensor.numel() <= SUMMED_AT_ONCE:
        return tensor.sum(dim=0, dtype=torch.float64)
    chunk = max(1, SUMMED_AT_ONCE // max(1, tensor[:1].numel()))
    total = torch.zeros(tensor.shape[1:], dtype=torch.float64, device=tensor.device)
    for part in torch.split(tensor, chunk):
        total += part.sum(dim=0, dtype=torch.float64)
    return total


def _mean(total: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Return the mean; for integers and bools it is zero and takes the memory of one number."""
    if dtype.is_floating_point:
        return (total / max(1, rows)).to(dtype)
    return torch.zeros((), dtype=dtype).expand(total.shape)


def read_imputers(trained: Trained) -> dict[str, FeatureImputer]:
    """Return the imputer of each Collaborator, in task order.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    kept = read_weights(trained, MEANS.removesuffix(".pt"))
    return {party: FeatureImputer(each["layout"], each["means"]) for party, each in kept.items()}
