"""The rules for what follows the ids: the split, and the rows of a prediction."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.messages import (
    Message,
    PredictPlan,
    SplitAccepted,
    SplitParts,
    SplitPlan,
)
from heterofed.protocol.rules.rule import Rule, no_payload, require


def _parts(said: Conversation, message: SplitParts, size: int) -> None:
    require(said.trains, "not a task that trains")
    require(said.announces_split, "the plan has every party split by itself")
    require(message.ids > 0, "no id")
    require(size == -(-message.ids // 4), "not two bits for each id")
    require(said.parted + message.ids <= said.matched, "more than were matched")


def _note_parts(said: Conversation, message: SplitParts, _size: int) -> None:
    said.parted += message.ids


def _split(said: Conversation, message: SplitPlan, size: int) -> None:
    no_payload(said, message, size)
    require(said.trains, "not a task that trains")
    parted = not said.announces_split or said.parted == said.matched
    require(parted, "before the parts of all ids")


def _accepted(said: Conversation, message: SplitAccepted, size: int) -> None:
    no_payload(said, message, size)
    begun = said.site_role is None or said.sites.sums > 0
    require(begun, "before the first weights of the sites")


def _predict(said: Conversation, message: PredictPlan, size: int) -> None:
    no_payload(said, message, size)
    require(said.purpose == "predict", "not a prediction")
    require(message.count <= said.matched, "more rows than were matched")


def _note_predict(said: Conversation, message: PredictPlan, _size: int) -> None:
    said.round = message.rounds


RULES: dict[type[Message], Rule] = {
    SplitParts: Rule(_parts, _note_parts),
    SplitPlan: Rule(_split),
    SplitAccepted: Rule(_accepted),
    PredictPlan: Rule(_predict, _note_predict),
}
