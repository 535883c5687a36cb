"""Defends and measures the embeddings that a Collaborator sends."""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from heterofed.compute.alignment import keyed_digest
from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import check_finite
from heterofed.errors import FeatureError
from heterofed.hetero_nn.settings import CollaboratorSettings
from heterofed.hetero_nn.train.guard import REPORT, Guard, Stream, budget_of, names_of, some_rows
from heterofed.hetero_nn.train.model_calls import ModelCalls
from heterofed.hetero_nn.train.releases import EmbeddingReleases
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.leak_meters import InputMeter
from heterofed.privacy.leakage import MEASURED_ROWS, InputLeaks
from heterofed.privacy.masking import Masks
from heterofed.privacy.noise import drawn_from
from heterofed.privacy.raised_defences import raised_input_defence
from heterofed.privacy.rows import joined, parted
from heterofed.privacy.witness import Witness
from heterofed.reporting.diagnostics import shielded
from heterofed.runs.run import Run

HOST = "the Host"
"""The recipient of all features."""


class CollaboratorGuard(Guard):
    """The guard of a Collaborator, for its embeddings and their inputs.

    Args:
        run: the run.
        settings: the settings of the Collaborator, with its defences and its limits on releases.
        users: the names of metrics sets that the user registered.
        stream: runs functions that draw noise.
        model: the feature model, whose inputs are those of the embeddings.
    """

    measure = "input_r2"

    def __init__(
        self,
        run: Run,
        settings: CollaboratorSettings,
        users: Container[str],
        stream: Stream,
        model: nn.Module | None,
    ) -> None:
        defence = settings.embedding_defence
        noise = defence if isinstance(defence, ClippedGaussian) else None
        weights = settings.weights_defence if settings.is_feature_trainable else None
        releases = EmbeddingReleases(run, settings.release_limits, weights, noise)
        budget = budget_of(run, settings.leak_report)
        self._leaks = shielded(lambda: InputLeaks(budget, run.harmless), REPORT, run.harmless)
        super().__init__(run, budget, (self._leaks,), users, weights, releases)
        run.defences = names_of(embeddings=defence, weights=weights)
        self._stream = stream
        self._defence = defence
        self._calls = ModelCalls(run.harmless)
        self._inputs: dict[int, Tensor] = {}
        self._unmeasured: tuple[Tensor, dict[str, Tensor]] | None = None
        self._name = run.party.name
        self._masks: Masks | None = None
        self._split_by: dict[str, bytes] | None = None
        self._bound: dict[str, bytes] = {}
        self._model_hook: RemovableHandle | None = None
        self._has_model, self._meter = model is not None, InputMeter()
        self._raised_to: ClippedGaussian | None = None
        self._go_on(run.state.kept.defences)
        limited = self._watch is not None
        watching = budget.effort != "off" or isinstance(defence, Decorrelation) or limited
        if model is not None and watching:
            with run.harmless(REPORT):
                self._model_hook = model.register_forward_pre_hook(self._calls)

    def close(self) -> None:
        """See `Guard.close`."""
        super().close()
        if self._model_hook is not None:
            self._model_hook.remove()

    @property
    def alters(self) -> bool:
        """Whether what is sent differs from what the feature hook yielded."""
        noisy = isinstance(self._defence, ClippedGaussian) or self._raised(HOST) > 0
        return noisy or self._sums

    @property
    def _sums(self) -> bool:
        """Whether the Host gets only the sum of the Collaborators' features."""
        return self._run.plan.fusion == "masked_sum" and bool(self._run.mask_secrets)

    def outgoing(self, batch: FeatureBatch, number: int, *, testing: bool) -> FeatureBatch:
        """Return the defended features to send to the Host; gradients pass through the defence.

        Raises:
            FeatureError: the defence cannot hide these features, or their leak cannot be measured.
            LeakLimitError: the features reveal more of the inputs than the terms allow.
        """
        floats, limited = batch.floats, self._watch is not None
        reported = bool(floats) and not testing
        if reported and not isinstance(self._defence, Decorrelation):
            reported = bool(self._leaks.has_time())  # None after a fault, which ends no run
        inputs = self._calls.taken(batch.rows, wanted=reported or limited)
        sent = self._hidden(batch, floats)
        if self._watch is not None:
            known = self._known_inputs(batch, inputs)
            while not self._watch.admits(
                HOST, number, functools.partial(self._meter.measured, known, joined(sent.tensors))
            ):
                sent = self._hidden(batch, floats)
        if inputs is not None and reported:
            self._unmeasured = inputs, {name: sent.tensors[name] for name in floats}
            if isinstance(self._defence, Decorrelation):
                self._inputs[number] = inputs.clone()  # the hook may reuse the memory
        return sent

    def _hidden(self, batch: FeatureBatch, floats: dict[str, Tensor]) -> FeatureBatch:
        """Return the features as the current defence lets them be sent."""
        defence = self._defence if isinstance(self._defence, ClippedGaussian) else None
        if raised := self._raised(HOST):
            defence = self._raised_to = raised_input_defence(
                raised, defence, joined(batch.tensors), self._raised_to
            )
        if defence is None:
            return batch
        if len(floats) < len(batch.tensors):
            raise FeatureError(
                "ClippedGaussian hides floats alone: yield no integers or bools as features;"
                " let feature_model take them in (an embedding layer), or convert them"
            )
        with drawn_from(self._noise("the Host")):
            rows = self._stream("embedding_defence", defence, joined(floats))
        hidden = parted(rows, floats)
        check_finite(hidden, "what embedding_defence gave", self._name)
        return batch.holding(batch.tensors | hidden)

    def _known_inputs(self, batch: FeatureBatch, inputs: Tensor | None) -> Tensor:
        """Return the inputs of a batch; without a feature model they are the features.

        Raises:
            FeatureError: they are unknown, so that their leak cannot be measured.
        """
        if inputs is None and not self._has_model:
            inputs = joined(batch.tensors)
        if inputs is None:
            raise FeatureError(
                "max_input_r2 of the terms needs the inputs of the features: call feature_model"
                " once per batch, with a float tensor [rows, ...]",
                party=self._name,
            )
        return inputs

    def leaves(self, batch: FeatureBatch) -> None:
        """Count a batch of features in the ledger before it is sent.

        Raises:
            ReleaseLimitError: the batch would exceed a limit of the user.
        """
        self._releases.leaves(batch.ids, batch.rows)

    def note_counts(self) -> None:
        """See `Guard`. Keep to what rows are clipped, and the rows that wait."""
        super().note_counts()
        clip = None if self._raised_to is None else self._raised_to.clip
        kept = {"clip": clip, "waiting": list(self._meter.waiting)}
        self._run.state.kept.defences = kept

    def _go_on(self, kept: Mapping[str, Any]) -> None:
        self._meter.waiting = kept.get("waiting", ())
        if (clip := kept.get("clip")) is not None:
            self._raised_to = ClippedGaussian(clip, 1.0)  # later noise keeps its clipping alone

    def note(self) -> None:
        """Measure the last result of `outgoing` after it was sent. This never raises an error."""
        if self._unmeasured is not None:
            (inputs, sent), self._unmeasured = self._unmeasured, None
            if self._leaks.has_time():
                with self._run.harmless(REPORT):
                    self._leaks.note(inputs[:MEASURED_ROWS], some_rows(sent))

    def masked(self, batch: FeatureBatch, number: int, *, testing: bool) -> FeatureBatch:
        """Return what is sent: the features, or one masked tensor if the Host gets only sums.

        Raises:
            FeatureError: the features cannot be summed.
        """
        if not self._sums:
            return batch
        if len(batch.floats) < len(batch.tensors):
            raise FeatureError("a masked sum is of floats: yield no integers or bools as features")
        shared = self._shared()
        if self._masks is None or self._masks.shared is not shared:
            self._masks = Masks(self._name, shared)
        phase = "test" if testing else "train"
        hidden = self._masks.mask(joined(batch.tensors), phase, self._run.round, number)
        return FeatureBatch("tensor", {"": hidden}, batch.ids)

    def witness(self) -> Witness | None:
        """Return the check of equal gradients at all Collaborators; None if each has its own
        gradients.
        """
        if not self._sums:
            return None
        return Witness(self._name, self._run.plan.collaborators, self._shared())

    def _shared(self) -> dict[str, bytes]:
        """Return the secret shared with each other Collaborator, bound to the ids of the split.

        A Host may claim other ids in common with each of them. The sums of rows of different
        people, matched otherwise in each run, would tell one party's features apart.
        """
        met = self._run.mask_secrets
        if self._split_by is not met:  # the parties connected again
            state = self._run.state
            self._split_by, parts = met, (state.train_ids, state.test_ids)
            self._bound = {
                name: functools.reduce(_bound_to, parts, secret) for name, secret in met.items()
            }
        return self._bound

    def gradients(
        self, number: int, tensors: Mapping[str, Tensor], came: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the gradients for the feature model: the Host's plus those of `Decorrelation`.

        Raises:
            FeatureError: the inputs of this batch are unknown.
        """
        if self._sums and came:  # the gradient of a sum is that of each part
            came = parted(came[""], tensors)
        if not isinstance(self._defence, Decorrelation) or not came:
            return came
        if number not in self._inputs:
            raise FeatureError(
                "Decorrelation needs the inputs: call feature_model once per batch, with a float"
                " tensor [rows, ...]"
            )
        learnt = {name: tensors[name].detach() for name in came}
        slope = self._defence.gradient(self._inputs[number], joined(learnt))
        both = {
            name: came[name] + each.to(came[name]) for name, each in parted(slope, learnt).items()
        }
        check_finite(both, "a gradient with that of embedding_defence", self._name)
        return both

    def forget(self, number: int) -> None:
        """Forget the inputs of a batch, because its step is done."""
        self._inputs.pop(number, None)


def _bound_to(secret: bytes, ids: Sequence[str]) -> bytes:
    return keyed_digest(secret, "rows of a masked sum", ids)
