"""The rules for counting common ids without learning which they are."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.limits import MAX_FRAME_BYTES, POINT_BYTES
from heterofed.protocol.messages import (
    CountBegin,
    CountBlinded,
    CountOwn,
    CountRaised,
    CountReady,
    CountResult,
    Message,
)
from heterofed.protocol.rules.rule import Rule, no_payload, require


def _begin(said: Conversation, message: CountBegin | CountReady, size: int) -> None:
    no_payload(said, message, size)
    require(said.counts_ids, "no count was asked for")
    require(0 < message.count <= said.max_ids, "its number of ids is out of range")


def _note_begin(said: Conversation, message: CountBegin, _size: int) -> None:
    said.psi.asked = message.count


def _note_ready(said: Conversation, message: CountReady, _size: int) -> None:
    said.psi.to_tag = message.count


def _blinded(said: Conversation, message: CountBlinded, size: int) -> None:
    _check_points(message.values, size)
    require(said.psi.blinded + message.values <= said.psi.asked, "more than announced")


def _note_blinded(said: Conversation, message: CountBlinded, _size: int) -> None:
    said.psi.blinded += message.values


def _raised(said: Conversation, message: CountRaised, size: int) -> None:
    _check_points(message.values, size)
    require(said.psi.blinded == said.psi.asked, "before all values were asked for")
    require(said.psi.signed + message.values <= said.psi.asked, "more than were asked for")


def _note_raised(said: Conversation, message: CountRaised, _size: int) -> None:
    said.psi.signed += message.values


def _own(said: Conversation, message: CountOwn, size: int) -> None:
    _check_points(message.values, size)
    require(said.psi.signed == said.psi.asked, "before all that were asked for")
    require(said.psi.tags + message.values <= said.psi.to_tag, "more than announced")


def _note_own(said: Conversation, message: CountOwn, _size: int) -> None:
    said.psi.tags += message.values


def _result(said: Conversation, message: CountResult, size: int) -> None:
    no_payload(said, message, size)
    require(said.psi.tags == said.psi.to_tag, "before all values")
    most = min(said.psi.asked, said.psi.to_tag)
    require(message.common <= most, "more than there can be")


def _check_points(values: int, size: int) -> None:
    require(values > 0, "no value")
    require(size == values * POINT_BYTES <= MAX_FRAME_BYTES, "a chunk of a wrong size")


RULES: dict[type[Message], Rule] = {
    CountBegin: Rule(_begin, _note_begin),
    CountReady: Rule(_begin, _note_ready),
    CountBlinded: Rule(_blinded, _note_blinded),
    CountRaised: Rule(_raised, _note_raised),
    CountOwn: Rule(_own, _note_own),
    CountResult: Rule(_result),
}
