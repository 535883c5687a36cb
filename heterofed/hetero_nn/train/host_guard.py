"""Defends and measures the gradients that the Host sends, and the labels that it trains on."""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping
from typing import Any

from torch import Tensor

from heterofed.compute.batch import Batch
from heterofed.compute.tensors import check_finite
from heterofed.errors import ConfigError
from heterofed.files import heterofed_home
from heterofed.hetero_nn.settings import HostSettings
from heterofed.hetero_nn.train.defence_copies import Defence, DefenceCopies
from heterofed.hetero_nn.train.guard import REPORT, Guard, Stream, budget_of, names_of, some_rows
from heterofed.hetero_nn.train.releases import GradientReleases
from heterofed.privacy.coins import with_kept_coins
from heterofed.privacy.gradient_defences import defended
from heterofed.privacy.label_attacks import class_numbers, numeric_targets
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.leak_meters import LabelMeter
from heterofed.privacy.leakage import LabelLeaks, rows_to_measure
from heterofed.privacy.noise import drawn_from
from heterofed.privacy.repeats import Place, Repeats
from heterofed.privacy.rows import joined, parted
from heterofed.privacy.target_leaks import TargetLeaks
from heterofed.reporting.diagnostics import shielded
from heterofed.runs.run import Run


class HostGuard(Guard):
    """The guard of the Host, for its gradients and its labels.

    Args:
        run: the run.
        settings: the settings of the Host, with its defences and its limits on releases.
        users: the names of metrics sets that the user registered.
        stream: runs functions that draw noise.
    """

    measure = "label_auc"

    def __init__(
        self, run: Run, settings: HostSettings, users: Container[str], stream: Stream
    ) -> None:
        labels = settings.label_dp
        if labels is not None:
            labels = _with_coins(run, labels)
        weights, each = settings.weights_defence, 1 + (settings.early_gradients is True)
        limits = settings.release_limits
        self._gradient_releases = GradientReleases(run, limits, weights, labels, each)
        budget = budget_of(run, settings.leak_report)
        self._leaks = shielded(lambda: LabelLeaks(budget, run.harmless), REPORT, run.harmless)
        self._targets = shielded(lambda: TargetLeaks(budget, run.harmless), REPORT, run.harmless)
        reports = (self._leaks, self._targets)
        super().__init__(run, budget, reports, users, weights, self._gradient_releases)
        run.defences = names_of(gradients=settings.gradient_defence, labels=labels, weights=weights)
        self._stream = stream
        self._gradients = settings.gradient_defence
        # One per peer, because some remember the last batch; another one each time it is raised.
        limit = None if self._watch is None else self._watch.limit
        self._copies = DefenceCopies(settings.gradient_defence, limit)
        self._meters: dict[str, LabelMeter] = {}
        self._labels = labels
        self._go_on(run.state.kept.defences)

    def steps(self, batch: Batch, rows: int, *, listening: bool) -> None:
        """Count what is sent about a batch, before the batch is trained on.

        Args:
            batch: the batch of the Host.
            rows: the number of rows of the batch.
            listening: whether any party gets gradients.

        Raises:
            ReleaseLimitError: the batch would exceed a limit of the user.
        """
        self._gradient_releases.steps(batch.ids, rows, listening=listening)

    def labels(self, batch: Batch) -> Any:
        """Return the labels to train on.

        Raises:
            ConfigError: randomised response is set, but the batch has no ids or its labels are no
                tensor.
        """
        if self._labels is None:
            return batch.labels
        if batch.ids is None or not isinstance(batch.labels, Tensor):
            raise ConfigError(
                "label_dp turns each id's label once and for all, so it needs ids; let"
                " iterate_train_feature yield Batch(features, labels, ids) with labels in a tensor"
            )
        return self._labels(batch.labels, batch.ids)

    @property
    def alters(self) -> bool:
        """Whether the gradients that are sent differ from those of the backward pass."""
        return self._gradients is not None

    def outgoing(
        self,
        peer: str,
        clean: dict[str, Tensor],
        labels: object,
        embeddings: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return the defended gradients to send to a Collaborator.

        Args:
            peer: the recipient.
            clean: the gradients of its features.
            labels: the labels of the same rows.
            embeddings: the features of the same rows.

        Raises:
            ConfigError: there is a defence or a limit, but the labels are not class numbers.
            LeakLimitError: the gradients reveal more of the labels than the terms allow.
        """
        if not clean or (self._gradients is None and self._watch is None):
            return clean
        rows = joined(clean)
        numbers = class_numbers(labels, len(rows))
        if numbers is None:
            raise ConfigError(
                "gradient_defence and max_label_auc need classes; yield labels that are class"
                " numbers from 0 on, in a tensor [rows] or [rows, 1], or one-hot"
            )
        numbers = numbers.to(rows.device)
        features = joined({name: embeddings[name].detach() for name in clean})
        hide = functools.partial(self._hidden, peer, rows, numbers, features)
        hidden = hide()
        if self._watch is not None:
            meter = self._meters.setdefault(peer, LabelMeter())
            while not self._watch.admits(
                peer,
                self._run.party.batch,
                functools.partial(meter.measured, hidden, rows, numbers),
            ):
                hidden = hide()
        if hidden is rows:
            return clean
        sent = parted(hidden, clean)
        check_finite(sent, "what gradient_defence gave", self._run.party.name)
        return sent

    def _hidden(self, peer: str, rows: Tensor, numbers: Tensor, features: Tensor) -> Tensor:
        """Return the rows as the current defence against a recipient lets them be sent."""
        raised = self._raised(peer)
        defence = self._copies.of(peer, raised, is_binary=int(numbers.max()) <= 1)
        if defence is None:
            return rows
        party = self._run.party
        repeats = self._run.repeats = self._run.repeats or Repeats()
        phase = f"{party.phase}, raised {raised}" if raised else party.phase
        place = Place(phase, peer, self._run.round, party.batch)
        defend = functools.partial(self._defended, defence, peer)
        return repeats.answer(place, rows, lambda: defend(rows.clone(), numbers, features))

    def _defended(
        self, defence: Defence, peer: str, rows: Tensor, numbers: Tensor, features: Tensor
    ) -> Tensor:
        noise = self._noise(peer)
        with drawn_from(noise):
            # A user's defence may draw from torch's generator, whose seed also depends on the
            # hidden values.
            also = noise.name_for(rows, numbers)
            hide = functools.partial(defended, defence)
            sent: Tensor = self._stream(
                "gradient_defence", hide, rows, numbers, features, also=also
            )
            return sent

    def note_counts(self) -> None:
        """See `Guard`. Keep what the defences have learnt, and the rows that wait."""
        super().note_counts()
        waiting = {peer: list(meter.waiting) for peer, meter in self._meters.items()}
        kept = {"copies": self._copies.state(), "waiting": waiting}
        self._run.state.kept.defences = kept

    def _go_on(self, kept: Mapping[str, Any]) -> None:
        self._copies.put_back(kept.get("copies", {}))
        for peer, rows in kept.get("waiting", {}).items():
            self._meters[peer] = LabelMeter()
            self._meters[peer].waiting = rows

    def measured_part(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a copy of the embeddings that `note` needs, because user code may change them."""
        if not self._has_time():
            return {}
        rows = rows_to_measure(embeddings.values())
        return {name: of.detach()[:rows].clone() for name, of in embeddings.items() if rows}

    def note(
        self,
        peer: str,
        clean: dict[str, Tensor],
        sent: dict[str, Tensor],
        labels: object,
        embeddings: Mapping[str, Tensor],
    ) -> None:
        """Measure a batch that was sent. This never raises an error."""
        if not clean or not embeddings or not self._has_time():
            return
        with self._run.harmless(REPORT):
            targets = numeric_targets(labels)
            known = class_numbers(labels) if targets is None else targets
            if known is None or len(known) != len(next(iter(clean.values()))):
                return
            used = {name: embeddings[name] for name in clean}
            most = len(next(iter(used.values())))  # the rows that were kept
            rows = [some_rows(each, most) for each in (sent, clean, used)]
            if targets is None:
                self._leaks.note(peer, rows[0], rows[1], known[:most], rows[2])
            else:
                self._targets.note(peer, rows[0], known[:most], rows[2])

    def _has_time(self) -> bool:
        """Return whether to look at the next batch."""
        report = self._targets if self._targets.is_used else self._leaks
        return report.has_time()


def _with_coins(run: Run, labels: RandomisedResponse) -> RandomisedResponse:
    # A dry run; with other random choices than a run's, it would be a second response.
    if run.record is None:
        return labels.by_lot()
    ledger, party = run.ledger or heterofed_home(), run.party.name
    return with_kept_coins(labels, ledger, run.task_id, party, run.record.key)
