"""The rules for the sites of a role: the rows of their batches, and their masked sums."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.limits import ROW_COUNT_BYTES
from heterofed.protocol.messages import Message, SiteRows, SiteShare, SiteSum
from heterofed.protocol.rules.rule import Rule, require
from heterofed.protocol.states import State

SHARE_ITEM_BYTES = 16
"""The bytes of one number in a sum over sites."""


def _rows(said: Conversation, message: SiteRows, size: int) -> None:
    require(said.site_role is not None, "not a site of a role")
    require(size == message.batches * ROW_COUNT_BYTES, "not a number for each batch")
    require(not said.sites.has_rows, "a second time")
    begins = said.is_between_rounds and not message.testing
    require(message.round == said.round + begins, "not this round")


def _note_rows(said: Conversation, message: SiteRows, _size: int) -> None:
    said.sites.has_rows, said.sites.batches = True, message.batches


def _share(said: Conversation, message: SiteShare, size: int) -> None:
    number = said.next_sum(said.batches.shared)
    _check_place(said, message, number, said.batches.done)
    fits = 0 < size <= said.max_batch_bytes and size % SHARE_ITEM_BYTES == 0
    require(fits and said.sites.size in (0, size), "not the numbers of one model")
    again = said.state is State.SPLIT_PROPOSED and said.sites.shares > 0
    require(not again, "a second time")
    first = said.sites.shares == 0 and said.leads
    expected = len(said.site_role.parties) - 1 if said.site_role and first else 0
    require(len(message.keys) == expected, "other keys than are due")


def _note_share(said: Conversation, message: SiteShare, size: int) -> None:
    said.sites.size = size
    said.sites.shares += 1
    said.batches.shared = message.batch + (said.state is State.TRAIN)


def _sum(said: Conversation, message: SiteSum, size: int) -> None:
    number = said.next_sum(said.batches.summed)
    _check_place(said, message, number, said.batches.shared)
    require(said.sites.sums < said.sites.shares, "before its part")
    require(size == said.sites.size, "not as many numbers as in each part")
    due = said.sites.sums == 0 and not said.leads
    require((message.key is not None) == due, "no key, or one that is not due")


def _note_sum(said: Conversation, message: SiteSum, _size: int) -> None:
    said.sites.sums += 1
    said.batches.summed = message.batch + (said.state is State.TRAIN)
    if said.state is State.SPLIT_PROPOSED:
        said.sites.size = 0  # weights have other sizes than gradients


def _check_place(said: Conversation, message: SiteShare | SiteSum, due: int, before: int) -> None:
    """Check the place of a part of a sum over sites, or of the sum."""
    require(said.site_role is not None, "not a site of a role")
    if said.state is State.SPLIT_PROPOSED:
        require((message.round, message.batch) == (0, 0), "not the first weights")
        return
    require(said.trainable, "that party is frozen")
    require(message.round == said.round, "not this round")
    require(message.batch == due < before, "not the batch that is next")


RULES: dict[type[Message], Rule] = {
    SiteRows: Rule(_rows, _note_rows),
    SiteShare: Rule(_share, _note_share),
    SiteSum: Rule(_sum, _note_sum),
}
