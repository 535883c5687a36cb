"""The rules for horizontal tasks, in which weights are averaged and no ids are compared."""

from __future__ import annotations

import math

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.messages import (
    Average,
    BeginScores,
    BeginUpdate,
    DescribeModel,
    InitialWeights,
    Message,
    ModelLayout,
    Scores,
    Update,
)
from heterofed.protocol.rules.rule import Rule, no_payload, require
from heterofed.protocol.rules.tensors import MAX_SPAN
from heterofed.protocol.states import State


def _describe(said: Conversation, message: DescribeModel, size: int) -> None:
    no_payload(said, message, size)
    require(said.averages, "not a horizontal task")


def _note_describe(said: Conversation, message: DescribeModel, _size: int) -> None:
    said.weights.asked = message.weights


def _layout(said: Conversation, message: ModelLayout, size: int) -> None:
    require(size <= said.max_batch_bytes, "more bytes than the plan's models have")
    plain = sum(spec.nbytes for spec in message.tensors)
    require(size == (plain if said.weights.asked else 0), "not the weights that were asked for")
    items = [math.prod(max(1, each) for each in spec.shape) for spec in message.tensors]
    require(all(each <= MAX_SPAN for each in items), "a shape that no memory holds")
    require(plain > 0, "a model without weights")
    names = {spec.name for spec in message.tensors}
    require(len(names) == len(message.tensors), "a tensor's name twice")


def _note_layout(said: Conversation, message: ModelLayout, _size: int) -> None:
    said.weights.note_layout(message)


def _initial(said: Conversation, _message: InitialWeights, size: int) -> None:
    require(size == said.weights.plain, "not the weights of that layout")


def _begin_update(said: Conversation, message: BeginUpdate, size: int) -> None:
    no_payload(said, message, size)
    require(said.averages, "not a horizontal task")
    require(message.round == said.round + 1, "not the next round")
    require(said.is_between_rounds, "the round before has not ended")
    most = said.max_rounds
    require(not most or message.round <= most, "more rounds than the plan says")


def _note_round(said: Conversation, message: BeginUpdate | Average, _size: int) -> None:
    said.tested = said.tested and message.round <= said.round
    said.round, said.round_ended = message.round, False


def _update(said: Conversation, message: Update, size: int) -> None:
    require(message.round == said.round, "not this round")
    require(size <= said.max_batch_bytes, "more bytes than the plan's models have")
    expected = said.weights.masked if said.sums else said.weights.plain
    require(size > 0 and expected in (0, size), "not the tensors of its layout")
    _check_names(message)


def _average(said: Conversation, message: Average, size: int) -> None:
    require(said.averages, "not a horizontal task")
    require(size <= said.max_batch_bytes, "more bytes than the plan's models have")
    require(size > 0 and said.weights.plain in (0, size), "not the weights of that layout")
    idle = said.state is State.READY
    require(message.round == said.round + idle, "not this round")
    require(not idle or said.is_between_rounds, "a second time for this round")


def _begin_scores(said: Conversation, message: BeginScores, size: int) -> None:
    no_payload(said, message, size)
    require(said.averages, "not a horizontal task")
    require(message.round == said.round, "not this round")
    require(not said.tested, "a second time for this round")
    require(not said.is_between_rounds, "the round has ended")


def _note_begin_scores(said: Conversation, _message: BeginScores, _size: int) -> None:
    said.tested = True


def _scores(said: Conversation, message: Scores, size: int) -> None:
    no_payload(said, message, size)
    require(message.round == said.round, "not this round")
    _check_names(message)


def _check_names(message: Update | Scores) -> None:
    names = {name for name, _ in message.scores}
    require(len(names) == len(message.scores), "a score's name twice")


RULES: dict[type[Message], Rule] = {
    DescribeModel: Rule(_describe, _note_describe),
    ModelLayout: Rule(_layout, _note_layout),
    InitialWeights: Rule(_initial),
    BeginUpdate: Rule(_begin_update, _note_round),
    Update: Rule(_update),
    Average: Rule(_average, _note_round),
    BeginScores: Rule(_begin_scores, _note_begin_scores),
    Scores: Rule(_scores),
}
