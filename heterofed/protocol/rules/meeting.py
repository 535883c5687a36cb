"""The rules for greetings, and for probes of the machines and of the way."""

from __future__ import annotations

from heterofed.protocol.conversation import Conversation
from heterofed.protocol.counts import BatchCounts
from heterofed.protocol.messages import (
    MAX_PINGS,
    MAX_PROBE_BYTES,
    Hello,
    Message,
    ProbeBegin,
    ProbePing,
    ProbePong,
    Welcome,
    WelcomeBack,
)
from heterofed.protocol.plan import Plan, wrong_with_sites
from heterofed.protocol.rules.rule import Rule, no_payload, require

KEPT = ("train", "serve", "average")
"""The purposes for which parties that come back go on where they were."""

NO_BATCHES = "checkpoints within rounds, and no batch_size that says where batches end"
"""Why checkpoints within rounds need agreed batches: otherwise each part would be a whole round."""


def _note_hello(said: Conversation, message: Hello, _size: int) -> None:
    said.trainable, said.party = message.trainable, message.party
    said.purpose = message.purpose
    said.held = message.held.marks if message.held else ()
    said.know_plan(None)


def _welcome(said: Conversation, message: Welcome, size: int) -> None:
    no_payload(said, message, size)
    require(said.purpose != "probe", "only a probe was asked for")
    _check_plan(said, message.plan)


def _note_welcome(said: Conversation, message: Welcome, _size: int) -> None:
    said.know_plan(message.plan)
    said.psi.width = message.plan.psi_value_bytes


def _welcome_back(said: Conversation, message: WelcomeBack, size: int) -> None:
    no_payload(said, message, size)
    _check_plan(said, message.plan)
    require(said.purpose in KEPT, "not a task that trains or serves")
    require(message.mark in said.held, "a checkpoint that was not said to be held")


def _note_welcome_back(said: Conversation, message: WelcomeBack, _size: int) -> None:
    said.know_plan(message.plan)
    said.round, said.round_ended = message.mark.round, True
    said.is_final_due = message.mark.round > 0 and message.plan.final_rows > 0
    if message.mark.batch:
        said.round, said.round_ended = message.mark.round + 1, False
        said.batches = BatchCounts(message.mark.batch)
    said.kept = said.trained = message.mark.batch


def _check_plan(said: Conversation, plan: Plan) -> None:
    require(plan.checkpoint_batches == 0 or plan.batch_size > 0, NO_BATCHES)
    problem = wrong_with_sites(plan, partial=said.purpose == "predict")
    require(not problem, f"sites: {problem}")
    of_this_kind = (plan.averaging is not None) == said.averages
    require(of_this_kind, "a plan for another kind of task")
    if plan.psi_parties == "joint":
        fits = plan.psi_protocol == "ecdh" and len(plan.collaborators) > 1
        require(fits, "a joint intersection without ecdh or a second Collaborator")


def _probe_begin(said: Conversation, message: ProbeBegin, size: int) -> None:
    no_payload(said, message, size)
    require(said.purpose == "probe", "no probe was asked for")
    require(message.work.common <= message.work.ids, "more common ids than ids")
    require(message.work.is_measurable, "a training step that is too large to be measured")


def _probe_ping(said: Conversation, message: ProbePing, size: int) -> None:
    require(message.number == said.pings < MAX_PINGS, "not the ping that is next")
    require(size <= MAX_PROBE_BYTES, "more bytes than a ping may have")


def _note_probe_ping(said: Conversation, message: ProbePing, _size: int) -> None:
    said.pings, said.reply = said.pings + 1, message.reply


def _probe_pong(said: Conversation, message: ProbePong, size: int) -> None:
    require(message.number == said.pings - 1, "not the ping that was sent")
    require(size == said.reply, "not as many bytes as were asked for")


RULES: dict[type[Message], Rule] = {
    Hello: Rule(note=_note_hello),
    Welcome: Rule(_welcome, _note_welcome),
    WelcomeBack: Rule(_welcome_back, _note_welcome_back),
    ProbeBegin: Rule(_probe_begin),
    ProbePing: Rule(_probe_ping, _note_probe_ping),
    ProbePong: Rule(_probe_pong),
}
