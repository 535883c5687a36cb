"""Where the parties of a task meet: which endpoint a Host opens, and where a Collaborator knocks.

Without configuration that is a Unix-domain socket which both find by the task id.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

from heterofed.errors import ConfigError, DuplicatePartyError
from heterofed.events import Callback
from heterofed.lifecycle import Run, Settings
from heterofed.party import Party
from heterofed.peers import Timeouts
from heterofed.plan import MAX_PARTIES, KeyBits, Plan, PSIProtocol
from heterofed.protocol.messages import PROTOCOL_VERSION, Hello
from heterofed.protocol.states import Role
from heterofed.rendezvous import Door, Purpose, gather, join, task_digest
from heterofed.results import check_name
from heterofed.transport import zeromq
from heterofed.transport.local import HostLock, heterofed_home, local_address


def check_collaborators(expected: object) -> None:
    """Check whom a Host is told to wait for.

    Raises:
        ConfigError: neither a number of parties nor a list of unique feature keys.
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


def check_psi(protocol: object, bits: object) -> None:
    """Check how ids are to be intersected.

    Raises:
        ConfigError: a protocol or a key size that there is not.
    """
    if protocol not in get_args(PSIProtocol):
        raise ConfigError(f"psi_protocol={protocol!r}: give {' or '.join(get_args(PSIProtocol))}")
    if bits not in get_args(KeyBits):
        raise ConfigError(
            f"psi_bits={bits!r}: give one of {', '.join(map(str, get_args(KeyBits)))}"
        )


@contextmanager
def as_host(
    run: Run,
    settings: Settings,
    callbacks: Sequence[Callback],
    *,
    purpose: Purpose,
    expected: Sequence[str] | int,
    timeouts: Timeouts,
    make_plan: Callable[[tuple[str, ...]], Plan],
) -> Iterator[Party]:
    """Open the task's door on this machine, wait until everybody is there, announce the plan."""
    local = local_address(run.task_id, heterofed_home())
    with HostLock(local):
        endpoint = zeromq.listen(local.address)
        party = run.party = Party(
            settings.feature_key, Role.HOST, endpoint, timeouts=timeouts, callbacks=callbacks
        )
        door = Door(task_digest(run.task_id), purpose, settings.feature_key, expected)
        with party.in_phase("join"):
            run.agreement = gather(party, door, make_plan, join_timeout=settings.join_timeout)
        yield party


@contextmanager
def as_collaborator(
    run: Run,
    settings: Settings,
    callbacks: Sequence[Callback],
    *,
    purpose: Purpose,
    timeouts: Timeouts,
    trainable: bool,
) -> Iterator[Party]:
    """Find the Host on this machine and wait until everybody is there."""
    local = local_address(run.task_id, heterofed_home())
    hello = Hello(
        (PROTOCOL_VERSION,),
        purpose,
        task_digest(run.task_id),
        settings.feature_key,
        secrets.token_bytes(16),
        trainable,
    )
    party, host, run.agreement = join(
        lambda: zeromq.connect(local.address),
        lambda endpoint: Party(
            settings.feature_key,
            Role.COLLABORATOR,
            endpoint,
            timeouts=timeouts,
            callbacks=callbacks,
        ),
        hello,
        link_timeout=settings.data_channel_timeout[0],
        join_timeout=settings.join_timeout,
    )
    run.party = party
    if host.name == settings.feature_key:
        raise DuplicatePartyError(party=settings.feature_key)
    yield party
