"""One party's view of a session with a peer: the table of states, and checks that count.

The session knows no socket and no clock. Its caller passes in each message with the size of its
payload, and the session decides whether the message is allowed now. The same object checks both
directions, so a party cannot send a message that the other one would refuse.
"""

from __future__ import annotations

import math
from collections import deque

from heterofed.errors import HeteroFedError, LocalProtocolError, RemoteProtocolError
from heterofed.protocol.limits import (
    AHEAD_BYTES,
    MAX_ANSWERS,
    MAX_FRAME_BYTES,
    MAX_KEY_BYTES,
    POINT_BYTES,
    PSI_WINDOW,
    ROW_COUNT_BYTES,
    ROW_NUMBER_BYTES,
    SERVE_WINDOW,
    TAG_BYTES,
    Limits,
    limits_of,
    most_waiting,
)
from heterofed.protocol.messages import (
    GRADIENT_DTYPES,
    MAX_FINDINGS,
    MAX_PINGS,
    MAX_PROBE_BYTES,
    Average,
    BatchDone,
    BeginScores,
    BeginTest,
    BeginTrain,
    BeginUpdate,
    Checkpoint,
    CheckpointHeld,
    CountBegin,
    CountBlinded,
    CountOwn,
    CountRaised,
    CountReady,
    CountResult,
    DescribeModel,
    EndOfFeatures,
    Features,
    Findings,
    Finish,
    Gradients,
    GradientsSeen,
    Hello,
    InitialWeights,
    Mark,
    Message,
    ModelLayout,
    PredictPlan,
    ProbeBegin,
    ProbePing,
    ProbePong,
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiRenew,
    PsiSigned,
    PsiTagged,
    PsiTags,
    PsiUnblinded,
    RoundEnd,
    Scores,
    SeenByOthers,
    ServeAccepted,
    ServeAnswer,
    ServePlan,
    ServeRequest,
    SiteRows,
    SiteShare,
    SiteSum,
    SplitAccepted,
    SplitParts,
    SplitPlan,
    TensorSpec,
    Update,
    Welcome,
    WelcomeBack,
)
from heterofed.protocol.plan import Coding, Plan, RoleSites, wrong_with_sites
from heterofed.protocol.states import COMPLETED, ENDED, TABLE, Role, State

SHARE_ITEM_BYTES = 16
"""The bytes of one number in a sum over sites."""

MASKED_ITEM_BYTES = 8
"""The bytes of one masked number, an int64."""

MAX_SPAN = 1 << 40
"""The most items of a tensor, counting empty dimensions as 1."""

TRAINING = ("train", "rehearse")
"""The purposes for which batches are trained on."""

KEPT = ("train", "serve", "average")
"""The purposes for which parties that come back go on where they were."""

IN_ROUNDS = ("train", "average")
"""The purposes for which there are rounds, each with a checkpoint at its end."""

ID_TASKS = ("psi", "overlap")
"""The purposes for which the task ends after the ids."""

NO_BATCHES = "checkpoints within rounds, and no batch_size that says where batches end"
"""Why checkpoints within rounds need agreed batches: otherwise each part would be a whole round."""


class Refused(Exception):  # noqa: N818 - never leaves this module
    """The reason why a message is not allowed now."""


