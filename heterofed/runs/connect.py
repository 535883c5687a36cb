"""Connects a party to the others for any kind of task, as the Host or as a Collaborator."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import msgspec

from heterofed.errors import DuplicatePartyError, OtherSettingsError, RemoteProtocolError
from heterofed.events import Callback
from heterofed.identity.task_terms import Purpose, signing_keys
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Timeouts
from heterofed.messaging.transcript import Transcript
from heterofed.privacy.mask_keys import MaskKey, check_keys
from heterofed.protocol.messages import PROTOCOL_VERSION, Hello
from heterofed.protocol.plan import Plan, of_prediction
from heterofed.protocol.states import Role
from heterofed.rendezvous.admission import Admission
from heterofed.rendezvous.agreement import (
    Agreement,
    Earlier,
    JoinPurpose,
    check_same_plan,
    task_digest,
)
from heterofed.rendezvous.backend import Place, place_of
from heterofed.rendezvous.join import announce, gather, join
from heterofed.rendezvous.ways import call_for
from heterofed.runs.run import Run
from heterofed.runs.settings import LeadSettings, Settings
from heterofed.runs.unfinished import awaited, patience
from heterofed.transport.base import Endpoint

logger = logging.getLogger("heterofed")


def check_expected(expected: Mapping[str, str], plan: Plan) -> None:
    """Check that the Host announced the agreed settings that this party was given.

    Raises:
        OtherSettingsError: some settings differ. The message names each of them with both values.
    """
    announced = dict(plan.agreed)
    differ = [
        f"{name} is {value!r} here and {shown(announced.get(name))} at {plan.host}"
        for name, value in expected.items()
        if announced.get(name) != value
    ]
    if differ:
        raise OtherSettingsError(
            f"{'; '.join(differ)}: give the same at both, or leave it to {plan.host}",
            party=plan.host,
        )


def shown(value: str | None) -> str:
    """Return a setting as it is shown in a sentence."""
    return "not set" if value is None else repr(value)


FINISHED: Final[tuple[JoinPurpose, ...]] = ("predict", "serve")
"""The purposes of tasks in which a finished model predicts."""


@contextmanager
def as_host(
    run: Run,
    settings: LeadSettings,
    callbacks: Sequence[Callback],
    *,
    purpose: JoinPurpose,
    make_plan: Callable[[tuple[str, ...]], Plan],
    expected: Sequence[str] | int | None = None,
    earlier: Earlier | None = None,
    partial: bool = False,
    approve: Callable[[Plan], object] = lambda _plan: None,
) -> Iterator[Party]:
    """Open the admission of the task, wait for all parties, and announce the plan.

    Args:
        run: the run, which gets its party and the agreement.
        settings: the settings of the Host.
        callbacks: the functions that get every event.
        purpose: the purpose for which the parties connect.
        make_plan: returns the plan for the Collaborators' keys in task order.
        expected: the parties to wait for; None takes those of the settings.
        earlier: the state of an unfinished run at this party.
        partial: whether parties that are missing after `join_timeout` are left out.
        approve: called with the plan to which the terms were applied, before this party waits, if
            the parties are known by name; it raises an error if the plan will not do.
    """
    place = _place(run, settings, Role.HOST, purpose)
    asked = settings.collaborators if expected is None else expected
    expected = place.expected(asked, partial=partial)
    settled = functools.partial(_settled, place, make_plan, purpose)
    if not isinstance(expected, int):
        approve(settled(tuple(expected)))  # shows errors before any party waits
    waits = run.waits or settings.join_timeout
    if earlier is not None:
        earlier, expected = _same_plan(run, earlier, expected, settled)
        waits = patience(run, settings.join_timeout, earlier.agreement.plan.wait_for_peers)
    timeouts = settings.timeouts(settings.calculation_timeout)
    with place.listen() as endpoint:
        party = run.maybe_party = _party(run, settings, Role.HOST, endpoint, timeouts, callbacks)
        admission = _admission(run, place, purpose, party.name, expected, earlier, partial)
        with party.in_phase("join"):
            run.maybe_agreement, keys = gather(
                party,
                admission,
                settled,
                join_timeout=waits,
                described=place.described,
                compare=place.compare,
                start=f"run {call_for(purpose)} there" if purpose == "predict" else "start them",
                earlier=earlier,
                check_keys=check_keys,
            )
            announce(party, run.maybe_agreement, keys)
        yield party


def _admission(
    run: Run,
    place: Place,
    purpose: JoinPurpose,
    host: str,
    expected: Sequence[str] | int,
    earlier: Earlier | None,
    partial: bool,
) -> Admission:
    """Return what decides which visitors of the Host are admitted."""
    return Admission(
        task_digest(run.task_id),
        purpose,
        host,
        expected,
        terms=place.terms,
        ended=run.ended,
        going_on=_awaiting(run, earlier),
        partial=partial,
        check_usable=place.check_usable,
    )


def _awaiting(run: Run, earlier: Earlier | None) -> Earlier | None:
    """Return the run that waits for a lost party or for goodbyes, and must not be replaced."""
    waits = earlier is not None and earlier.marks and (run.waits or run.complete)
    return earlier if waits else None


def _settled(
    place: Place,
    make_plan: Callable[[tuple[str, ...]], Plan],
    purpose: JoinPurpose,
    names: tuple[str, ...],
) -> Plan:
    """Return the plan for some Collaborators, with the terms of the place applied."""
    plan = place.settle(make_plan(names), trains=purpose not in FINISHED)
    return of_prediction(plan) if purpose in FINISHED else plan


def _same_plan(
    run: Run,
    earlier: Earlier,
    expected: Sequence[str] | int,
    settled: Callable[[tuple[str, ...]], Plan],
) -> tuple[Earlier, Sequence[str]]:
    """Return the unfinished run under the current plan, and the parties that it waits for.

    The plan must be the one that the run began with.
    """
    begun = earlier.agreement.plan
    given = begun.collaborators if isinstance(expected, int) else tuple(expected)
    plan = settled(given)
    check_same_plan(begun, plan)
    earlier = replace(earlier, agreement=replace(earlier.agreement, plan=plan))
    return earlier, awaited(run) if run.complete else begun.collaborators


@contextmanager
def as_collaborator(
    run: Run,
    settings: Settings,
    callbacks: Sequence[Callback],
    *,
    purpose: JoinPurpose,
    trainable: bool = False,
    earlier: Earlier | None = None,
) -> Iterator[Party]:
    """Find the Host, and wait until all parties are connected.

    Args:
        run: the run, which gets its party and the agreement.
        settings: the settings of the Collaborator.
        callbacks: the functions that get every event.
        purpose: the purpose for which the parties connect.
        trainable: whether this party's features get gradients.
        earlier: the state of an unfinished run at this party.
    """
    place = _place(run, settings, Role.COLLABORATOR, purpose)
    key, timeouts = MaskKey(), settings.timeouts()
    hello = Hello(
        (PROTOCOL_VERSION,),
        purpose,
        task_digest(run.task_id),
        settings.feature_key,
        secrets.token_bytes(16),
        trainable,
        terms=place.terms,
        mask_key=key.public,
    )
    party, host, run.maybe_agreement = join(
        place.connect,
        lambda endpoint: _party(run, settings, Role.COLLABORATOR, endpoint, timeouts, callbacks),
        hello,
        link_timeout=settings.data_channel_timeout[0],
        join_timeout=patience(run, settings.join_timeout),
        described=place.described,
        compare=place.compare,
        diagnose=place.diagnose,
        objections=functools.partial(
            place.differences,
            partial=purpose == "predict",
            predicts=purpose in FINISHED,
        ),
        earlier=earlier,
        knows_host=run.waits > 0,
        is_silent=place.is_silent,
    )
    run.maybe_party = party
    if host.name == settings.feature_key:
        raise DuplicatePartyError(party=settings.feature_key)
    check_expected(settings.agreed, run.plan)
    run.mask_secrets = _mask_secrets(settings.feature_key, key, run.agreement, place)
    run.sum_key = b""
    yield party


def _party(
    run: Run,
    settings: Settings,
    role: Role,
    endpoint: Endpoint,
    timeouts: Timeouts,
    callbacks: Sequence[Callback],
) -> Party:
    party = Party(
        settings.feature_key,
        role,
        endpoint,
        timeouts=timeouts,
        callbacks=callbacks,
        account=run.account,
    )
    run.transcript = Transcript(is_host=role is Role.HOST)
    if run.terms and signing_keys(run.terms):
        party.taps.append(run.transcript)
    return party


def _mask_secrets(party: str, key: MaskKey, agreement: Agreement, place: Place) -> dict[str, bytes]:
    """Return the secret shared with each other Collaborator, if the plan needs one."""
    if not agreement.mask_keys:
        return {}
    keys = dict(zip(agreement.plan.collaborators, agreement.mask_keys, strict=True))
    if keys.pop(party) != key.public:
        raise RemoteProtocolError(
            f"the Host relayed another masking key of {party} than its own;"
            f" {RemoteProtocolError.remedy}"
        )
    # If the Host tells Collaborators different plans, secrets or checkpoints, their shared secrets
    # differ, and no mask can be removed.
    told = agreement.run + msgspec.msgpack.encode(
        (agreement.plan, agreement.resume, agreement.secret)
    )
    return {
        other: key.secret_with(
            public, names=(party, other), run=told, identities=place.identities(other)
        )
        for other, public in keys.items()
    }


def _place(run: Run, settings: Settings, role: Role, purpose: JoinPurpose) -> Place:
    """Return the place where the parties connect, and set the folder of the run's ledger."""
    place = settings.place
    if place is None:
        # Predictions and dry runs are within the terms of the training task; a count of common ids
        # reveals less than either kind of task.
        task: Purpose | None = "psi" if purpose in ("psi", "stored") else "train"
        if purpose == "overlap":
            task = None
        place = place_of(run.task_id, settings.feature_key, role, task, insecure=settings.insecure)
    logger.info("task %s: meeting %s", run.task_id, place.described)
    place.purpose = purpose
    run.ledger, run.simulated = place.ledger, place.simulated
    run.meeting, run.terms, run.secured = place.described, place.terms, place.secured
    return place
