"""One peer's view of one session: the table, and beside it the guards that count.

Knows no socket and no clock: whoever drives it passes in each message with the size of its
payload, and the session says whether that may be said now. The same object checks both
directions, so a party cannot send what the other one would refuse.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

from heterofed.errors import HeteroFedError, LocalProtocolError, RemoteProtocolError
from heterofed.plan import Plan
from heterofed.protocol.messages import (
    GRADIENT_DTYPES,
    BatchDone,
    BeginTest,
    BeginTrain,
    EndOfFeatures,
    Features,
    Finish,
    Gradients,
    Hello,
    Message,
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiSigned,
    PsiTags,
    RoundEnd,
    SplitPlan,
    TensorSpec,
    Welcome,
)
from heterofed.protocol.states import COMPLETED, ENDED, TABLE, Role, State

PSI_WINDOW = 8
"""Chunks of blinded values that may wait for their signatures."""

MAX_ANSWERS = 2
"""Gradients for one batch: those sent ahead of the step, and others if it changed them."""

MAX_SPAN = 1 << 40
"""Items between a tensor's first and last, were no dimension empty."""

MAX_KEY_BYTES = 1 << 14
MAX_CHUNK_BYTES = 1 << 20
TAG_BYTES = 16


class Refused(Exception):  # noqa: N818 - never leaves this module
    """Why a message may not be said now."""


