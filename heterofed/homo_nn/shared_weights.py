"""Holds the weights of all parties at the Host, and makes new ones of each round's updates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heterofed.compute.tensors import check_finite
from heterofed.errors import RemoteProtocolError
from heterofed.homo_nn.central_dp import CentralDP, clipped
from heterofed.homo_nn.secure import unmasked_sum
from heterofed.homo_nn.settings import HomoHostSettings
from heterofed.homo_nn.weights import Layout, apart, as_of, flat, norm_of_change, unpacked
from heterofed.privacy.noise import Noise
from heterofed.protocol.messages import WeightSpec
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.model_files import write_state
from heterofed.runs.run import Run
from heterofed.runs.state import Kept

if TYPE_CHECKING:
    from heterofed.messaging.peer import Mail


class SharedWeights(CheckpointPart):
    """The weights of all parties in one run of the Host.

    Args:
        run: the run.
        settings: the settings of the Host.

    Attributes:
        layout: the tensors of the model; empty before the parties have agreed on them.
        weights: the current weights by name.
    """

    def __init__(self, run: Run, settings: HomoHostSettings) -> None:
        self._run, self._settings = run, settings
        self.layout: Layout = ()
        self.weights: dict[str, Tensor] = {}
        self._state: dict[str, Any] = {}

    def begin(self, layout: Layout, weights: dict[str, Tensor]) -> None:
        """Take the weights with which the training begins."""
        self.layout, self.weights, self._state = layout, weights, {}
        self.note(self._run.state.kept)

    def step(self, updates: Mapping[str, Mail]) -> None:
        """Make the new weights of the updates of a round.

        Args:
            updates: the message `Update` of each party with its payload, in task order.

        Raises:
            RemoteProtocolError: an update is none, or has a larger norm than the settings allow.
            NonFiniteError: an update, or what becomes of it, holds NaN or infinity.
        """
        learns = [each.name for each in self.layout if each.learns]
        before = {name: each.to(torch.float64) for name, each in self.weights.items()}
        defence = self._settings.central_dp
        mean = (
            self._mean(updates, learns)
            if defence is None
            else self._noisy_mean(updates, learns, defence)
        )
        new = self._settings.strategy.step(before, mean, learns, self._state)
        weights = as_of(self.layout, new)
        check_finite(weights, "the average", self._run.party.name)
        self.weights = weights
        self.note(self._run.state.kept)

    def _mean(self, updates: Mapping[str, Mail], learns: list[str]) -> dict[str, Tensor]:
        factors = {name: self._factor(mail) for name, mail in updates.items()}
        if self._run.plan.fusion == "masked_sum":
            payloads = {name: mail.payload for name, mail in updates.items()}
            total = unmasked_sum(self.layout, payloads)
        else:
            total = {}
            for name, mail in updates.items():
                self._add(total, self._checked(name, mail, learns), factors[name])
        return {name: each / sum(factors.values()) for name, each in total.items()}

    def _noisy_mean(
        self, updates: Mapping[str, Mail], learns: list[str], defence: CentralDP
    ) -> dict[str, Tensor]:
        """Return the mean of the clipped updates, with noise that hides each of them."""
        start = flat(self.weights)
        if self._settings.strategy.sends == "gradients":
            start = torch.zeros_like(start)
        if self._run.plan.fusion == "masked_sum":  # each party has clipped its own
            payloads = {name: mail.payload for name, mail in updates.items()}
            total = flat(unmasked_sum(self.layout, payloads)) - start * len(updates)
        else:
            some = (self._checked(name, mail, learns) for name, mail in updates.items())
            parts = [clipped(start, each, defence.clip) for each in some]
            total = torch.stack(parts).sum(dim=0)
        noise = Noise(self._run.noise, "average", self._run.round)
        return apart(self.layout, start + defence.noisy(total, noise) / len(updates))

    def _factor(self, mail: Mail) -> int:
        rows: int = mail.message.rows  # type: ignore[attr-defined]
        return rows if self._settings.weighting == "rows" else 1

    def _checked(self, party: str, mail: Mail, learns: list[str]) -> dict[str, Tensor]:
        update = unpacked(self.layout, mail.payload, party, "the update")
        most, sends = self._settings.max_update_norm, self._settings.strategy.sends
        if most is None:
            return update
        norm = norm_of_change(self.weights if sends == "weights" else None, update, learns)
        if not norm <= most:
            raise RemoteProtocolError(
                f"the update of {party} has the norm {norm:.6g}, and max_update_norm is {most:g};"
                " lower the learning rate there, or do not trust this party",
                party=party,
            )
        return update

    @staticmethod
    def _add(total: dict[str, Tensor], update: Mapping[str, Tensor], factor: int) -> None:
        for name, each in update.items():
            part = each.to(torch.float64) * factor
            total[name] = total[name] + part if name in total else part

    # -- as a part of checkpoints ------------------------------------------------------------

    def note(self, kept: Kept) -> None:
        """See `CheckpointPart`."""
        specs = [[each.name, each.dtype, list(each.shape), each.learns] for each in self.layout]
        kept.averaged = {"layout": specs, "weights": self.weights, "state": self._state}

    def write_beside(self, folder: Path, prefix: str) -> None:
        """Write the weights as `<prefix>model.pt`."""
        name = f"{prefix}model"
        path = folder / f"{name}.pt"
        self._run.result.models[name] = write_state(path, self.weights)

    def leave(self) -> None:
        """See `CheckpointPart`."""
        self.layout, self.weights, self._state = (), {}, {}

    def take_up(self) -> None:
        """See `CheckpointPart`."""
        kept = self._run.state.kept.averaged
        self.layout = tuple(
            WeightSpec(name, dtype, tuple(shape), learns)
            for name, dtype, shape, learns in kept["layout"]
        )
        self.weights, self._state = kept["weights"], kept["state"]
