"""Where privacy meets the loops: what goes out passes here, is changed by a defence and measured.

The loops call `outgoing` before they send and `note` after; what was measured is written when a
round ends. Without defences everything passes unchanged.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Callable, Container, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from heterofed.compute.alignment import keyed_digest
from heterofed.compute.batch import Batch
from heterofed.compute.tensors import Layout, check_finite
from heterofed.errors import ConfigError, FeatureError
from heterofed.files import heterofed_home
from heterofed.hetero_nn.train.releases import EmbeddingReleases, GradientReleases, Releases
from heterofed.metrics import NEVER_CUT, Metrics
from heterofed.privacy.coins import with_kept_coins
from heterofed.privacy.dpsgd import DPSGD, check_rows_apart
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.findings import Leak, worst_of
from heterofed.privacy.gradient_defences import GradientDefence
from heterofed.privacy.label_attacks import class_numbers
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.leakage import (
    MEASURED_ROWS,
    Budget,
    InputLeaks,
    LabelLeaks,
    rows_to_measure,
)
from heterofed.privacy.ledger import Totals
from heterofed.privacy.masking import Masks
from heterofed.privacy.noise import Noise, drawn_from
from heterofed.privacy.repeats import Place, Repeats
from heterofed.privacy.rows import joined, parted
from heterofed.privacy.witness import Witness
from heterofed.reporting.diagnostics import Harmless, shielded
from heterofed.runs.run import Run, agreement_of, party_of, plan_of
from heterofed.runs.settings import ReleaseLimits

logger = logging.getLogger("heterofed")

LEAKAGE = ("party", "attack", "measure", "value", "samples")
EPSILONS = ("eps_weights", "eps_embeddings", "eps_labels")
OURS = frozenset({"train", "leakage", "privacy"})
"""Metrics sets that the loops write themselves."""
SPLIT = ("train", "test")
"""What the common ids are split into."""

REPORT = "the leak report"
"""How the log names it where it fails."""

Stream = Callable[..., Any]
"""Runs a function under a random stream of this party: `stream(name, function, *arguments)`."""


class _Opens(Protocol):
    def __call__(self, run: Run, name: str, keys: tuple[str, ...]) -> Metrics: ...


class Guard:
    """What both roles share: the report and the epsilons of a run.

    Args:
        run: that it belongs to.
        budget: of time for the report.
        report: the attacks of this role.
        opens: makes a metrics set.
        users: names of metrics sets that the user registered; they stay the user's.
        weights: DP-SGD of this party, where there is one.
        releases: counts what leaves, before it does.
    """

    def __init__(
        self,
        run: Run,
        budget: Budget,
        report: LabelLeaks | InputLeaks,
        opens: _Opens,
        users: Container[str],
        weights: DPSGD | None,
        releases: Releases,
    ) -> None:
        self.budget = budget
        self._releases = releases
        resumed = agreement_of(run).resume is not None  # perhaps after a kill, which told nothing
        self._told: Totals | None = None if resumed else releases.totals
        run.tell = self.tell
        self._run = run
        self._report = report
        self._opens = opens
        self._weights = weights
        self._users = users
        if weights is not None:
            if "train_ids" in run.state:  # it goes on; else the split tells
                weights.take_rows(len(run.state["train_ids"]))
            weights.steps = self._counts.get("steps", 0)  # of this run, as its checkpoint has it

    @property
    def _counts(self) -> dict[str, int]:
        """Steps that the weights at hand have made; kept in checkpoints."""
        counts: dict[str, int] = self._run.state.setdefault("privacy", {})
        return counts

    def _noise(self, peer: str) -> Noise:
        """What hides the batch that is at hand from a peer."""
        party = party_of(self._run)
        return Noise(self._run.noise, party.phase, peer, self._run.round, party.batch)

    def end_round(self) -> None:
        """Write what was measured in this round, and the epsilons of all that has left so far."""
        with self._run.harmless(REPORT):
            self._write(self._report.end_round() or [])
        self.note_counts()
        self._told = None
        self.tell()

    def tell(self) -> None:
        """Write the epsilons of all that has left, where something has since they were written."""
        if self._told == self._releases.totals:
            return
        self._told = self._releases.totals
        told = self._releases.epsilons()
        if told and NEVER_CUT not in self._users:
            row = dict.fromkeys(EPSILONS, math.nan) | told
            self._opened(NEVER_CUT, EPSILONS).append_metrics_item(row)

    def note_counts(self) -> None:
        """A checkpoint is about to be written: what was stepped so far is charged before."""
        self._releases.settle()
        if self._weights is not None:
            self._counts["steps"] = self._weights.steps

    def close(self) -> None:
        """The run has ended, or goes back to a checkpoint with another guard."""
        with self._run.harmless(REPORT):
            self._run.result.leak_seconds += self.budget.spent

    def end(self) -> None:
        """Run the attacks that take longer, and say the worst in plain words."""
        self.tell()
        with self._run.harmless(REPORT):
            self._write(self._report.at_end() or [])
        with self._run.harmless(REPORT):
            leaks = worst_of(self._run.state.get("leaks", []))
            self._run.result.leaks = [each.words() for each in leaks]
        self.close()

    def _write(self, leaks: list[Leak]) -> None:
        self._run.state.setdefault("leaks", []).extend(leaks)
        for leak in leaks if "leakage" not in self._users else ():
            row = {key: getattr(leak, key) for key in LEAKAGE}
            with self._run.harmless("leakage.csv"):
                self._opened("leakage", LEAKAGE).append_metrics_item(row)

    def _opened(self, name: str, keys: tuple[str, ...]) -> Metrics:
        if name not in self._run.metrics:
            opened = self._opens(self._run, name, keys)
            if name != NEVER_CUT:
                opened.cut(0)  # what lies there no checkpoint knows of
        return self._run.metrics[name]


class HostGuard(Guard):
    """Gradients on their way out, labels on their way into training.

    Args:
        run: that it belongs to.
        budget: of time for the report.
        opens: makes a metrics set.
        users: names of metrics sets that the user registered.
        stream: runs what draws noise.
        weights: DP-SGD of the Host.
        gradients: defence of what is sent to each Collaborator.
        labels: randomised response.
        limits: of what may leave.
        each: gradients of a row that leave for one batch.
    """

    def __init__(
        self,
        run: Run,
        budget: Budget,
        opens: _Opens,
        users: Container[str],
        stream: Stream,
        *,
        weights: DPSGD | None,
        gradients: GradientDefence | None,
        labels: RandomisedResponse | None,
        limits: ReleaseLimits,
        each: int = 1,
    ) -> None:
        if labels is not None:
            labels = _with_coins(run, labels)
        self._gradient_releases = GradientReleases(run, limits, weights, labels, each)
        self._leaks = shielded(lambda: LabelLeaks(budget, run.harmless), REPORT, run.harmless)
        super().__init__(run, budget, self._leaks, opens, users, weights, self._gradient_releases)
        run.defences = _names_of(gradients=gradients, labels=labels, weights=weights)
        self._stream = stream
        self._gradients = gradients
        self._defences: dict[str, GradientDefence] = {}  # one each: some remember the last batch
        self._labels = labels

    def steps(self, batch: Batch, rows: int, *, listening: bool) -> None:
        """A batch is about to be trained on; what leaves of it is counted before.

        Args:
            batch: of the Host.
            rows: that it has.
            listening: whether anybody gets gradients.

        Raises:
            ReleaseLimitError: more would have left than the user allows.
        """
        self._gradient_releases.steps(batch.ids, rows, listening=listening)

    def labels(self, batch: Batch) -> Any:
        """The labels to train on.

        Raises:
            ConfigError: randomised response was asked for, and the batch has no ids, or no tensor.
        """
        if self._labels is None:
            return batch.labels
        if batch.ids is None or not isinstance(batch.labels, Tensor):
            raise ConfigError(
                "label_dp turns each id's label once and for all: iterate_train_feature must yield"
                " Batch(features, labels, ids) with labels in a tensor"
            )
        return self._labels(batch.labels, batch.ids)

    def outgoing(self, peer: str, clean: dict[str, Tensor], labels: object) -> dict[str, Tensor]:
        """What is sent to a Collaborator instead of these gradients.

        Raises:
            ConfigError: a defence was asked for, and the labels are no class numbers.
        """
        if self._gradients is None or not clean:
            return clean
        rows = joined(clean)
        numbers = class_numbers(labels, len(rows))
        if numbers is None:
            raise ConfigError(
                "gradient_defence needs labels that are class numbers from 0 on, in a tensor"
                " [rows] or [rows, 1], or one-hot"
            )
        party, repeats = party_of(self._run), self._run.lasting.setdefault("repeats", Repeats())
        place = Place(party.phase, peer, self._run.round, party.batch)
        defend = functools.partial(self._defended, self._gradients, peer)
        hidden = repeats.answer(place, rows, lambda: defend(rows.clone(), numbers.to(rows.device)))
        sent = parted(hidden, clean)
        check_finite(sent, "what gradient_defence gave", party.name)
        return sent

    def _defended(
        self, gradients: GradientDefence, peer: str, rows: Tensor, numbers: Tensor
    ) -> Tensor:
        defence = self._defences.setdefault(peer, copy.deepcopy(gradients))
        noise = self._noise(peer)
        with drawn_from(noise):
            # A user's own may draw from torch's generator: that one hangs on what is hidden, too.
            also = noise.name_for(rows, numbers)
            sent: Tensor = self._stream("gradient_defence", defence, rows, numbers, also=also)
            return sent

    def measured_part(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A copy of what `note` needs of received embeddings, since user code may change those."""
        with self._run.harmless(REPORT):
            rows = rows_to_measure(embeddings.values())
            if rows and self._leaks.has_time():
                return {name: of.detach()[:rows].clone() for name, of in embeddings.items()}
        return {}

    def note(
        self,
        peer: str,
        clean: dict[str, Tensor],
        sent: dict[str, Tensor],
        labels: object,
        embeddings: Mapping[str, Tensor],
    ) -> None:
        """Measure a batch that was sent; never raises."""
        if not clean or not embeddings or not self._leaks.has_time():
            return
        with self._run.harmless(REPORT):
            numbers = class_numbers(labels)
            if numbers is None or len(numbers) != len(next(iter(clean.values()))):
                return
            used = {name: embeddings[name] for name in clean}
            most = len(next(iter(used.values())))  # those that were kept
            rows = [_some(each, most) for each in (sent, clean, used)]
            self._leaks.note(peer, rows[0], rows[1], numbers[:most], rows[2])


