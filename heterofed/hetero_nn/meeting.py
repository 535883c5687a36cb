"""Where the parties of a task meet: which endpoint a Host opens, and where a Collaborator knocks.

Without configuration that is a Unix-domain socket which both find by the task id.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from heterofed.errors import DuplicatePartyError
from heterofed.events import Callback
from heterofed.lifecycle import Run, Settings
from heterofed.party import Party, Timeouts
from heterofed.plan import Plan
from heterofed.protocol.messages import PROTOCOL_VERSION, Hello
from heterofed.protocol.states import Role
from heterofed.rendezvous import Door, Purpose, gather, join, task_digest
from heterofed.transport import zeromq
from heterofed.transport.local import HostLock, heterofed_home, local_address


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
