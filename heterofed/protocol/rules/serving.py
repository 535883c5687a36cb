"""The rules for standing links, on which rows are asked for one request after the other."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.limits import ROW_NUMBER_BYTES
from heterofed.protocol.messages import (
    Message,
    ServeAccepted,
    ServeAnswer,
    ServePlan,
    ServeRequest,
)
from heterofed.protocol.rules.rule import Rule, no_payload, require
from heterofed.protocol.rules.tensors import check_rows, check_tensors
from heterofed.protocol.states import State


def _plan(said: Conversation, message: ServePlan, size: int) -> None:
    no_payload(said, message, size)
    require(said.purpose == "serve", "not a standing link")
    known = said.state in (State.READY, State.SERVING)
    require(known or message.count <= said.matched, "more rows than were matched")
    require(not said.served.proposed, "before the last one was answered")


def _note_plan(said: Conversation, message: ServePlan, _size: int) -> None:
    if said.state is State.SERVING:
        said.served.proposed = True
    else:
        said.round = message.rounds


def _accepted(said: Conversation, message: ServeAccepted, size: int) -> None:
    no_payload(said, message, size)
    serving = said.state is State.SERVING
    require(not serving or said.served.proposed, "no version was asked for")
    require(serving or not message.refused, "a refusal before anything is served")


def _note_accepted(said: Conversation, _message: ServeAccepted, _size: int) -> None:
    said.served.proposed = False


def _request(said: Conversation, message: ServeRequest, size: int) -> None:
    require(size == message.rows * ROW_NUMBER_BYTES, "not one number for each row")
    require(message.number == said.served.asked, "not the next request")
    require(said.serve_window > 0, "beyond its window")


def _note_request(said: Conversation, message: ServeRequest, _size: int) -> None:
    said.served.open.append(message.rows)
    said.served.asked += 1


def _answer(said: Conversation, message: ServeAnswer, size: int) -> None:
    require(bool(said.served.open), "nothing was asked")
    require(message.number == said.served.next, "not the request that is next")
    if message.refused:
        given = (message.rows, message.tensors, size)
        require(given == (0, (), 0), "a refusal with rows")
        return
    require(message.rows == said.served.open[0], "other rows than were asked for")
    check_tensors(message.tensors, size, said.feature_coding, said.max_batch_bytes)
    check_rows(message)


def _note_answer(said: Conversation, _message: ServeAnswer, _size: int) -> None:
    said.served.open.popleft()


RULES: dict[type[Message], Rule] = {
    ServePlan: Rule(_plan, _note_plan),
    ServeAccepted: Rule(_accepted, _note_accepted),
    ServeRequest: Rule(_request, _note_request),
    ServeAnswer: Rule(_answer, _note_answer),
}