def _names_of(**defences: object) -> dict[str, str]:
    """The classes of those that there are."""
    return {what: type(each).__name__ for what, each in defences.items() if each is not None}


def _with_coins(run: Run, labels: RandomisedResponse) -> RandomisedResponse:
    if run.record is None:  # a rehearsal; other coins than a run's would be a second answer
        return labels.by_lot()
    ledger, party = run.ledger or heterofed_home(), party_of(run).name
    return with_kept_coins(labels, ledger, run.task_id, party, run.record.key)


class CollaboratorGuard(Guard):
    """Embeddings on their way out, and the inputs that they were made of.

    Args:
        run: that it belongs to.
        budget: of time for the report.
        opens: makes a metrics set.
        users: names of metrics sets that the user registered.
        stream: runs what draws noise.
        weights: DP-SGD of this party.
        embeddings: defence of what is sent to the Host.
        model: the feature model; what it is called with is what the embeddings are made of.
        limits: of what may leave.
    """

    def __init__(
        self,
        run: Run,
        budget: Budget,
        opens: _Opens,
        users: Container[str],
        stream: Stream,
        *,
        weights: DPSGD | None,
        embeddings: ClippedGaussian | Decorrelation | None,
        model: nn.Module | None,
        limits: ReleaseLimits,
    ) -> None:
        noise = embeddings if isinstance(embeddings, ClippedGaussian) else None
        releases = EmbeddingReleases(run, limits, weights, noise)
        self._leaks = shielded(lambda: InputLeaks(budget, run.harmless), REPORT, run.harmless)
        super().__init__(run, budget, self._leaks, opens, users, weights, releases)
        run.defences = _names_of(embeddings=embeddings, weights=weights)
        self._stream = stream
        self._defence = embeddings
        self._calls = _Calls(run.harmless)
        self._inputs: dict[int, Tensor] = {}
        self._unmeasured: tuple[Tensor, dict[str, Tensor]] | None = None
        self._name = party_of(run).name
        self._masks: Masks | None = None
        self._split_by: dict[str, bytes] | None = None
        self._bound: dict[str, bytes] = {}
        self._watch: RemovableHandle | None = None
        watching = budget.effort != "off" or isinstance(embeddings, Decorrelation)
        if model is not None and watching:
            with run.harmless(REPORT):
                self._watch = model.register_forward_pre_hook(self._calls)

    def close(self) -> None:
        """See `Guard.close`."""
        super().close()
        if self._watch is not None:
            self._watch.remove()

    def outgoing(
        self, tensors: dict[str, Tensor], number: int, *, testing: bool
    ) -> dict[str, Tensor]:
        """What is sent to the Host instead of these features; gradients go through it.

        Raises:
            FeatureError: features that the defence cannot hide.
        """
        sent = tensors
        floats = {name: each for name, each in tensors.items() if each.is_floating_point()}
        if isinstance(self._defence, ClippedGaussian):
            if len(floats) < len(tensors):
                raise FeatureError(
                    "ClippedGaussian hides floats alone: yield no integers or bools as features;"
                    " let feature_model take them in (an embedding layer), or convert them"
                )
            with drawn_from(self._noise("the Host")):
                rows = self._stream("embedding_defence", self._defence, joined(floats))
            hidden = parted(rows, floats)
            check_finite(hidden, "what embedding_defence gave", self._name)
            sent = tensors | hidden
        inputs = self._calls.taken(len(next(iter(tensors.values()))))
        if inputs is not None and floats and not testing:
            self._unmeasured = inputs, {name: sent[name] for name in floats}
            if isinstance(self._defence, Decorrelation):
                self._inputs[number] = inputs.clone()  # the hook may use the memory again
        return sent

    def leaves(self, batch: Batch, rows: int) -> None:
        """A batch of features is about to leave: it is counted before.

        Raises:
            ReleaseLimitError: more would have left than the user allows.
        """
        self._releases.leaves(batch.ids, rows)

    def note(self) -> None:
        """Measure what `outgoing` gave last, now that it has been sent; never raises."""
        if self._unmeasured is not None:
            (inputs, sent), self._unmeasured = self._unmeasured, None
            if self._leaks.has_time():
                with self._run.harmless(REPORT):
                    self._leaks.note(inputs[:MEASURED_ROWS], _some(sent))

    def masked(
        self, layout: Layout, tensors: dict[str, Tensor], number: int, *, testing: bool
    ) -> tuple[Layout, dict[str, Tensor]]:
        """What travels: the features, or where the Host gets only sums one masked tensor.

        Raises:
            FeatureError: features that cannot be summed.
        """
        if not self._run.mask_secrets:
            return layout, tensors
        if not all(each.is_floating_point() for each in tensors.values()):
            raise FeatureError("a masked sum is of floats: yield no integers or bools as features")
        shared = self._shared()
        if self._masks is None or self._masks.shared is not shared:
            self._masks = Masks(self._name, shared)
        phase = "test" if testing else "train"
        return "tensor", {"": self._masks.mask(joined(tensors), phase, self._run.round, number)}

    def witness(self) -> Witness | None:
        """What compares gradients with the other Collaborators'; None where each has its own."""
        if not self._run.mask_secrets:
            return None
        return Witness(self._name, plan_of(self._run).collaborators, self._shared())

    def _shared(self) -> dict[str, bytes]:
        """What this party shares with each other Collaborator that has split the same ids.

        A Host may claim other ids in common with each of them. The sums of rows of different
        people, matched otherwise in each run, would tell one party's features apart.
        """
        met = self._run.mask_secrets
        if self._split_by is not met:  # met anew
            self._split_by, parts = met, [self._run.state[f"{kind}_ids"] for kind in SPLIT]
            self._bound = {
                name: functools.reduce(_bound_to, parts, secret) for name, secret in met.items()
            }
        return self._bound

    def gradients(
        self, number: int, tensors: Mapping[str, Tensor], came: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What the feature model learns from: the Host's gradients, and decorrelation's.

        Raises:
            FeatureError: the inputs of this batch were not seen.
        """
        if self._run.mask_secrets and came:  # of the sum, and so of each part of it
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
        """The batch is stepped on."""
        self._inputs.pop(number, None)


class _Calls:
    """A hook of the feature model that sees what it is called with.

    It hangs on the user's model, so a copy or a pickle of that has to work: there it sees nothing.

    Args:
        harmless: tells where it fails; the model's call goes on.
    """

    def __init__(self, harmless: Harmless) -> None:
        self._harmless = harmless
        self._seen: list[Tensor] = []

    def __call__(self, _model: nn.Module, arguments: tuple[Any, ...]) -> None:
        with self._harmless(REPORT):
            first = arguments[0] if arguments else None
            if isinstance(first, Tensor) and first.is_floating_point() and first.dim() > 0:
                self._seen.append(first.detach())

    def __reduce__(self) -> tuple[Any, ...]:
        return _sees_nothing, ()

    def taken(self, rows: int) -> Tensor | None:
        """Inputs of the last batch, where the model was called once and row for row."""
        seen, self._seen = self._seen, []
        with self._harmless(REPORT):
            if len(seen) == 1 and len(seen[0]) == rows:
                return seen[0]
        return None


def _bound_to(secret: bytes, ids: list[str]) -> bytes:
    return keyed_digest(secret, "rows of a masked sum", ids)


def _sees_nothing() -> Callable[..., None]:
    return _see_nothing


def _see_nothing(*_: Any) -> None:
    """What a copy of the model has in place of the hook."""


def _some(tensors: Mapping[str, Tensor], rows: int = MEASURED_ROWS) -> Tensor:
    """The first rows of a batch, one vector each; without a copy where there is one tensor."""
    return joined({name: each.detach()[:rows] for name, each in tensors.items()})


def check_private(
    run: Run, weights: DPSGD | None, models: list[nn.Module | None], *, trains: bool = True
) -> None:
    """Refuse DP-SGD where it would not hold.

    Args:
        run: which has met its parties.
        weights: of this party; others may train by it where the plan has a loss reduction.
        models: of this party, or None.
        trains: whether this party has weights that change.

    Raises:
        ConfigError: the plan has another loss reduction or none, or a model mixes rows.
    """
    plan = plan_of(run)
    if plan.loss_reduction is not None:
        for model in models:
            if model is not None:
                check_rows_apart(model, "a task with a loss_reduction (for DP-SGD)")
    if weights is None:
        if plan.loss_reduction is not None and trains:
            _mention(
                run,
                "others may train by DP-SGD here (the plan has a loss_reduction), and this party"
                " trains without: their eps_weights does not hold for what it learns",
            )
        return
    if not weights.others:
        _mention(
            run,
            "eps_weights counts the noise of this party alone: name that of all others that train"
            " in DPSGD(others=...); without theirs it does not hold",
        )
    if plan.loss_reduction != weights.loss_reduction:
        raise ConfigError(
            f"weights_defence takes the Host's loss for a {weights.loss_reduction} over the rows of"
            f" a batch, the plan says {plan.loss_reduction or 'nothing'}: give the Host"
            " loss_reduction='mean' or 'sum', and every DPSGD the same"
        )
    if plan.max_staleness != 0:
        raise ConfigError("weights_defence needs max_staleness=0: forward, backward, step in turn")
    if weights.poisson and plan.checkpoint_batches:
        raise ConfigError(
            "DPSGD(poisson=True) draws from all train ids, checkpoint_batches gives a part of them"
            " at a time: take one of the two"
        )


def _mention(run: Run, what: str) -> None:
    """Warn, once in a run."""
    said: set[str] = run.state.setdefault("said", set())
    if what not in said:
        said.add(what)
        logger.warning("%s", what)
