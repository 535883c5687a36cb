"""How a party meets the others, as the Host or as a Collaborator, for whatever kind of task."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import msgspec

from heterofed.errors import DuplicatePartyError, OtherSettingsError, RemoteProtocolError
from heterofed.events import Callback
from heterofed.identity.task_terms import Purpose
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Timeouts
from heterofed.privacy.mask_keys import MaskKey, check_keys
from heterofed.protocol.messages import PROTOCOL_VERSION, Hello
from heterofed.protocol.plan import Plan
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
from heterofed.rendezvous.join import gather, join
from heterofed.runs.run import Run
from heterofed.runs.settings import LeadSettings, Settings
from heterofed.runs.unfinished import awaited, patience
from heterofed.transport.base import Endpoint

logger = logging.getLogger("heterofed")


def check_expected(expected: Mapping[str, str], plan: Plan) -> None:
    """Check that the Host announced the agreed settings that this party was given.

    Raises:
        OtherSettingsError: naming each that it did not, with both values.
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
    """A setting for a sentence."""
    return "not set" if value is None else repr(value)


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
) -> Iterator[Party]:
    """Open the task's admission, wait until everybody is there, announce the plan.

    Args:
        run: gets its party and what was agreed on.
        settings: the settings of the Host.
        callbacks: get every event.
        purpose: what the parties meet for.
        make_plan: called with the Collaborators' keys in task order.
        expected: whom to wait for; None: those of the settings.
        earlier: what this party holds of a run that has not ended.
        partial: whether whoever is missing after `join_timeout` is left out.
    """
    place = _place(run, settings, Role.HOST, purpose)
    asked = settings.collaborators if expected is None else expected
    expected = place.expected(asked, partial=partial)
    if not isinstance(expected, int):
        place.settle(make_plan(tuple(expected)))  # what does not fit shows before anybody waits
    waits = run.waits or settings.join_timeout
    if earlier is not None:
        earlier, expected = _same_plan(run, place, earlier, expected, make_plan)
        waits = patience(run, settings.join_timeout, earlier.agreement.plan.wait_for_peers)
    timeouts = settings.timeouts(settings.calculation_timeout)
    with place.listen() as endpoint:
        party = run.maybe_party = _party(run, settings, Role.HOST, endpoint, timeouts, callbacks)
        known = earlier if earlier is not None and earlier.marks else None
        admission = Admission(
            task_digest(run.task_id),
            purpose,
            settings.feature_key,
            expected,
            terms=place.terms,
            ended=run.ended,
            going_on=known if run.waits or run.complete else None,
            partial=partial,
            check_usable=place.check_usable,
        )
        with party.in_phase("join"):
            run.maybe_agreement = gather(
                party,
                admission,
                lambda names: place.settle(make_plan(names)),
                join_timeout=waits,
                described=place.described,
                compare=place.compare,
                start="run serve_predictions there" if purpose == "predict" else "start them",
                earlier=earlier,
                check_keys=check_keys,
            )
        yield party


def _same_plan(
    run: Run,
    place: Place,
    earlier: Earlier,
    expected: Sequence[str] | int,
    make_plan: Callable[[tuple[str, ...]], Plan],
) -> tuple[Earlier, Sequence[str]]:
    """A run that has not ended under the plan of now, which has to be the one it began with; and
    whom it waits for.
    """
    begun = earlier.agreement.plan
    given = begun.collaborators if isinstance(expected, int) else tuple(expected)
    plan = place.settle(make_plan(given))
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
    """Find the Host and wait until everybody is there.

    Args:
        run: gets its party and what was agreed on.
        settings: the settings of the Collaborator.
        callbacks: get every event.
        purpose: what the parties meet for.
        trainable: whether this party's features take gradients.
        earlier: what this party holds of a run that has not ended.
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
        objections=functools.partial(place.differences, partial=purpose == "predict"),
        earlier=earlier,
    )
    run.maybe_party = party
    if host.name == settings.feature_key:
        raise DuplicatePartyError(party=settings.feature_key)
    check_expected(settings.agreed, run.plan)
    run.mask_secrets = _mask_secrets(settings.feature_key, key, run.agreement, place)
    yield party


def _party(
    run: Run,
    settings: Settings,
    role: Role,
    endpoint: Endpoint,
    timeouts: Timeouts,
    callbacks: Sequence[Callback],
) -> Party:
    return Party(
        settings.feature_key,
        role,
        endpoint,
        timeouts=timeouts,
        callbacks=callbacks,
        account=run.account,
    )


def _mask_secrets(party: str, key: MaskKey, agreement: Agreement, place: Place) -> dict[str, bytes]:
    """What this party shares with each other Collaborator, where the Host gets only their sum."""
    if not agreement.mask_keys:
        return {}
    keys = dict(zip(agreement.plan.collaborators, agreement.mask_keys, strict=True))
    if keys.pop(party) != key.public:
        raise RemoteProtocolError(f"the Host relayed another masking key of {party} than its own")
    # Told other plans or secrets, from which batches are drawn, or sent back to other checkpoints,
    # they share nothing: no mask comes off.
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
    """Where the parties meet; the run learns where it is counted what leaves this party."""
    place = settings.place
    if place is None:
        # Predictions and rehearsals are within the terms of the task that trains; a count of
        # common ids says less than either kind of task.
        task: Purpose | None = "psi" if purpose == "psi" else "train"
        if purpose == "overlap":
            task = None
        place = place_of(run.task_id, settings.feature_key, role, task, insecure=settings.insecure)
    logger.info("task %s: meeting %s", run.task_id, place.described)
    run.ledger, run.simulated = place.ledger, place.simulated
    run.meeting, run.terms, run.secured = place.described, place.terms, place.secured
    return place
