"""How a scheduler meets the other parties: its settings checked, its role at the task's place."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import msgspec

import psi
from heterofed.errors import (
    ConfigError,
    DuplicatePartyError,
    OtherSettingsError,
    RemoteProtocolError,
)
from heterofed.events import Callback
from heterofed.identity.task_terms import Purpose
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Timeouts
from heterofed.privacy.mask_keys import MaskKey, check_keys
from heterofed.protocol.messages import PROTOCOL_VERSION, Hello
from heterofed.protocol.plan import MAX_PARTIES, MAX_PEER_IDS, KeyBits, Plan, PSIProtocol
from heterofed.protocol.states import Role
from heterofed.rendezvous.admission import Door
from heterofed.rendezvous.agreement import Agreement, Earlier, Errand, check_same_plan, task_digest
from heterofed.rendezvous.backend import Place, place_of
from heterofed.rendezvous.join import gather, join
from heterofed.reporting.results import check_name
from heterofed.runs.run import Run, awaited, patience
from heterofed.runs.settings import Settings, is_count

logger = logging.getLogger("heterofed")


def check_collaborators(expected: object, host: str) -> None:
    """Check whom a Host is told to wait for.

    Raises:
        ConfigError: neither a number of parties nor a list of unique feature keys of others.
    """
    if isinstance(expected, int) and not isinstance(expected, bool):
        if not 1 <= expected <= MAX_PARTIES:
            raise ConfigError(f"collaborators={expected}: give 1 to {MAX_PARTIES}")
        return
    names = (
        [] if isinstance(expected, str | bool) or not isinstance(expected, Sequence) else expected
    )
    if not 1 <= len(names) <= MAX_PARTIES or len(set(names)) != len(names):
        raise ConfigError(
            f"collaborators={expected!r}: give a number, or a list of unique feature keys"
        )
    for each in names:
        check_name(each, "collaborators")
    if host in names:
        raise ConfigError(f"collaborators={expected!r} lists {host}, which is the Host itself")


def check_psi(protocol: PSIProtocol, bits: object, max_peer_ids: int) -> None:
    """Check how ids are to be intersected.

    Raises:
        ConfigError: a protocol or a key size that there is not, a number of ids that cannot be, or
            a protocol that this machine cannot compute.
    """
    if protocol not in get_args(PSIProtocol):
        raise ConfigError(f"psi_protocol={protocol!r}: give {' or '.join(get_args(PSIProtocol))}")
    try:
        psi.check_protocol(protocol)
    except psi.LibraryError as error:
        raise ConfigError(f"psi_protocol={protocol!r}: {error}; or choose 'rsa'") from error
    if not is_count(max_peer_ids, 1) or max_peer_ids > MAX_PEER_IDS:
        raise ConfigError(f"max_peer_ids={max_peer_ids!r}: give 1 to {MAX_PEER_IDS}")
    if bits not in get_args(KeyBits):
        raise ConfigError(
            f"psi_bits={bits!r}: give one of {', '.join(map(str, get_args(KeyBits)))}"
        )


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
    settings: Settings,
    callbacks: Sequence[Callback],
    *,
    purpose: Errand,
    expected: Sequence[str] | int,
    timeouts: Timeouts,
    make_plan: Callable[[tuple[str, ...]], Plan],
    earlier: Earlier | None = None,
    partial: bool = False,
) -> Iterator[Party]:
    """Open the task's door, wait until everybody is there, announce the plan.

    With `partial`, whoever is missing after `join_timeout` is left out.
    """
    place = _place(run, settings, Role.HOST, purpose)
    run.ledger = place.ledger
    logger.info("task %s: meeting %s", run.task_id, place.described)
    run.ledger, run.simulated = place.ledger, place.simulated
    expected = place.expected(expected, partial=partial)
    if not isinstance(expected, int):
        place.settle(make_plan(tuple(expected)))  # what does not fit shows before anybody waits
    waits = run.waits or settings.join_timeout
    if earlier is not None:
        begun = earlier.agreement.plan
        given = begun.collaborators if isinstance(expected, int) else tuple(expected)
        plan = place.settle(make_plan(given))
        check_same_plan(begun, plan)
        earlier = replace(earlier, agreement=replace(earlier.agreement, plan=plan))
        expected = awaited(run) if run.complete else begun.collaborators
        waits = patience(run, settings.join_timeout, plan.wait_for_peers)
    with place.listen() as endpoint:
        party = run.party = Party(
            settings.feature_key,
            Role.HOST,
            endpoint,
            timeouts=timeouts,
            callbacks=callbacks,
            account=run.account,
        )
        going_on = earlier if (run.waits or run.complete) and earlier and earlier.marks else None
        door = Door(
            task_digest(run.task_id),
            purpose,
            settings.feature_key,
            expected,
            terms=place.terms,
            ended=run.ended,
            going_on=going_on,
            partial=partial,
            check_usable=place.check_usable,
        )
        with party.in_phase("join"):
            run.agreement = gather(
                party,
                door,
                lambda names: place.settle(make_plan(names)),
                join_timeout=waits,
                described=place.described,
                compare=place.compare,
                start="run serve_predictions there" if purpose == "predict" else "start them",
                earlier=earlier,
                check_keys=check_keys,
            )
        yield party


@contextmanager
def as_collaborator(
    run: Run,
    settings: Settings,
    callbacks: Sequence[Callback],
    *,
    purpose: Errand,
    timeouts: Timeouts,
    trainable: bool,
    earlier: Earlier | None = None,
) -> Iterator[Party]:
    """Find the Host and wait until everybody is there."""
    place = _place(run, settings, Role.COLLABORATOR, purpose)
    logger.info("task %s: meeting %s", run.task_id, place.described)
    run.ledger, run.simulated = place.ledger, place.simulated
    key = MaskKey()
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
    party, host, run.agreement = join(
        place.connect,
        lambda endpoint: Party(
            settings.feature_key,
            Role.COLLABORATOR,
            endpoint,
            timeouts=timeouts,
            callbacks=callbacks,
            account=run.account,
        ),
        hello,
        link_timeout=settings.data_channel_timeout[0],
        join_timeout=patience(run, settings.join_timeout),
        described=place.described,
        compare=place.compare,
        diagnose=place.diagnose,
        objections=functools.partial(place.differences, partial=purpose == "predict"),
        earlier=earlier,
    )
    run.party = party
    if host.name == settings.feature_key:
        raise DuplicatePartyError(party=settings.feature_key)
    check_expected(settings.agreed, run.agreement.plan)
    run.mask_secrets = _mask_secrets(settings.feature_key, key, run.agreement, place)
    yield party


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


def _place(run: Run, settings: Settings, role: Role, purpose: Errand) -> Place:
    place = settings.place
    if place is None:
        # Predictions and rehearsals are within the terms of the task that trains.
        task: Purpose = "psi" if purpose == "psi" else "train"
        place = place_of(run.task_id, settings.feature_key, role, task, insecure=settings.insecure)
    run.meeting, run.terms, run.secured = place.described, place.terms, place.secured
    return place
