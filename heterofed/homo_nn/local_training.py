"""Trains a Collaborator's model on its own rows, and makes the updates that it sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heterofed.compute.autograd import evaluating
from heterofed.compute.tensors import check_finite
from heterofed.homo_nn.central_dp import clipped
from heterofed.homo_nn.hooks import HomoCollaboratorHooks
from heterofed.homo_nn.models import LocalModels
from heterofed.homo_nn.noise_account import NoiseAccount
from heterofed.homo_nn.sampling import drawn
from heterofed.homo_nn.scores import read
from heterofed.homo_nn.secure import UpdateMasks
from heterofed.homo_nn.settings import HomoCollaboratorSettings
from heterofed.homo_nn.weights import (
    Layout,
    apart,
    as_of,
    flat,
    gradients_of,
    layout_of,
    load,
    packed,
    state_of,
    unpacked,
)
from heterofed.protocol import messages as msg
from heterofed.protocol.plan import Averaging
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.extra_modules import modules_beside
from heterofed.runs.hook_streams import SeededHooks
from heterofed.runs.recorded import record_row
from heterofed.runs.run import Run
from heterofed.runs.state import Kept

if TYPE_CHECKING:
    from heterofed.messaging.peer import Peer


class LocalTraining(CheckpointPart):
    """The training of one party in one run.

    Args:
        owner: the scheduler.
        run: the run.
        hooks: calls the hooks.
        models: the model and the optimizer.
        settings: the settings of the party.
    """

    def __init__(
        self,
        owner: HomoCollaboratorHooks,
        run: Run,
        hooks: SeededHooks,
        models: LocalModels,
        settings: HomoCollaboratorSettings,
    ) -> None:
        self._owner, self._run, self._hooks, self._models = owner, run, hooks, models
        self._settings = settings
        self._masks: UpdateMasks | None = None
        self._account: NoiseAccount | None = None

    @property
    def _layout(self) -> Layout:
        return layout_of(self._models.model)

    @property
    def _sends_gradients(self) -> bool:
        averaging = self._run.plan.averaging
        return averaging is not None and averaging.sends == "gradients"

    def connected(self) -> None:
        """Make the masks and the account of this connection, before anything is trained."""
        run, settings = self._run, self._settings
        if run.plan.fusion == "masked_sum":
            self._masks = UpdateMasks(run.party.name, run.mask_secrets)
        if (defence := settings.weights_defence) is not None:
            self._account = NoiseAccount(self._owner, run, defence, settings.limits)

    def description(self, *, with_weights: bool) -> tuple[msg.ModelLayout, list[memoryview]]:
        """Return the description of the model to send, with its weights if the Host asked."""
        payload = packed(state_of(self._models.model)) if with_weights else []
        return msg.ModelLayout(self._layout), payload

    def begin(self, host: Peer, payload: bytearray) -> None:
        """Take the weights with which the training begins."""
        self.take(host, payload)

    def take(self, host: Peer, payload: bytearray) -> None:
        """Write the weights of all parties into the model.

        Raises:
            RemoteProtocolError: the Host sent other tensors than the model has.
            NonFiniteError: they hold NaN or infinity.
        """
        weights = unpacked(self._layout, payload, host.name, "the average")
        load(self._models.model, weights)

    def update(self) -> tuple[msg.Update, list[memoryview]]:
        """Train one round, and return the update to send."""
        run, model = self._run, self._models.model
        averaging = run.plan.averaging or Averaging()
        start = flat(state_of(model)) if averaging.clip else None
        model.train()
        model.zero_grad(set_to_none=True)
        self._models.begin_round()
        if self._account is not None:
            self._account.begin_round()
        hook = "train_a_round"
        scored = read(self._hooks.seeded(hook, model), hook, needs_rows=True)
        if self._account is not None:
            self._account.charge(scored.rows)
        run.result.train_rows = scored.rows
        record_row(run, type(self._owner), "train", {"rows": scored.rows, **scored.values})
        update = gradients_of(model) if self._sends_gradients else state_of(model)
        check_finite(update, "the update", run.party.name)
        if start is not None:
            start = torch.zeros_like(start) if self._sends_gradients else start
            update = apart(self._layout, start + clipped(start, update, averaging.clip))
        payload = packed(as_of(self._layout, update) if start is not None else update)
        if self._masks is not None:
            summed = drawn(run.plan, run.round)
            factor = scored.rows if averaging.weighting == "rows" else 1
            payload = [self._masks.masked(update, factor, run.round, summed)]
        return msg.Update(run.round, scored.rows, scored.sent), payload

    def scores(self) -> msg.Scores:
        """Test the model, and return the numbers to send."""
        model, hook = self._models.model, "test"
        with evaluating(model, *modules_beside(self._owner, [model])):
            scored = read(self._hooks.seeded(hook, model), hook, needs_rows=False)
        record_row(self._run, type(self._owner), "test", scored.values)
        return msg.Scores(self._run.round, scored.rows, scored.sent)

    # -- as a part of checkpoints ------------------------------------------------------------

    def note(self, kept: Kept) -> None:
        """Keep the first weights; in later rounds the checkpoint has the model."""
        kept.averaged = {} if self._run.round else {"weights": state_of(self._models.model)}

    def take_up(self) -> None:
        """See `CheckpointPart`."""
        if weights := self._run.state.kept.averaged.get("weights"):
            load(self._models.model, weights)