class Session:
    """One connection's conversation, from Hello to Bye or Abort.

    Args:
        role: the role of the party that owns this object.

    Attributes:
        state: where the session stands; changes only through `send`, `receive` and `lost`.
        trainable: whether the Collaborator takes gradients; known from its Hello on.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.CONNECTING
        self._plan: Plan | None = None
        self.trainable = True
        self._purpose = "train"
        self._round = 0
        self._round_ended = False
        self._psi = _PsiCounts()
        self._batches = _BatchCounts()
        self._forms: dict[State, tuple[object, ...]] = {}

    @property
    def ended(self) -> bool:
        """Whether nothing more can be said."""
        return self.state in ENDED

    @property
    def psi_window(self) -> int:
        """Chunks of blinded values that may be sent now."""
        return PSI_WINDOW - len(self._psi.unsigned)

    @property
    def batch_window(self) -> int:
        """Batches of features that may be sent now."""
        return self._credit - self._batches.open

    def send(self, message: Message, size: int = 0) -> None:
        """Note that this party says `message` with `size` bytes of payload.

        Raises:
            LocalProtocolError: it may not be said now; nothing changed.
        """
        self._check(self.role, message, size, LocalProtocolError)
        self._advance(message, size)

    def admit(self, message: Message, size: int = 0) -> None:
        """Check a message of the peer whose payload of `size` bytes has yet to come.

        Raises:
            RemoteProtocolError: it may not be said now, or is too large; nothing changed.
        """
        if not self.ended:
            self._check(self.role.other, message, size, RemoteProtocolError)
        elif size > max(MAX_CHUNK_BYTES, self.max_batch_bytes):
            # Late mail is ignored, yet until then it takes room.
            raise RemoteProtocolError("late mail with a larger payload than any message may have")

    def receive(self, message: Message, size: int = 0) -> bool:
        """Note that the peer said `message` with `size` bytes of payload.

        Returns:
            Whether to act on it: False for late mail after the end.

        Raises:
            RemoteProtocolError: it may not be said now; nothing changed.
        """
        if self.ended:
            return False
        self._check(self.role.other, message, size, RemoteProtocolError)
        self._advance(message, size)
        return True

    def lost(self) -> None:
        """Note that the peer is gone: what has not ended has failed."""
        if not self.ended:
            self.state = State.FAILED

    @property
    def _credit(self) -> int:
        return self._plan.credit if self._plan else 1

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
        psi, batches = self._psi, self._batches
        match message:
            case PsiKey():
                _require(0 < size <= MAX_KEY_BYTES, "its key has a wrong size")
                _require(0 < message.count <= self._max_ids, "its number of ids is out of range")
            case PsiBegin():
                _no_payload(size)
                _require(0 < message.count <= self._max_ids, "its number of ids is out of range")
            case PsiBlinded():
                psi.check_values(message.values, size)
                _require(psi.blinded + message.values <= psi.to_sign, "more than announced")
                _require(self.psi_window > 0, "beyond its window")
            case PsiSigned():
                psi.check_values(message.values, size)
                _require(bool(psi.unsigned), "nothing waits for signatures")
                _require((message.values, size) == psi.unsigned[0], "not as many as were asked")
            case PsiTags():
                _check_tags(message.values, size)
                _require(psi.signed == psi.to_sign, "before everything was signed")
                _require(psi.tags + message.values <= psi.to_tag, "more than announced")
            case PsiMatched():
                _check_tags(message.values, size, may_be_empty=message.last)
                _require(psi.tags == psi.to_tag, "before all tags")
                most = min(psi.to_sign, psi.to_tag)
                _require(psi.matched + message.values <= most, "more than there can be")
            case BeginTrain():
                _no_payload(size)
                _require(message.round == self._round + 1, "not the next round")
                most = self._plan.max_rounds if self._plan else 0
                _require(not most or message.round <= most, "more rounds than the plan says")
            case SplitPlan():
                _no_payload(size)
                _require(self._purpose == "train", "the task only intersects ids")
            case BeginTest():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
            case RoundEnd():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
                _require(not self._round_ended, "a second time for this round")
            case Finish():
                _no_payload(size)
                _require(message.rounds == self._round, "not the rounds that were trained")
                early = self.state is State.SPLIT
                _require(early == (self._purpose == "psi"), "too early for this task")
            case Features():
                _require(message.round == self._round, "not this round")
                _require(message.batch == batches.sent, "not the next batch")
                _require(self.batch_window > 0, "beyond its credit")
                self._check_tensors(message.tensors, size)
                _require(bool(message.tensors), "no tensor")
                rows = {spec.shape[0] for spec in message.tensors}
                _require(rows == {message.rows}, "tensors of other row counts than it says")
                _require(_fits_layout(message), "tensor names that do not fit its layout")
                form = self._forms.get(self.state)
                _require(form in (None, _form(message)), "other tensors than in earlier batches")
            case Gradients():
                _require(message.round == self._round, "not this round")
                _require(self.trainable, "that party is frozen")
                _require(batches.open > 0, "no batch waits for it")
                _require(message.batch == batches.done, "not the batch that is next")
                _require(batches.answers < MAX_ANSWERS, "more than twice for this batch")
                self._check_tensors(message.tensors, size)
                _require(batches.may_answer(message.tensors), "not tensors of that batch")
            case BatchDone():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
                _require(batches.open > 0, "no batch waits for it")
                _require(message.batch == batches.done, "not the batch that is next")
                training = self.state in (State.TRAIN, State.TRAIN_DRAINING)
                _require(training or not message.stepped, "a step in a test")
            case EndOfFeatures():
                _no_payload(size)
                _require(message.round == self._round, "not this round")
                _require(message.count == batches.sent, "not the number of batches that came")
            case _:
                _no_payload(size)

    def _advance(self, message: Message, size: int) -> None:
        speaker = next(who for who, kind in TABLE[self.state] if kind is type(message))
        self.state = TABLE[self.state][speaker, type(message)]
        psi, batches = self._psi, self._batches
        complete = False
        match message:
            case Hello():
                self.trainable = message.trainable
                self._purpose = message.purpose
            case Welcome():
                self._plan = message.plan
                psi.width = message.plan.psi_value_bytes
            case PsiKey():
                psi.to_tag = message.count
            case PsiBegin():
                psi.to_sign = message.count
            case PsiBlinded():
                psi.note_blinded(message.values, size)
            case PsiSigned():
                psi.signed += psi.unsigned.popleft()[0]
            case PsiTags():
                psi.tags += message.values
            case PsiMatched():
                psi.matched += message.values
                complete = message.last
            case BeginTrain():
                self._round, self._round_ended = message.round, False
                self._batches = _BatchCounts()
            case BeginTest():
                self._batches = _BatchCounts()
            case Features():
                batches.note_features(message.tensors)
                self._forms[self.state] = _form(message)
            case Gradients():
                batches.answers += 1
            case BatchDone():
                batches.note_done()
                complete = batches.open == 0
            case EndOfFeatures():
                complete = batches.open == 0
            case RoundEnd():
                self._round_ended = True
            case _:
                pass
        if complete:
            self.state = COMPLETED.get(self.state, self.state)

    @property
    def _max_ids(self) -> int:
        return self._plan.max_peer_ids if self._plan else 0

    @property
    def max_batch_bytes(self) -> int:
        """Most bytes of one batch of features or gradients."""
        return self._plan.max_batch_bytes if self._plan else 0

    def _check_tensors(self, tensors: tuple[TensorSpec, ...], size: int) -> None:
        _require(size <= self.max_batch_bytes, "more bytes than max_batch_bytes")
        _require(sum(spec.nbytes for spec in tensors) == size, "shapes that do not make its size")
        spans = (math.prod(max(1, each) for each in spec.shape) for spec in tensors)
        _require(all(span <= MAX_SPAN for span in spans), "a shape that no memory holds")
        names = {spec.name for spec in tensors}
        _require(len(names) == len(tensors), "a tensor's name twice")


class _PsiCounts:
    """How much of the intersection has been said."""

    def __init__(self) -> None:
        self.to_sign = self.to_tag = 0
        self.blinded = self.signed = self.tags = self.matched = 0
        self.width = 0
        self.unsigned: deque[tuple[int, int]] = deque()

    def check_values(self, values: int, size: int) -> None:
        _require(values > 0, "no value")
        _require(size <= MAX_CHUNK_BYTES, "a chunk of more than 1 MiB")
        _require(size == values * self.width, "values of another width than the plan's keys")

    def note_blinded(self, values: int, size: int) -> None:
        self.blinded += values
        self.unsigned.append((values, size))


class _BatchCounts:
    """How many batches of this round (or test) were sent and dealt with."""

    def __init__(self) -> None:
        self.sent = self.done = 0
        self.answers = 0
        self._specs: deque[Mapping[str, TensorSpec]] = deque()

    @property
    def open(self) -> int:
        return self.sent - self.done

    def may_answer(self, tensors: tuple[TensorSpec, ...]) -> bool:
        sent = self._specs[0]
        return all(sent.get(t.name) == t and t.dtype in GRADIENT_DTYPES for t in tensors)

    def note_features(self, tensors: tuple[TensorSpec, ...]) -> None:
        self.sent += 1
        self._specs.append(MappingProxyType({spec.name: spec for spec in tensors}))

    def note_done(self) -> None:
        self.done += 1
        self.answers = 0
        self._specs.popleft()


def _form(features: Features) -> tuple[object, ...]:
    """What may not change from batch to batch: layout, names, dtypes, number of dimensions."""
    tensors = ((spec.name, spec.dtype, len(spec.shape)) for spec in features.tensors)
    return (features.layout, *tensors)


def _fits_layout(features: Features) -> bool:
    names = [spec.name for spec in features.tensors]
    if features.layout == "tensor":
        return names == [""]
    if features.layout == "tuple":
        return names == [str(place) for place in range(len(names))]
    return all(name.isprintable() for name in names)


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise Refused(why)


def _no_payload(size: int) -> None:
    _require(size == 0, "it carries no payload")


def _check_tags(values: int, size: int, *, may_be_empty: bool = False) -> None:
    _require(size <= MAX_CHUNK_BYTES, "a chunk of more than 1 MiB")
    _require(size == values * TAG_BYTES, "not 16 bytes each")
    _require(values > 0 or may_be_empty, "no value")
