"""The rules for the intersection of ids."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.limits import MAX_FRAME_BYTES, MAX_KEY_BYTES, TAG_BYTES
from heterofed.protocol.messages import (
    Message,
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiRenew,
    PsiSigned,
    PsiTagged,
    PsiTags,
    PsiUnblinded,
)
from heterofed.protocol.rules.rule import Rule, no_payload, require


def _key(said: Conversation, message: PsiKey, size: int) -> None:
    require(not said.counts_ids, "only a count was asked for")
    require(not said.averages, "no ids are intersected")
    require(0 < size <= MAX_KEY_BYTES, "its key has a wrong size")
    require(0 < message.count <= said.max_ids, "its number of ids is out of range")
    require(not (message.kept and said.psi.renewed), "an old key where a new one is due")


def _note_key(said: Conversation, message: PsiKey, _size: int) -> None:
    said.psi.to_tag, said.psi.kept = message.count, message.kept


def _renew(said: Conversation, message: PsiRenew, size: int) -> None:
    no_payload(said, message, size)
    require(said.psi.kept, "its key is a new one")


def _note_renew(said: Conversation, _message: PsiRenew, _size: int) -> None:
    said.psi.renewed = True


def _begin(said: Conversation, message: PsiBegin, size: int) -> None:
    no_payload(said, message, size)
    require(0 < message.count <= said.max_ids, "its number of ids is out of range")
    require(message.done <= message.count, "more done than there are")
    if message.again:
        has_stores = said.plan is not None and said.plan.psi_parties == "joint"
        require(has_stores, "there are no stores to send again")
        require(message.done == message.count, "again before everything was signed")


def _note_begin(said: Conversation, message: PsiBegin, _size: int) -> None:
    said.psi.asked, said.psi.to_sign = message.count, message.count - message.done


def _blinded(said: Conversation, message: PsiBlinded, size: int) -> None:
    _check_values(said, message.values, size)
    require(said.psi.blinded + message.values <= said.psi.to_sign, "more than announced")
    require(said.psi_window > 0, "beyond its window")


def _note_blinded(said: Conversation, message: PsiBlinded, size: int) -> None:
    said.psi.note_blinded(message.values, size)


def _signed(said: Conversation, message: PsiSigned, size: int) -> None:
    _check_values(said, message.values, size)
    require(bool(said.psi.unsigned), "nothing waits for signatures")
    require((message.values, size) == said.psi.unsigned[0], "not as many as were asked")


def _note_signed(said: Conversation, _message: PsiSigned, _size: int) -> None:
    said.psi.signed += said.psi.unsigned.popleft()[0]


def _unblinded(said: Conversation, message: PsiUnblinded, size: int) -> None:
    no_payload(said, message, size)
    require(said.psi.signed == said.psi.to_sign, "before everything was signed")


def _tagged(said: Conversation, message: PsiTagged, size: int) -> None:
    no_payload(said, message, size)
    counting = said.psi.asked if said.counts_ids else 0  # those are raised, too
    most = said.psi.to_tag + counting
    require(said.psi.tagged < message.done <= most, "no progress, or too much")


def _note_tagged(said: Conversation, message: PsiTagged, _size: int) -> None:
    said.psi.tagged = message.done


def _tags(said: Conversation, message: PsiTags, size: int) -> None:
    _check_tags(message.values, size)
    require(said.psi.tags + message.values <= said.tag_values, "more than announced")


def _note_tags(said: Conversation, message: PsiTags, _size: int) -> None:
    said.psi.tags += message.values


def _matched(said: Conversation, message: PsiMatched, size: int) -> None:
    _check_tags(message.values, size, may_be_empty=message.last)
    require(said.psi.tags == said.tag_values, "before all tags")
    most = min(said.psi.asked, said.psi.to_tag)
    require(said.psi.matched + message.values <= most, "more than there can be")


def _note_matched(said: Conversation, message: PsiMatched, _size: int) -> None:
    said.psi.matched += message.values
    said.matched += message.values
    said.keys += message.last
    if message.last:
        said.complete()


def _check_values(said: Conversation, values: int, size: int) -> None:
    require(values > 0, "no value")
    require(size <= MAX_FRAME_BYTES, "a chunk of more than 1 MiB")
    require(size == values * said.psi.width, "values of another width than the plan's keys")


def _check_tags(values: int, size: int, *, may_be_empty: bool = False) -> None:
    require(size <= MAX_FRAME_BYTES, "a chunk of more than 1 MiB")
    require(size == values * TAG_BYTES, "not 16 bytes each")
    require(values > 0 or may_be_empty, "no value")


RULES: dict[type[Message], Rule] = {
    PsiKey: Rule(_key, _note_key),
    PsiRenew: Rule(_renew, _note_renew),
    PsiBegin: Rule(_begin, _note_begin),
    PsiBlinded: Rule(_blinded, _note_blinded),
    PsiSigned: Rule(_signed, _note_signed),
    PsiUnblinded: Rule(_unblinded),
    PsiTagged: Rule(_tagged, _note_tagged),
    PsiTags: Rule(_tags, _note_tags),
    PsiMatched: Rule(_matched, _note_matched),
}
