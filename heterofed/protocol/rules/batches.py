"""The rules for the batches of a round or test: features, gradients and their comparison."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.limits import MAX_ANSWERS
from heterofed.protocol.messages import (
    MAX_FINDINGS,
    BatchDone,
    EndOfFeatures,
    Features,
    Gradients,
    GradientsSeen,
    Message,
    SeenByOthers,
)
from heterofed.protocol.rules.rule import Rule, no_payload, require
from heterofed.protocol.rules.tensors import check_rows, check_tensors, form_of, is_masked
from heterofed.protocol.states import State


def _features(said: Conversation, message: Features, size: int) -> None:
    batches = said.batches
    require(message.round == said.round, "not this round")
    require(message.batch == batches.sent, "not the next batch")
    require(said.batch_window > 0, "beyond its credit")
    require(not said.is_final or batches.sent <= MAX_FINDINGS, "more than it may")
    require(said.are_summed, "before the parts of the sites were summed")
    if said.like_before != _likeness(said, message, size):
        _check_form(said, message, size)


def _check_form(said: Conversation, message: Features, size: int) -> None:
    check_tensors(message.tensors, size, said.feature_coding, said.max_batch_bytes)
    if said.site_role is not None and not message.tensors:
        require(message.rows == 0 and size == 0, "rows without a tensor")
        return
    require(bool(message.tensors), "no tensor")
    check_rows(message)
    require(not said.sums or is_masked(message), "not one masked tensor")
    form = said.forms.get(said.state)
    require(form in (None, form_of(message)), "other tensors than in earlier batches")


def _likeness(said: Conversation, message: Features, size: int) -> tuple[object, ...]:
    """Return all that decides whether features have a form that is allowed now."""
    return said.state, message.layout, message.rows, message.tensors, size


def _note_features(said: Conversation, message: Features, size: int) -> None:
    said.batches.note_features(message.tensors, size)
    if said.like_before != (like := _likeness(said, message, size)):
        said.like_before = like
        if message.tensors:
            said.forms[said.state] = form_of(message)


def _gradients(said: Conversation, message: Gradients, size: int) -> None:
    batches = said.batches
    require(message.round == said.round, "not this round")
    require(said.trainable, "that party is frozen")
    require(batches.open > 0, "no batch waits for it")
    require(message.batch == batches.done, "not the batch that is next")
    require(batches.answers < MAX_ANSWERS, "more than twice for this batch")
    if said.answered_before != (message.tensors, size):
        check_tensors(message.tensors, size, said.gradient_coding, said.max_batch_bytes)
    require(batches.may_answer(message.tensors, said.sums), "not tensors of that batch")


def _note_gradients(said: Conversation, message: Gradients, size: int) -> None:
    said.answered_before = message.tensors, size
    said.batches.answers += 1
    if message.done:
        _note_processed(said)


def _done(said: Conversation, message: BatchDone, size: int) -> None:
    no_payload(said, message, size)
    require(message.round == said.round, "not this round")
    require(said.batches.open > 0, "no batch waits for it")
    require(message.batch == said.batches.done, "not the batch that is next")
    training = said.state in (State.TRAIN, State.TRAIN_DRAINING)
    require(training or not message.stepped, "a step in a test")
    if message.staleness is not None:
        chooses = said.plan is not None and said.plan.max_staleness == "auto"
        require(training and chooses, "no staleness to choose")
        require(message.staleness >= said.staleness, "less staleness than before")


def _note_done(said: Conversation, message: BatchDone, _size: int) -> None:
    if message.staleness is not None:
        said.staleness = message.staleness
    _note_processed(said)


def _note_processed(said: Conversation) -> None:
    said.batches.note_done()
    if said.batches.open == 0:
        said.complete()


def _seen(said: Conversation, message: GradientsSeen, size: int) -> None:
    batches = said.batches
    _check_comparison(said, message, size, due=batches.seen, before=batches.done)


def _note_seen(said: Conversation, _message: GradientsSeen, _size: int) -> None:
    said.batches.seen += 1


def _seen_by_others(said: Conversation, message: SeenByOthers, size: int) -> None:
    batches = said.batches
    _check_comparison(said, message, size, due=batches.told, before=batches.seen)


def _note_seen_by_others(said: Conversation, _message: SeenByOthers, _size: int) -> None:
    said.batches.told += 1


def _check_comparison(
    said: Conversation, message: GradientsSeen | SeenByOthers, size: int, *, due: int, before: int
) -> None:
    no_payload(said, message, size)
    require(message.round == said.round, "not this round")
    require(said.compares, "no masked sum that trains")
    require(message.batch == due < before, "not the batch that is next")
    others = len(said.plan.collaborators) - 1 if said.plan else 0
    require(len(message.tags) == others, "not one tag for each other party")


def _end(said: Conversation, message: EndOfFeatures, size: int) -> None:
    no_payload(said, message, size)
    require(message.round == said.round, "not this round")
    compared = not said.compares or said.batches.told == said.batches.sent
    require(compared, "before all gradients were compared")
    require(said.are_summed, "before the parts of the sites were summed")
    require(message.count == said.batches.sent, "not the number of batches that came")


def _note_end(said: Conversation, _message: EndOfFeatures, _size: int) -> None:
    if said.batches.open == 0:
        said.complete()


RULES: dict[type[Message], Rule] = {
    Features: Rule(_features, _note_features),
    Gradients: Rule(_gradients, _note_gradients),
    BatchDone: Rule(_done, _note_done),
    GradientsSeen: Rule(_seen, _note_seen),
    SeenByOthers: Rule(_seen_by_others, _note_seen_by_others),
    EndOfFeatures: Rule(_end, _note_end),
}
