"""Holds what both ends of a session know: what was agreed, and how far each phase has come."""

from __future__ import annotations

from heterofed.protocol.counts import (
    BatchCounts,
    PsiCounts,
    ServedCounts,
    SiteCounts,
    WeightSizes,
)
from heterofed.protocol.limits import (
    AHEAD_BYTES,
    PSI_WINDOW,
    SERVE_WINDOW,
    Limits,
    limits_by_state,
    most_waiting,
)
from heterofed.protocol.messages import Mark
from heterofed.protocol.plan import Coding, Plan, RoleSites
from heterofed.protocol.states import COMPLETED, ENDED, State

TRAINING = ("train", "rehearse")
"""The purposes for which batches are trained on."""

_LIMITS_WITHOUT_PLAN = limits_by_state(None)


class Conversation:
    """Holds what was said between a Host and a Collaborator, as far as a rule asks for it.

    Attributes:
        state: the state of the session.
        plan: what the Host decided; None before its `Welcome`.
        purpose, party, trainable, held: what the Hello said: for what the Collaborator connects,
            its name, whether it receives gradients, and its checkpoints.
        site_role: the role of which the Collaborator is a site, in a task that trains.
        round, round_ended, tested: the current round, whether it has ended, and whether it was
            tested.
        is_final_due, is_final: whether the final evaluation is next, and whether it has begun.
        trained, kept: the next batch of the round, and that of its last checkpoint.
        staleness: the staleness of a trainable Collaborator's weights in steps, as announced last.
        psi, keys, matched, parted: the values of the current intersection, how many keys were
            matched, and how many ids were matched and put into parts.
        weights: the sizes of the model of a horizontal task.
        pings, reply: how many pings were sent, and the bytes that the last one asked for.
        batches, sites: the counts of the current round or test.
        served: the requests of a standing link.
        forms: the form of features by state, which stays from batch to batch.
        like_before, answered_before: of the features and gradients that were accepted last, since
            most batches are like the one before.
    """

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.plan: Plan | None = None
        self.purpose = "train"
        self.party = ""
        self.trainable = True
        self.held: tuple[Mark, ...] = ()
        self.site_role: RoleSites | None = None
        self.round = 0
        self.round_ended = self.tested = False
        self.is_final_due = self.is_final = False
        self.trained = self.kept = 0
        self.staleness = 0
        self.psi = PsiCounts()
        self.keys = self.matched = self.parted = 0
        self.weights = WeightSizes()
        self.pings = self.reply = 0
        self.batches = BatchCounts()
        self.served = ServedCounts()
        self.sites = SiteCounts()
        self.forms: dict[State, tuple[object, ...]] = {}
        self.like_before: tuple[object, ...] = ()
        self.answered_before: tuple[object, ...] = ()
        self._most_waiting, self._limits = most_waiting(None), _LIMITS_WITHOUT_PLAN

    @property
    def ended(self) -> bool:
        """Whether the session has ended."""
        return self.state in ENDED

    @property
    def limits(self) -> Limits:
        """The current limits of the peer's messages."""
        return self._limits[self.state]

    @property
    def most_waiting(self) -> int:
        """The most bytes of the peer's messages that may wait here."""
        return self._most_waiting

    @property
    def max_ids(self) -> int:
        """The most ids that a party may have."""
        return self.plan.max_peer_ids if self.plan else 0

    @property
    def max_batch_bytes(self) -> int:
        """The most bytes of one batch of features or gradients."""
        return self.plan.max_batch_bytes if self.plan else 0

    @property
    def max_rounds(self) -> int:
        """The most rounds; 0 if the plan does not say it."""
        return self.plan.max_rounds if self.plan else 0

    @property
    def feature_coding(self) -> Coding:
        """The compression of features."""
        return self.plan.compress_features if self.plan else "none"

    @property
    def gradient_coding(self) -> Coding:
        """The compression of gradients."""
        return self.plan.compress_gradients if self.plan else "none"

    @property
    def psi_window(self) -> int:
        """The number of chunks of blinded values that may be sent now."""
        return PSI_WINDOW - len(self.psi.unsigned)

    @property
    def batch_window(self) -> int:
        """The number of batches of features that may be sent now."""
        return self.credit - self.batches.open

    @property
    def serve_window(self) -> int:
        """The number of requests of a standing link that may be sent now."""
        return SERVE_WINDOW - len(self.served.open)

    @property
    def unanswered(self) -> int:
        """The number of requests of a standing link that wait for their answers."""
        return len(self.served.open)

    @property
    def proposes(self) -> bool:
        """Whether a further version was asked for on a standing link, and not answered yet."""
        return self.served.proposed

    @property
    def credit(self) -> int:
        """The number of batches that may wait for `BatchDone`.

        If each step waits for an answer, it is one more than the agreed staleness. Otherwise it is
        the plan's credit, as long as the batches under way are not too large together.
        """
        if self.plan is None:
            return 1
        if self.trainable and self.state in (State.TRAIN, State.TRAIN_DRAINING):
            return self.staleness + 1
        if self.batches.open_bytes >= AHEAD_BYTES:
            return self.batches.open
        return self.plan.credit

    @property
    def trains(self) -> bool:
        """Whether it is a task in which batches are trained on."""
        return self.purpose in TRAINING

    @property
    def averages(self) -> bool:
        """Whether it is a horizontal task."""
        return self.purpose == "average"

    @property
    def counts_ids(self) -> bool:
        """Whether the common ids are only counted."""
        return self.purpose == "overlap"

    @property
    def is_between_rounds(self) -> bool:
        """Whether no round has begun and not ended."""
        return self.round == 0 or self.round_ended

    @property
    def sums(self) -> bool:
        """Whether the features of all parties are summed under masks."""
        return self.plan is not None and self.plan.fusion == "masked_sum"

    @property
    def compares(self) -> bool:
        """Whether the Collaborators compare their gradients."""
        return self.sums and self.trainable and self.state is State.TRAIN

    @property
    def announces_split(self) -> bool:
        """Whether the Host says the part of each id."""
        return self.plan is not None and self.plan.announced_split

    @property
    def leads(self) -> bool:
        """Whether the Collaborator is the first site of its role."""
        return self.site_role is not None and self.site_role.parties[0] == self.party

    @property
    def knows_rows(self) -> bool:
        """Whether it is settled which rows of the next batches the Collaborator has."""
        return self.site_role is None or self.sites.has_rows

    def next_sum(self, batch: int) -> int:
        """Return the first batch from `batch` on after which the sites of the role sum."""
        return self.plan.next_sum(batch, self.sites.batches) if self.plan else batch

    @property
    def are_summed(self) -> bool:
        """Whether no sum over the sites of the role is due before the next batch."""
        sums = self.site_role is not None and self.trainable and self.state is State.TRAIN
        return not sums or self.next_sum(self.batches.summed) >= self.batches.sent

    @property
    def tag_values(self) -> int:
        """The number of values that all `PsiTags` of this intersection have together."""
        count = self.psi.to_tag
        return self.plan.psi_tags(count) if self.plan else count

    def know_plan(self, plan: Plan | None) -> None:
        """Note the plan, and what follows from it and from the Hello for every message."""
        self.plan = plan
        probes = self.purpose == "probe"
        self._most_waiting = most_waiting(plan, counts=self.counts_ids, probes=probes)
        self._limits = _LIMITS_WITHOUT_PLAN if plan is None else limits_by_state(plan)
        self.site_role = plan.sites_with(self.party) if plan is not None and self.trains else None

    def complete(self) -> None:
        """Go on to the next state, if everything that was announced for this one has come."""
        if self.state is State.TRAIN_DRAINING:
            self.trained = self.batches.done
        if self.state is State.PSI_MATCHED and self.plan and self.keys < self.plan.id_keys:
            self.state, self.psi = State.PSI, PsiCounts(self.psi.width)
        else:
            self.state = COMPLETED.get(self.state, self.state)