class Session:
    """The conversation of one connection, from Hello to Bye or Abort.

    Args:
        role: the role of the party that owns this object.

    Attributes:
        state: the state of the session; only `send`, `receive` and `lost` change it.
        trainable: whether the Collaborator receives gradients; it is set by its Hello.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.CONNECTING
        self._plan: Plan | None = None
        self.trainable = True
        self._purpose = "train"
        self._held: tuple[Mark, ...] = ()
        self._kept = 0
        self._round = 0
        self._round_ended = self._tested = False
        self._is_final_due = self._is_final = False
        self._trained = 0
        self._staleness = 0
        self._psi = _PsiCounts()
        self._keys = self._matched = 0
        self._parted = 0
        self._weights = _Weights()
        self._pings = self._reply = 0
        self._batches = _BatchCounts()
        self._served = _ServedCounts()
        self._sites = _SiteCounts()
        self._party = ""
        self._forms: dict[State, tuple[object, ...]] = {}
        # Of what was accepted last: most batches are like the one before.
        self._like_before: tuple[object, ...] = ()
        self._answered_before: tuple[object, ...] = ()
        # The message that was checked last, until anything is said.
        self._admitted: tuple[Message, int] | None = None

    @property
    def ended(self) -> bool:
        """Whether the session has ended."""
        return self.state in ENDED

    @property
    def limits(self) -> Limits:
        """The current limits of the peer's messages."""
        return limits_of(self.state, self._plan)

    @property
    def most_waiting(self) -> int:
        """The most bytes of the peer's messages that may wait here."""
        counts, probes = self._purpose == "overlap", self._purpose == "probe"
        return most_waiting(self._plan, counts=counts, probes=probes)

    @property
    def psi_window(self) -> int:
        """The number of chunks of blinded values that may be sent now."""
        return PSI_WINDOW - len(self._psi.unsigned)

    @property
    def batch_window(self) -> int:
        """The number of batches of features that may be sent now."""
        return self._credit - self._batches.open

    @property
    def serve_window(self) -> int:
        """The number of requests of a standing link that may be sent now."""
        return SERVE_WINDOW - len(self._served.open)

    @property
    def unanswered(self) -> int:
        """The number of requests of a standing link that wait for their answers."""
        return len(self._served.open)

    @property
    def proposes(self) -> bool:
        """Whether a further version was asked for on a standing link, and not answered yet."""
        return self._served.proposed

    @property
    def feature_coding(self) -> Coding:
        """The compression of features."""
        return self._plan.compress_features if self._plan else "none"

    @property
    def gradient_coding(self) -> Coding:
        """The compression of gradients."""
        return self._plan.compress_gradients if self._plan else "none"

    @property
    def staleness(self) -> int:
        """The staleness of a trainable Collaborator's weights in steps, as announced last."""
        return self._staleness

    @property
    def has_summed(self) -> bool:
        """Whether there was a sum over the sites of the role since the parties connected."""
        return self._sites.sums > 0

    def go_on_summing(self) -> None:
        """Take up a connection in the middle, in which there were such sums, for a replay."""
        self._sites.shares = self._sites.sums = 1

    def send(self, message: Message, size: int = 0) -> None:
        """Record that this party sends `message` with `size` bytes of payload.

        Raises:
            LocalProtocolError: the message is not allowed now; nothing changed.
        """
        self._check(self.role, message, size, LocalProtocolError)
        self._advance(message, size)

    def admit(self, message: Message, size: int = 0) -> None:
        """Check a message of the peer before its payload of `size` bytes arrives.

        Raises:
            RemoteProtocolError: the message is not allowed now or too large; nothing changed.
        """
        if not self.ended:
            self._check(self.role.other, message, size, RemoteProtocolError)
            self._admitted = message, size
        elif size > self.limits.payload:
            # Late messages are ignored, but they take memory until then.
            raise RemoteProtocolError("late mail with a larger payload than any message may have")

    def receive(self, message: Message, size: int = 0) -> bool:
        """Record that the peer sent `message` with `size` bytes of payload.

        Returns:
            Whether to act on it: False for a late message after the end.

        Raises:
            RemoteProtocolError: the message is not allowed now; nothing changed.
        """
        if self.ended:
            return False
        admitted = self._admitted
        if admitted is None or admitted[0] is not message or admitted[1] != size:
            self._check(self.role.other, message, size, RemoteProtocolError)
        self._advance(message, size)
        return True

    def lost(self) -> None:
        """Record that the peer is gone; a session that has not ended fails."""
        if not self.ended:
            self.state = State.FAILED

    @property
    def _credit(self) -> int:
        """The number of batches that may wait for `BatchDone`.

        If each step waits for an answer, it is one more than the agreed staleness. Otherwise it is
        the plan's credit, as long as the batches under way are not too large together.
        """
        if self._plan is None:
            return 1
        if self.trainable and self.state in (State.TRAIN, State.TRAIN_DRAINING):
            return self._staleness + 1
        if self._batches.open_bytes >= AHEAD_BYTES:
            return self._batches.open
        return self._plan.credit

    @property
    def _announces_split(self) -> bool:
        return self._plan is not None and self._plan.announced_split

    def _check(
        self, speaker: Role, message: Message, size: int, error: type[HeteroFedError]
    ) -> None:
        kind = type(message)
        if (speaker, kind) not in TABLE[self.state]:
            raise error(f"{kind.__name__} from the {speaker} is out of turn in state {self.state}")
        try:
            self._guard(message, size)
        except Refused as why:
            raise error(f"{kind.__name__} from the {speaker} is refused: {why}") from None

    def _guard(self, message: Message, size: int) -> None:
        psi, batches, weights = self._psi, self._batches, self._weights
        match message:  # the messages of a batch come first, since they are most of all
            case Features():
                _require(message.round == self._round, "not this round")
                _require(message.batch == batches.sent, "not the next batch")
                _require(self.batch_window > 0, "beyond its credit")
                _require(not self._is_final or batches.sent <= MAX_FINDINGS, "more than it may")
                _require(self._are_summed, "before the parts of the sites were summed")
                if self._like_before != self._likeness(message, size):
                    self._check_features(message, size)
            case Gradients():
                _require(message.round == self._round, "not this round")
                _require(self.trainable, "that party is frozen")
                _require(batches.open > 0, "no batch waits for it")
                _require(message.batch == batches.done, "not the batch that is next")
                _require(batches.answers < MAX_ANSWERS, "more than twice for this batch")
                if self._answered_before != (message.tensors, size):
                    self._check_tensors(message.tensors, size, self.gradient_coding)
                _require(
                    batches.may_answer(message.tensors, self._sums), "not tensors of that batch"
                )
            case BatchDone():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
                _require(batches.open > 0, "no batch waits for it")
                _require(message.batch == batches.done, "not the batch that is next")
                training = self.state in (State.TRAIN, State.TRAIN_DRAINING)
                _require(training or not message.stepped, "a step in a test")
                if message.staleness is not None:
                    _require(training and self._chooses, "no staleness to choose")
                    _require(message.staleness >= self._staleness, "less staleness than before")
            case Welcome():
                _no_payload(size)
                _require(self._purpose != "probe", "only a probe was asked for")
                self._check_plan(message.plan)
            case ProbeBegin():
                _no_payload(size)
                _require(self._purpose == "probe", "no probe was asked for")
                _require(message.work.common <= message.work.ids, "more common ids than ids")
            case ProbePing():
                _require(message.number == self._pings < MAX_PINGS, "not the ping that is next")
                _require(size <= MAX_PROBE_BYTES, "more bytes than a ping may have")
            case ProbePong():
                _require(message.number == self._pings - 1, "not the ping that was sent")
                _require(size == self._reply, "not as many bytes as were asked for")
            case WelcomeBack():
                _no_payload(size)
                self._check_plan(message.plan)
                _require(self._purpose in KEPT, "not a task that trains or serves")
                _require(message.mark in self._held, "a checkpoint that was not said to be held")
            case PsiKey():
                _require(self._purpose != "overlap", "only a count was asked for")
                _require(not self._averages, "no ids are intersected")
                _require(0 < size <= MAX_KEY_BYTES, "its key has a wrong size")
                _require(0 < message.count <= self._max_ids, "its number of ids is out of range")
                _require(not (message.kept and psi.renewed), "an old key where a new one is due")
            case PsiRenew():
                _no_payload(size)
                _require(psi.kept, "its key is a new one")
            case PsiBegin():
                _no_payload(size)
                _require(0 < message.count <= self._max_ids, "its number of ids is out of range")
                _require(message.done <= message.count, "more done than there are")
                if message.again:
                    _require(self._has_stores(), "there are no stores to send again")
                    _require(message.done == message.count, "again before everything was signed")
            case PsiBlinded():
                psi.check_values(message.values, size)
                _require(psi.blinded + message.values <= psi.to_sign, "more than announced")
                _require(self.psi_window > 0, "beyond its window")
            case PsiSigned():
                psi.check_values(message.values, size)
                _require(bool(psi.unsigned), "nothing waits for signatures")
                _require((message.values, size) == psi.unsigned[0], "not as many as were asked")
            case PsiUnblinded():
                _no_payload(size)
                _require(psi.signed == psi.to_sign, "before everything was signed")
            case PsiTagged():
                _no_payload(size)
                counting = psi.asked if self._purpose == "overlap" else 0  # those are raised, too
                most = psi.to_tag + counting
                _require(psi.tagged < message.done <= most, "no progress, or too much")
            case PsiTags():
                _check_tags(message.values, size)
                _require(psi.tags + message.values <= self._tag_values, "more than announced")
            case PsiMatched():
                _check_tags(message.values, size, may_be_empty=message.last)
                _require(psi.tags == self._tag_values, "before all tags")
                most = min(psi.asked, psi.to_tag)
                _require(psi.matched + message.values <= most, "more than there can be")
            case CountBegin() | CountReady():
                _no_payload(size)
                _require(self._purpose == "overlap", "no count was asked for")
                _require(0 < message.count <= self._max_ids, "its number of ids is out of range")
            case CountBlinded():
                _check_points(message.values, size)
                _require(psi.blinded + message.values <= psi.asked, "more than announced")
            case CountRaised():
                _check_points(message.values, size)
                _require(psi.blinded == psi.asked, "before all values were asked for")
                _require(psi.signed + message.values <= psi.asked, "more than were asked for")
            case CountOwn():
                _check_points(message.values, size)
                _require(psi.signed == psi.asked, "before all that were asked for")
                _require(psi.tags + message.values <= psi.to_tag, "more than announced")
            case CountResult():
                _no_payload(size)
                _require(psi.tags == psi.to_tag, "before all values")
                _require(message.common <= min(psi.asked, psi.to_tag), "more than there can be")
            case DescribeModel():
                _no_payload(size)
                _require(self._averages, "not a horizontal task")
            case ModelLayout():
                _require(size <= self.max_batch_bytes, "more bytes than the plan's models have")
                weights.check_layout(message, size)
            case InitialWeights():
                _require(size == weights.plain, "not the weights of that layout")
            case BeginUpdate():
                _no_payload(size)
                _require(self._averages, "not a horizontal task")
                _require(message.round == self._round + 1, "not the next round")
                _require(self._is_between_rounds, "the round before has not ended")
                most = self._plan.max_rounds if self._plan else 0
                _require(not most or message.round <= most, "more rounds than the plan says")
            case Update():
                _require(message.round == self._round, "not this round")
                _require(size <= self.max_batch_bytes, "more bytes than the plan's models have")
                expected = weights.masked if self._sums else weights.plain
                _require(size > 0 and expected in (0, size), "not the tensors of its layout")
                _check_scores(message.scores)
            case Average():
                _require(self._averages, "not a horizontal task")
                _require(size <= self.max_batch_bytes, "more bytes than the plan's models have")
                _require(size > 0 and weights.plain in (0, size), "not the weights of that layout")
                idle = self.state is State.READY
                _require(message.round == self._round + idle, "not this round")
                _require(not idle or self._is_between_rounds, "a second time for this round")
            case BeginScores():
                _no_payload(size)
                _require(self._averages, "not a horizontal task")
                _require(message.round == self._round, "not this round")
                _require(not self._tested, "a second time for this round")
                _require(not self._is_between_rounds, "the round has ended")
            case Scores():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
                _check_scores(message.scores)
            case BeginTrain():
                _no_payload(size)
                _require(self._purpose in TRAINING, "not a task that trains")
                going_on = 0 < message.first == self._trained == self._kept
                expected = self._round if going_on else self._round + 1
                _require(message.round == expected, "not the next round")
                _require(going_on or message.first == 0, "not the next batch")
                most = self._plan.max_rounds if self._plan else 0
                _require(not most or message.round <= most, "more rounds than the plan says")
                _require(self._knows_rows, "before the rows of its batches")
                agreed = self._plan.max_staleness if self._plan else 0
                _require(agreed in ("auto", message.staleness), "another staleness than agreed")
                _require(going_on or self._is_between_rounds, "the round before has not ended")
            case SplitParts():
                _require(self._purpose in TRAINING, "not a task that trains")
                _require(self._announces_split, "the plan has every party split by itself")
                _require(message.ids > 0, "no id")
                _require(size == -(-message.ids // 4), "not two bits for each id")
                _require(self._parted + message.ids <= self._matched, "more than were matched")
            case SplitPlan():
                _no_payload(size)
                _require(self._purpose in TRAINING, "not a task that trains")
                parted = not self._announces_split or self._parted == self._matched
                _require(parted, "before the parts of all ids")
            case PredictPlan():
                _no_payload(size)
                _require(self._purpose == "predict", "not a prediction")
                _require(message.count <= self._matched, "more rows than were matched")
            case ServePlan():
                _no_payload(size)
                _require(self._purpose == "serve", "not a standing link")
                known = self.state in (State.READY, State.SERVING)
                _require(known or message.count <= self._matched, "more rows than were matched")
                _require(not self._served.proposed, "before the last one was answered")
            case ServeAccepted():
                _no_payload(size)
                serving = self.state is State.SERVING
                _require(not serving or self._served.proposed, "no version was asked for")
                _require(serving or not message.refused, "a refusal before anything is served")
            case ServeRequest():
                _require(size == message.rows * ROW_NUMBER_BYTES, "not one number for each row")
                _require(message.number == self._served.asked, "not the next request")
                _require(self.serve_window > 0, "beyond its window")
            case ServeAnswer():
                _require(bool(self._served.open), "nothing was asked")
                _require(message.number == self._served.next, "not the request that is next")
                self._check_answer(message, size)
            case BeginTest():
                _no_payload(size)
                _require(not self._averages, "a horizontal task sends no features")
                _require(self._purpose != "serve", "a standing link has no tests")
                _require(message.round == self._round, "not this round")
                _require(self._knows_rows, "before the rows of its batches")
                _require(not self._tested, "a second time for this round")
                _require(not self._round_ended or self._is_final_due, "the round has ended")
            case Findings():
                _no_payload(size)
                _require(self._is_final, "nothing was looked at")
                _require(len(message.values) < max(batches.sent, 1), "more than it can have found")
            case RoundEnd():
                _no_payload(size)
                _require(self._purpose in IN_ROUNDS, "not a task that trains")
                _require(message.round == self._round, "not this round")
                _require(not self._round_ended, "a second time for this round")
            case Checkpoint():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
                every = self._plan.checkpoint_batches if self._plan else 0
                due = every > 0 and message.batch == self._trained and message.batch % every == 0
                _require(due and message.batch > self._kept, "no checkpoint is due")
                _require(not self._round_ended, "the round has ended")
            case CheckpointHeld():
                _no_payload(size)
                asked = (self._round, 0 if self._round_ended else self._kept)
                _require((message.round, message.batch) == asked, "not the checkpoint asked for")
            case Finish():
                _no_payload(size)
                _require(message.rounds == self._round, "not the rounds that were trained")
                early = self.state is State.SPLIT
                _require(early == (self._purpose in ID_TASKS), "too early for this task")
                trains = self._purpose in IN_ROUNDS
                _require(not trains or self._is_between_rounds, "the last round has not ended")
            case SiteRows():
                _require(self._role is not None, "not a site of a role")
                _require(size == message.batches * ROW_COUNT_BYTES, "not a number for each batch")
                _require(not self._sites.has_rows, "a second time")
                begins = self._is_between_rounds and not message.testing
                _require(message.round == self._round + begins, "not this round")
            case SiteShare():
                number = self._next_sum(batches.shared)
                self._check_summing(message.round, message.batch, number, batches.done)
                fits = 0 < size <= self.max_batch_bytes and size % SHARE_ITEM_BYTES == 0
                _require(fits and self._sites.size in (0, size), "not the numbers of one model")
                again = self.state is State.SPLIT_PROPOSED and self._sites.shares > 0
                _require(not again, "a second time")
                first = self._sites.shares == 0 and self._leads
                expected = len(self._role.parties) - 1 if self._role and first else 0
                _require(len(message.keys) == expected, "other keys than are due")
            case SiteSum():
                number = self._next_sum(batches.summed)
                self._check_summing(message.round, message.batch, number, batches.shared)
                _require(self._sites.sums < self._sites.shares, "before its part")
                _require(size == self._sites.size, "not as many numbers as in each part")
                due = self._sites.sums == 0 and not self._leads
                _require((message.key is not None) == due, "no key, or one that is not due")
            case SplitAccepted():
                _no_payload(size)
                begun = self._role is None or self._sites.sums > 0
                _require(begun, "before the first weights of the sites")
            case GradientsSeen() | SeenByOthers():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
                _require(self._compares, "no masked sum that trains")
                number, ready = batches.seen, batches.done
                if isinstance(message, SeenByOthers):
                    number, ready = batches.told, batches.seen
                _require(message.batch == number < ready, "not the batch that is next")
                _require(len(message.tags) == self._others, "not one tag for each other party")
            case EndOfFeatures():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
                compared = not self._compares or batches.told == batches.sent
                _require(compared, "before all gradients were compared")
                _require(self._are_summed, "before the parts of the sites were summed")
                _require(message.count == batches.sent, "not the number of batches that came")
            case _:
                _no_payload(size)

    def _advance(self, message: Message, size: int) -> None:
        self._admitted = None
        turns, kind = TABLE[self.state], type(message)
        speaker = Role.HOST if (Role.HOST, kind) in turns else Role.COLLABORATOR
        self.state = turns[speaker, kind]
        psi, batches = self._psi, self._batches
        complete = False
        match message:
            case Features():
                batches.note_features(message.tensors, size)
                if self._like_before != (like := self._likeness(message, size)):
                    self._like_before = like
                    if message.tensors:
                        self._forms[self.state] = _form(message)
            case Gradients():
                self._answered_before = message.tensors, size
                batches.answers += 1
                if message.done:
                    batches.note_done()
                    complete = batches.open == 0
            case BatchDone():
                batches.note_done()
                if message.staleness is not None:
                    self._staleness = message.staleness
                complete = batches.open == 0
            case Hello():
                self.trainable, self._party = message.trainable, message.party
                self._purpose = message.purpose
                self._held = message.held.marks if message.held else ()
            case Welcome():
                self._plan = message.plan
                psi.width = message.plan.psi_value_bytes
            case WelcomeBack():
                self._plan = message.plan
                self._round, self._round_ended = message.mark.round, True
                self._is_final_due = message.mark.round > 0 and message.plan.final_rows > 0
                if message.mark.batch:
                    self._round, self._round_ended = message.mark.round + 1, False
                    self._batches = _BatchCounts(message.mark.batch)
                self._kept = self._trained = message.mark.batch
            case ProbePing():
                self._pings, self._reply = self._pings + 1, message.reply
            case PsiKey():
                psi.to_tag, psi.kept = message.count, message.kept
            case PsiRenew():
                psi.renewed = True
            case PsiBegin():
                psi.asked, psi.to_sign = message.count, message.count - message.done
            case PsiBlinded():
                psi.note_blinded(message.values, size)
            case PsiSigned():
                psi.signed += psi.unsigned.popleft()[0]
            case PsiTagged():
                psi.tagged = message.done
            case PsiTags():
                psi.tags += message.values
            case PsiMatched():
                psi.matched += message.values
                self._matched += message.values
                self._keys += message.last
                complete = message.last
            case CountBegin():
                psi.asked = message.count
            case CountReady():
                psi.to_tag = message.count
            case CountBlinded():
                psi.blinded += message.values
            case CountRaised():
                psi.signed += message.values
            case CountOwn():
                psi.tags += message.values
            case DescribeModel():
                self._weights.asked = message.weights
            case ModelLayout():
                self._weights.note_layout(message)
            case BeginUpdate() | Average():
                begins = message.round > self._round
                self._tested = self._tested and not begins
                self._round, self._round_ended = message.round, False
            case BeginScores():
                self._tested = True
            case BeginTrain():
                self._tested = self._tested and message.first > 0  # another part of the same round
                self._round, self._round_ended = message.round, False
                self._is_final_due = self._is_final = False
                self._staleness, self._kept = message.staleness, message.first
                self._trained = message.first
                self._batches, self._sites.has_rows = _BatchCounts(message.first), False
            case SiteRows():
                self._sites.has_rows, self._sites.batches = True, message.batches
            case SiteShare():
                self._sites.size = size
                self._sites.shares += 1
                batches.shared = message.batch + (self.state is State.TRAIN)
            case SiteSum():
                self._sites.sums += 1
                batches.summed = message.batch + (self.state is State.TRAIN)
                if self.state is State.SPLIT_PROPOSED:
                    self._sites.size = 0  # weights have other sizes than gradients
            case SplitParts():
                self._parted += message.ids
            case ServePlan() if self.state is State.SERVING:
                self._served.proposed = True
            case PredictPlan() | ServePlan():
                self._round = message.rounds
            case ServeAccepted():
                self._served.proposed = False
            case ServeRequest():
                self._served.open.append(message.rows)
                self._served.asked += 1
            case ServeAnswer():
                self._served.open.popleft()
            case BeginTest():
                self._batches, self._sites.has_rows = _BatchCounts(), False
                self._is_final, self._is_final_due = self._is_final_due, False
                self._tested = True
            case Findings():
                self._is_final = False
            case GradientsSeen():
                batches.seen += 1
            case SeenByOthers():
                batches.told += 1
            case EndOfFeatures():
                complete = batches.open == 0
            case Checkpoint():
                self._kept = message.batch
            case RoundEnd():
                self._round_ended, self._kept = True, 0
                if message.last and self._plan is not None and self._plan.final_rows:
                    self._is_final_due, self._tested = True, False
            case _:
                pass
        if complete and self.state is State.TRAIN_DRAINING:
            self._trained = batches.done
        if complete and self.state is State.PSI_MATCHED and self._keys < self._plan_keys:
            self.state, self._psi = State.PSI, _PsiCounts(psi.width)
        elif complete:
            self.state = COMPLETED.get(self.state, self.state)

    def _has_stores(self) -> bool:
        return self._plan is not None and self._plan.psi_parties == "joint"

    def _check_plan(self, plan: Plan) -> None:
        _require(_has_batches(plan), NO_BATCHES)
        problem = wrong_with_sites(plan, partial=self._purpose == "predict")
        _require(not problem, f"sites: {problem}")
        of_this_kind = (plan.averaging is not None) == self._averages
        _require(of_this_kind, "a plan for another kind of task")
        if plan.psi_parties == "joint":
            fits = plan.psi_protocol == "ecdh" and len(plan.collaborators) > 1
            _require(fits, "a joint intersection without ecdh or a second Collaborator")

    def _check_summing(self, number: int, batch: int, due: int, before: int) -> None:
        """Check the place of a part of a sum over sites, or of the sum."""
        _require(self._role is not None, "not a site of a role")
        if self.state is State.SPLIT_PROPOSED:
            _require((number, batch) == (0, 0), "not the first weights")
            return
        _require(self.trainable, "that party is frozen")
        _require(number == self._round, "not this round")
        _require(batch == due < before, "not the batch that is next")

    @property
    def _role(self) -> RoleSites | None:
        """The role of which the Collaborator is a site, in a task that trains."""
        if self._plan is None or self._purpose not in TRAINING:
            return None
        return self._plan.sites_with(self._party)

    @property
    def _leads(self) -> bool:
        """Whether the Collaborator is the first site of its role."""
        return self._role is not None and self._role.parties[0] == self._party

    @property
    def _knows_rows(self) -> bool:
        return self._role is None or self._sites.has_rows

    def _next_sum(self, batch: int) -> int:
        """Return the first batch from `batch` on after which the sites of the role sum."""
        return self._plan.next_sum(batch, self._sites.batches) if self._plan else batch

    @property
    def _are_summed(self) -> bool:
        """Whether no sum over the sites of the role is due before the next batch."""
        sums = self._role is not None and self.trainable and self.state is State.TRAIN
        return not sums or self._next_sum(self._batches.summed) >= self._batches.sent

    @property
    def _averages(self) -> bool:
        return self._purpose == "average"

    @property
    def _plan_keys(self) -> int:
        return self._plan.id_keys if self._plan else 1

    @property
    def _tag_values(self) -> int:
        """The number of values that all `PsiTags` of this intersection have together."""
        count = self._psi.to_tag
        return self._plan.psi_tags(count) if self._plan else count

    @property
    def _is_between_rounds(self) -> bool:
        return self._round == 0 or self._round_ended

    @property
    def _sums(self) -> bool:
        return self._plan is not None and self._plan.fusion == "masked_sum"

    @property
    def _compares(self) -> bool:
        """Whether the Collaborators compare their gradients."""
        return self._sums and self.trainable and self.state is State.TRAIN

    @property
    def _others(self) -> int:
        return len(self._plan.collaborators) - 1 if self._plan else 0

    @property
    def _chooses(self) -> bool:
        return self._plan is not None and self._plan.max_staleness == "auto"

    @property
    def _max_ids(self) -> int:
        return self._plan.max_peer_ids if self._plan else 0

    @property
    def max_batch_bytes(self) -> int:
        """The most bytes of one batch of features or gradients."""
        return self._plan.max_batch_bytes if self._plan else 0

    def _check_answer(self, message: ServeAnswer, size: int) -> None:
        if message.refused:
            given = (message.rows, message.tensors, size)
            _require(given == (0, (), 0), "a refusal with rows")
            return
        _require(message.rows == self._served.open[0], "other rows than were asked for")
        self._check_tensors(message.tensors, size, self.feature_coding)
        rows = {spec.shape[0] for spec in message.tensors}
        _require(rows == {message.rows}, "tensors of other row counts than it says")
        _require(_fits_layout(message), "tensor names that do not fit its layout")

    def _likeness(self, message: Features, size: int) -> tuple[object, ...]:
        """Return all that decides whether features have a form that is allowed now."""
        return self.state, message.layout, message.rows, message.tensors, size

    def _check_features(self, message: Features, size: int) -> None:
        self._check_tensors(message.tensors, size, self.feature_coding)
        if self._role is not None and not message.tensors:
            _require(message.rows == 0 and size == 0, "rows without a tensor")
            return
        _require(bool(message.tensors), "no tensor")
        rows = {spec.shape[0] for spec in message.tensors}
        _require(rows == {message.rows}, "tensors of other row counts than it says")
        _require(_fits_layout(message), "tensor names that do not fit its layout")
        _require(not self._sums or _is_masked(message), "not one masked tensor")
        form = self._forms.get(self.state)
        _require(form in (None, _form(message)), "other tensors than in earlier batches")

    def _check_tensors(self, tensors: tuple[TensorSpec, ...], size: int, coding: Coding) -> None:
        made = plain = span = 0
        for spec in tensors:
            plain += spec.nbytes
            made += spec.coded_bytes(coding)
            span = max(span, math.prod([each or 1 for each in spec.shape]))
        _require(made == size, "shapes that do not make its size")
        _require(plain <= self.max_batch_bytes, "more bytes than max_batch_bytes")
        _require(span <= MAX_SPAN, "a shape that no memory holds")
        _require(len({spec.name for spec in tensors}) == len(tensors), "a tensor's name twice")


class _PsiCounts:
    """Counts the values of an intersection that were sent."""

    def __init__(self, width: int = 0) -> None:
        self.asked = self.to_sign = self.to_tag = 0
        self.blinded = self.signed = self.tagged = self.tags = self.matched = 0
        self.width = width
        self.kept = self.renewed = False
        self.unsigned: deque[tuple[int, int]] = deque()

    def check_values(self, values: int, size: int) -> None:
        _require(values > 0, "no value")
        _require(size <= MAX_FRAME_BYTES, "a chunk of more than 1 MiB")
        _require(size == values * self.width, "values of another width than the plan's keys")

    def note_blinded(self, values: int, size: int) -> None:
        self.blinded += values
        self.unsigned.append((values, size))


class _ServedCounts:
    """Counts the requests of a standing link."""

    def __init__(self) -> None:
        self.asked = 0
        self.open: deque[int] = deque()
        self.proposed = False

    @property
    def next(self) -> int:
        """The number of the oldest request without an answer."""
        return self.asked - len(self.open)


class _SiteCounts:
    """Counts the sums over the sites of a role since the parties connected.

    Attributes:
        has_rows: whether the rows of the next batches were told.
        batches: the number of batches of the round or test.
        shares, sums: the numbers of parts and of sums that were sent.
        size: the bytes of each part; 0 before the first one.
    """

    def __init__(self) -> None:
        self.has_rows = False
        self.shares = self.sums = self.size = self.batches = 0


class _BatchCounts:
    """Counts the batches of a round or test that were sent and processed."""

    def __init__(self, first: int = 0) -> None:
        self.sent = self.done = self.seen = self.told = first
        self.shared = self.summed = first
        self.answers = 0
        self.open_bytes = 0
        self._specs: deque[tuple[TensorSpec, ...]] = deque()
        self._sizes: deque[int] = deque()

    @property
    def open(self) -> int:
        return self.sent - self.done

    def may_answer(self, tensors: tuple[TensorSpec, ...], sums: bool) -> bool:
        """Return whether gradients fit the batch: their forms equal those of the features.

        Masked features are integers, so only the shapes are compared with them.
        """
        if tensors == self._specs[0] and not sums:  # as nearly always
            return all(t.dtype in GRADIENT_DTYPES for t in tensors)
        sent = {spec.name: spec for spec in self._specs[0]}
        return all(
            t.name in sent
            and sent[t.name].shape == t.shape
            and t.dtype in GRADIENT_DTYPES
            and (sums or sent[t.name].dtype == t.dtype)
            for t in tensors
        )

    def note_features(self, tensors: tuple[TensorSpec, ...], size: int) -> None:
        self.sent += 1
        self.open_bytes += size
        self._sizes.append(size)
        self._specs.append(tensors)

    def note_done(self) -> None:
        self.done += 1
        self.answers = 0
        self.open_bytes -= self._sizes.popleft()
        self._specs.popleft()


class _Weights:
    """Holds the sizes of a model's weights in bytes; 0 before they are known, as in a resumed
    run.
    """

    def __init__(self) -> None:
        self.asked = False
        self.plain = self.masked = 0

    def check_layout(self, layout: ModelLayout, size: int) -> None:
        plain = sum(spec.nbytes for spec in layout.tensors)
        _require(size == (plain if self.asked else 0), "not the weights that were asked for")
        items = [math.prod(max(1, each) for each in spec.shape) for spec in layout.tensors]
        _require(all(each <= MAX_SPAN for each in items), "a shape that no memory holds")
        _require(plain > 0, "a model without weights")
        names = {spec.name for spec in layout.tensors}
        _require(len(names) == len(layout.tensors), "a tensor's name twice")

    def note_layout(self, layout: ModelLayout) -> None:
        self.plain = sum(spec.nbytes for spec in layout.tensors)
        self.masked = sum(spec.items for spec in layout.tensors) * MASKED_ITEM_BYTES


def _check_scores(scores: tuple[tuple[str, float], ...]) -> None:
    _require(len({name for name, _ in scores}) == len(scores), "a score's name twice")


def _check_points(values: int, size: int) -> None:
    _require(values > 0, "no value")
    _require(size == values * POINT_BYTES <= MAX_FRAME_BYTES, "a chunk of a wrong size")


def _form(features: Features) -> tuple[object, ...]:
    """Return the properties of features that may not change from batch to batch."""
    tensors = ((spec.name, spec.dtype, _extent(spec)) for spec in features.tensors)
    return (features.layout, *tensors)


def _extent(spec: TensorSpec) -> tuple[object, ...]:
    """Return the properties of a tensor's shape, without the rows, that may not change.

    These are the number of dimensions and which of them are empty. The width of a floating matrix,
    which is an embedding, may not change either. Other sizes may change, as those of sequences do.
    """
    sizes = spec.shape[1:]
    is_embedding = len(sizes) == 1 and spec.dtype in GRADIENT_DTYPES
    return sizes if is_embedding else tuple(size > 0 for size in sizes)


def _has_batches(plan: Plan) -> bool:
    """Return whether a batch size is agreed if the plan has checkpoints within rounds."""
    return plan.checkpoint_batches == 0 or plan.batch_size > 0


def _fits_layout(features: Features | ServeAnswer) -> bool:
    names = [spec.name for spec in features.tensors]
    if features.layout == "tensor":
        return names == [""]
    if features.layout == "tuple":
        return names == [str(place) for place in range(len(names))]
    return all(name.isprintable() for name in names)


def _is_masked(features: Features) -> bool:
    """Return whether features can be a part of a masked sum, which are one tensor of integers."""
    return features.layout == "tensor" and [spec.dtype for spec in features.tensors] == ["int64"]


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise Refused(why)


def _no_payload(size: int) -> None:
    _require(size == 0, "it carries no payload")


def _check_tags(values: int, size: int, *, may_be_empty: bool = False) -> None:
    _require(size <= MAX_FRAME_BYTES, "a chunk of more than 1 MiB")
    _require(size == values * TAG_BYTES, "not 16 bytes each")
    _require(values > 0 or may_be_empty, "no value")
