"""The rules for the begin and the end of rounds and tests, checkpoints and the task's end."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.counts import BatchCounts
from heterofed.protocol.messages import (
    BeginTest,
    BeginTrain,
    Checkpoint,
    CheckpointHeld,
    Findings,
    Finish,
    Message,
    RoundEnd,
)
from heterofed.protocol.rules.rule import Rule, no_payload, require
from heterofed.protocol.states import State

IN_ROUNDS = ("train", "average")
"""The purposes for which there are rounds, each with a checkpoint at its end."""

ID_TASKS = ("psi", "overlap")
"""The purposes for which the task ends after the ids."""


def _train(said: Conversation, message: BeginTrain, size: int) -> None:
    no_payload(said, message, size)
    require(said.trains, "not a task that trains")
    going_on = 0 < message.first == said.trained == said.kept
    expected = said.round if going_on else said.round + 1
    require(message.round == expected, "not the next round")
    require(going_on or message.first == 0, "not the next batch")
    most = said.max_rounds
    require(not most or message.round <= most, "more rounds than the plan says")
    require(said.knows_rows, "before the rows of its batches")
    agreed = said.plan.max_staleness if said.plan else 0
    require(agreed in ("auto", message.staleness), "another staleness than agreed")
    require(going_on or said.is_between_rounds, "the round before has not ended")


def _note_train(said: Conversation, message: BeginTrain, _size: int) -> None:
    said.tested = said.tested and message.first > 0  # another part of the same round
    said.round, said.round_ended = message.round, False
    said.is_final_due = said.is_final = False
    said.staleness, said.kept = message.staleness, message.first
    said.trained = message.first
    said.batches, said.sites.has_rows = BatchCounts(message.first), False


def _test(said: Conversation, message: BeginTest, size: int) -> None:
    no_payload(said, message, size)
    require(not said.averages, "a horizontal task sends no features")
    require(said.purpose != "serve", "a standing link has no tests")
    require(message.round == said.round, "not this round")
    require(said.knows_rows, "before the rows of its batches")
    require(not said.tested, "a second time for this round")
    require(not said.round_ended or said.is_final_due, "the round has ended")


def _note_test(said: Conversation, _message: BeginTest, _size: int) -> None:
    said.batches, said.sites.has_rows = BatchCounts(), False
    said.is_final, said.is_final_due = said.is_final_due, False
    said.tested = True


def _findings(said: Conversation, message: Findings, size: int) -> None:
    no_payload(said, message, size)
    require(said.is_final, "nothing was looked at")
    require(len(message.values) < max(said.batches.sent, 1), "more than it can have found")


def _note_findings(said: Conversation, _message: Findings, _size: int) -> None:
    said.is_final = False


def _round_end(said: Conversation, message: RoundEnd, size: int) -> None:
    no_payload(said, message, size)
    require(said.purpose in IN_ROUNDS, "not a task that trains")
    require(message.round == said.round, "not this round")
    require(not said.round_ended, "a second time for this round")


def _note_round_end(said: Conversation, message: RoundEnd, _size: int) -> None:
    said.round_ended, said.kept = True, 0
    if message.last and said.plan is not None and said.plan.final_rows:
        said.is_final_due, said.tested = True, False


def _checkpoint(said: Conversation, message: Checkpoint, size: int) -> None:
    no_payload(said, message, size)
    require(message.round == said.round, "not this round")
    every = said.plan.checkpoint_batches if said.plan else 0
    due = every > 0 and message.batch == said.trained and message.batch % every == 0
    require(due and message.batch > said.kept, "no checkpoint is due")
    require(not said.round_ended, "the round has ended")


def _note_checkpoint(said: Conversation, message: Checkpoint, _size: int) -> None:
    said.kept = message.batch


def _held(said: Conversation, message: CheckpointHeld, size: int) -> None:
    no_payload(said, message, size)
    asked = (said.round, 0 if said.round_ended else said.kept)
    require((message.round, message.batch) == asked, "not the checkpoint asked for")


def _finish(said: Conversation, message: Finish, size: int) -> None:
    no_payload(said, message, size)
    require(message.rounds == said.round, "not the rounds that were trained")
    early = said.state is State.SPLIT
    require(early == (said.purpose in ID_TASKS), "too early for this task")
    in_rounds = said.purpose in IN_ROUNDS
    require(not in_rounds or said.is_between_rounds, "the last round has not ended")


RULES: dict[type[Message], Rule] = {
    BeginTrain: Rule(_train, _note_train),
    BeginTest: Rule(_test, _note_test),
    Findings: Rule(_findings, _note_findings),
    RoundEnd: Rule(_round_end, _note_round_end),
    Checkpoint: Rule(_checkpoint, _note_checkpoint),
    CheckpointHeld: Rule(_held),
    Finish: Rule(_finish),
}
