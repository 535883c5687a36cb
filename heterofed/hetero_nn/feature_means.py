"""The means of each Collaborator's features, which stand for rows that it will not have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import Layout
from heterofed.errors import MissingPartyError
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.results import write_whole
from heterofed.runs.artifacts import Trained, read_weights

MEANS = "feature_means.pt"

SUMMED_AT_ONCE = 1 << 17
"""Numbers."""

MAX_ROW = 1 << 22
"""Numbers in a row of one party up to which their means are kept: 32 MiB of sums in float64,
however narrow the numbers are that a peer sends.
"""


@dataclass(frozen=True, slots=True)
class FeatureImputer:
    """What stands for one row of a party's features: how it arranged them, and their means.

    Attributes:
        layout: as its hook yielded them.
        means: by tensor name, [...] without the rows; zero for integers and bools. None where
            batches differed in more than the rows, or rows had more than `MAX_ROW` numbers.
    """

    layout: Layout
    means: dict[str, Tensor | None]

    def fill(
        self, tensors: Mapping[str, Tensor], here: Tensor, party: str, *, by_mean: bool
    ) -> dict[str, Tensor]:
        """Features of all rows, where a party has some.

        Args:
            tensors: by name, of the rows that it has; empty where it has none.
            here: which these are: bool, [rows].
            party: its feature key.
            by_mean: whether means stand for the others, or zeros.

        Raises:
            MissingPartyError: its features had no one shape, or too large a one, so nothing can
                stand for a row.
        """
        filled = {}
        for name, mean in self.means.items():
            if mean is None or (name in tensors and tensors[name].shape[1:] != mean.shape):
                raise MissingPartyError(
                    f"nothing can stand for rows that {party} does not have: its features had no"
                    f" one shape in training, or more than {MAX_ROW} numbers a row",
                    party=party,
                )
            value = mean if by_mean else torch.zeros_like(mean)
            filled[name] = value.expand(len(here), *mean.shape).clone()
            if name in tensors:
                filled[name][here] = tensors[name]
        return filled


class FeatureMeans:
    """The means of each Collaborator's features over a round, for rows that it will not have.

    Args:
        state: gets what was counted, in plain values that a checkpoint can keep; a round that goes
            on goes on with them.
        harmless: tells where features cannot be counted; then nothing stands for those of a party.
    """

    def __init__(self, state: dict[str, Any], harmless: Harmless) -> None:
        self._state = state
        self._harmless = harmless

    def add(self, party: str, batch: FeatureBatch) -> None:
        """Count a batch in; never raises."""
        counted = False
        with self._harmless("the means of features"):
            self._add(party, batch.layout, batch.tensors)
            counted = True
        if not counted:
            sums = dict.fromkeys(batch.tensors)
            lost = {"layout": batch.layout, "rows": 0, "sums": sums, "types": {}}
            self._state[party] = lost

    def _add(self, party: str, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
        kept = self._state.setdefault(party, {"layout": layout, "rows": 0, "sums": {}, "types": {}})
        sums = kept["sums"]
        wide = sum(math.prod(tensor.shape[1:]) for tensor in tensors.values()) > MAX_ROW
        for name, tensor in tensors.items():
            if name not in sums:
                sums[name] = None if wide else _no_sum(tensor)
                kept["types"][name] = tensor.dtype
            if sums[name] is None or wide or sums[name].shape != tensor.shape[1:]:
                sums[name] = None
            elif tensor.is_floating_point():
                sums[name] = sums[name] + _sum_of_rows(tensor.detach()).cpu()
        kept["rows"] += len(tensor)

    def save(self, path: Path) -> None:
        """Write them, in task order."""
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


def _no_sum(tensor: Tensor) -> Tensor:
    """The sum of no row; of integers it stays so, and takes no memory."""
    if tensor.is_floating_point():
        return torch.zeros(tensor.shape[1:], dtype=torch.float64)
    return torch.zeros((), dtype=torch.float64).expand(tensor.shape[1:])


def _sum_of_rows(tensor: Tensor) -> Tensor:
    """In float64, without a copy of a big tensor in it."""
    if tensor.numel() <= SUMMED_AT_ONCE:
        return tensor.sum(dim=0, dtype=torch.float64)
    chunk = max(1, SUMMED_AT_ONCE // max(1, tensor[:1].numel()))
    total = torch.zeros(tensor.shape[1:], dtype=torch.float64, device=tensor.device)
    for part in torch.split(tensor, chunk):
        total += part.sum(dim=0, dtype=torch.float64)
    return total


def _mean(total: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Zero for integers and bools, in one number's memory."""
    if dtype.is_floating_point:
        return (total / max(1, rows)).to(dtype)
    return torch.zeros((), dtype=dtype).expand(total.shape)


def read_imputers(trained: Trained) -> dict[str, FeatureImputer]:
    """What stands for each Collaborator, in task order.

    Raises:
        ConfigError: the file is not there or damaged.
    """
    kept = read_weights(trained, MEANS.removesuffix(".pt"))
    return {party: FeatureImputer(each["layout"], each["means"]) for party, each in kept.items()}
