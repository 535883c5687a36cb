"""The rules for a request to a stored set: the filter, the values, and the claims of hits."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.limits import (
    KEY_PROOF_BYTES,
    MAX_FRAME_BYTES,
    POINT_BYTES,
    PSI_WINDOW,
    STORED_VALUES,
    TAG_BYTES,
)
from heterofed.protocol.messages import (
    Message,
    StoredBegin,
    StoredBlinded,
    StoredClaims,
    StoredEvaluated,
    StoredFilter,
    StoredOffer,
    StoredReplies,
)
from heterofed.protocol.rules.rule import Rule, no_payload, require

MOST_FILTER_BYTES, FILTER_HEAD_BYTES = 8, 1 << 12
"""The most bytes of a filter for each id, and for everything else."""


def _offer(said: Conversation, message: StoredOffer, size: int) -> None:
    no_payload(said, message, size)
    require(said.asks_stored, "no stored set was asked for")
    require(0 < message.count <= said.max_ids, "its number of ids is out of range")
    most = MOST_FILTER_BYTES * message.count + FILTER_HEAD_BYTES
    require(0 < message.size <= most, "a filter of an impossible size")


def _note_offer(said: Conversation, message: StoredOffer, _size: int) -> None:
    said.stored.offered = message.size


def _begin(said: Conversation, message: StoredBegin, size: int) -> None:
    no_payload(said, message, size)
    require(0 < message.count <= said.max_ids, "its number of ids is out of range")


def _note_begin(said: Conversation, message: StoredBegin, _size: int) -> None:
    said.stored.asked = message.count
    said.stored.to_fetch = said.stored.offered if message.fetch else 0


def _filter(said: Conversation, _message: StoredFilter, size: int) -> None:
    require(0 < size <= MAX_FRAME_BYTES, "a chunk of a wrong size")
    require(size <= said.stored.to_fetch, "more of the filter than was asked for")


def _note_filter(said: Conversation, _message: StoredFilter, size: int) -> None:
    said.stored.to_fetch -= size


def _blinded(said: Conversation, message: StoredBlinded, size: int) -> None:
    _check_values(message.values, size, POINT_BYTES)
    require(said.stored.to_fetch == 0, "before the whole filter")
    require(said.stored.blinded + message.values <= said.stored.asked, "more than announced")
    require(len(said.stored.unevaluated) < PSI_WINDOW, "beyond its window")


def _note_blinded(said: Conversation, message: StoredBlinded, _size: int) -> None:
    said.stored.blinded += message.values
    said.stored.unevaluated.append(message.values)


def _evaluated(said: Conversation, message: StoredEvaluated, size: int) -> None:
    require(bool(said.stored.unevaluated), "nothing waits to be evaluated")
    require(message.values == said.stored.unevaluated[0], "not as many as were asked")
    require(size == message.values * POINT_BYTES + KEY_PROOF_BYTES, "a chunk of a wrong size")


def _note_evaluated(said: Conversation, _message: StoredEvaluated, _size: int) -> None:
    said.stored.unevaluated.popleft()


def _claims(said: Conversation, message: StoredClaims, size: int) -> None:
    stored = said.stored
    if message.values or not message.last:
        _check_values(message.values, size, TAG_BYTES)
    else:
        no_payload(said, message, size)
    done = stored.blinded == stored.asked and not stored.unevaluated
    require(done, "before all values were evaluated")
    require(not stored.all_claimed, "after the last one")
    require(stored.claimed + message.values <= stored.asked, "more than there can be")


def _note_claims(said: Conversation, message: StoredClaims, _size: int) -> None:
    said.stored.claimed += message.values
    said.stored.all_claimed = message.last
    if message.values:
        said.stored.unanswered.append(message.values)
    _complete(said)


def _replies(said: Conversation, message: StoredReplies, size: int) -> None:
    require(bool(said.stored.unanswered), "no claim waits for it")
    require(message.values == said.stored.unanswered[0], "not as many as were claimed")
    _check_values(message.values, size, TAG_BYTES)


def _note_replies(said: Conversation, _message: StoredReplies, _size: int) -> None:
    said.stored.unanswered.popleft()
    _complete(said)


def _complete(said: Conversation) -> None:
    if said.stored.all_claimed and not said.stored.unanswered:
        said.complete()


def _check_values(values: int, size: int, width: int) -> None:
    require(0 < values <= STORED_VALUES, "no value, or too many in one message")
    require(size == values * width, "a chunk of a wrong size")


RULES: dict[type[Message], Rule] = {
    StoredOffer: Rule(_offer, _note_offer),
    StoredBegin: Rule(_begin, _note_begin),
    StoredFilter: Rule(_filter, _note_filter),
    StoredBlinded: Rule(_blinded, _note_blinded),
    StoredEvaluated: Rule(_evaluated, _note_evaluated),
    StoredClaims: Rule(_claims, _note_claims),
    StoredReplies: Rule(_replies, _note_replies),
}
