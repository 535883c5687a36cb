"""Determines where the parties of a task meet, how they prove their identity, and on what terms.

Without a task file they meet at a Unix socket, which only this user can reach and which is found by
the task id. With a task file they use TCP: connections are encrypted, and each one is authenticated
as its party's (CURVE). TCP without keys is refused unless `insecure=True` asks for it. TCP
connections break, so with TCP a channel is a link that outlives its connections. A Unix socket
breaks only when a process ends.
"""

from __future__ import annotations

import difflib
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import structs

from heterofed.errors import ConfigError
from heterofed.files import close_to_others, heterofed_home, private_folder
from heterofed.identity import consent
from heterofed.identity.keys import Key, fingerprint, key_path, load_key
from heterofed.identity.signing import load_signing_key
from heterofed.identity.task_file import known_task, known_tasks
from heterofed.identity.task_terms import (
    Purpose,
    TaskFile,
    differences,
    settle,
    shown_plan,
    terms_digest,
    with_decisions,
)
from heterofed.protocol.plan import Plan, of_prediction
from heterofed.protocol.states import Role
from heterofed.rendezvous.local import HostLock, local_address, lock_path
from heterofed.rendezvous.refused_keys import Strangers
from heterofed.rendezvous.ways import as_a, naming
from heterofed.transport import zeromq
from heterofed.transport.base import MAX_CHANNELS, Endpoint
from heterofed.transport.names import HostName
from heterofed.transport.reliable.connector import ReliableConnector
from heterofed.transport.reliable.listener import ReliableListener
from heterofed.transport.zeromq.answers import Answer, who_answers
from heterofed.transport.zeromq.zap import ClientKeys, ServerKeys, raw_key

logger = logging.getLogger("heterofed")


MAX_FILES = 1 << 16

FIRST_BYTES = 256 << 10
"""The most bytes that a connection may bring before any of them was read. Two greetings fit into
it.
"""

FIRST_FRAMES = 4
"""The number of frames of a newcomer that are kept until it is admitted. Honest ones send Hello and
wait.
"""


@contextmanager
def room_for_strangers() -> Iterator[None]:
    """Raise this process's limit of open files, as far as allowed, while strangers can connect.

    A connection takes a file descriptor until its handshake has failed or the `limiter` closes it.
    Without free descriptors this party could not open its own files.
    """
    if sys.platform == "win32":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Place(ABC):
    """The place where the parties of one task meet.

    Attributes:
        described: a description of the place for messages.
        compare: a text that says what all parties should compare if a party does not connect.
        terms: the task file's terms in their canonical form; empty without a task file.
        purpose: the purpose for which the parties meet, which other processes of this machine are
            told; empty if it is not known.
    """

    described: str
    compare: str = ""
    terms: bytes = b""
    purpose: str = ""

    simulated = False
    """Whether all parties are in this process, so that nothing is disclosed."""

    secured = False
    """Whether all parties prove their identity by a key, and everything sent is encrypted."""

    @property
    def ledger(self) -> Path:
        """The folder that counts, over all runs, what others received from this party."""
        return heterofed_home()

    @abstractmethod
    @contextmanager
    def listen(self) -> Iterator[Endpoint]:
        """Yield the Host's endpoint; this party's claim to the place ends with the block."""
        yield  # type: ignore[misc]

    @abstractmethod
    def connect(self) -> Endpoint:
        """Return a Collaborator's endpoint, which makes one attempt to reach the Host."""

    def diagnose(self) -> str:
        """Return why a handshake with the Host fails; empty if the reason is unknown or is the
        keys.
        """
        return ""

    def is_silent(self) -> bool:
        """Return whether something accepts connections for the Host and says nothing of its own."""
        return False

    def expected(self, given: Sequence[str] | int, *, partial: bool = False) -> Sequence[str] | int:
        """Return the Collaborators for which the Host waits.

        Args:
            given: the number of Collaborators or their feature keys, as given by the constructor or
                the caller.
            partial: whether a part of the task's Collaborators is enough.

        Raises:
            ConfigError: they are not those of the task.
        """
        del partial
        return given

    def check_usable(self) -> None:  # noqa: B027 - nothing expires without a task file
        """Check that the terms still hold.

        Raises:
            ConfigError: a key or the task has expired.
        """

    def settle(self, plan: Plan, *, trains: bool = True) -> Plan:
        """Return the Host's plan with the terms applied.

        Args:
            plan: the plan that follows from the Host's settings.
            trains: whether the task trains, so that the terms of training must agree.

        Raises:
            ConfigError: the plan and the terms differ; the message names every field.
        """
        del trains
        return plan

    def identities(self, other: str) -> tuple[bytes, bytes] | None:
        """Return this party's long-lived secret key and another party's public key, 32 bytes each.

        The result is None if the keys are not known.
        """
        del other
        return None

    def differences(
        self, plan: Plan, *, partial: bool = False, predicts: bool = False
    ) -> list[str]:
        """Return the fields in which an announced plan differs from what this party agreed to.

        Args:
            plan: the plan that the Host announced.
            partial: whether some of the task's Collaborators may be missing in it.
            predicts: whether a finished model predicts.
        """
        del plan, partial, predicts
        return []


def place_of(
    task_id: str, party: str, role: Role, purpose: Purpose | None, *, insecure: bool = False
) -> Place:
    """Return the place where a party meets the others of a task.

    Args:
        task_id: the id of the task.
        party: the feature key of this party.
        role: the role of this party.
        purpose: the purpose of the task; None accepts the terms of any purpose.
        insecure: whether TCP without keys is allowed.

    Raises:
        ConfigError: the task file, the keys or this party's consent do not allow it.
    """
    home = heterofed_home()
    private_folder(home, "tasks", make=False)
    task = known_task(task_id, home)
    if task is None:
        if key_path(party, home).exists():
            logger.warning("%s", _no_file(task_id, party, home))
        return LocalPlace(task_id, home)
    digest = terms_digest(task.terms())
    try:
        place = TaskPlace(task, party, home, insecure=insecure)
        _check_part(task, task_id, party, role, purpose)
        if role is Role.COLLABORATOR and not consent.has_accepted(home, task_id, party, digest):
            raise ConfigError(
                f"{party} has not accepted the terms of task {task_id!r} as they are now: look at"
                f" them and accept them with `heterofed task accept {task_id}`"
            )
    except ConfigError as error:
        consent.record(home, "refused", task=task_id, party=party, digest=digest, why=str(error))
        raise
    consent.record(home, "started", task=task_id, party=party, digest=digest)
    return place


def _no_file(task_id: str, party: str, home: Path) -> str:
    """Return a message that says what to do if a party has keys but no file of this task."""
    known = known_tasks(home)
    near = difflib.get_close_matches(task_id, known, n=1)
    hint = f"did you mean {near[0]!r}? There" if near else "There"
    return (
        f"{party} has a key on this machine, but there is no file of task {task_id!r}, so only"
        f" parties of the same user on this machine can meet it. If the others are elsewhere, stop,"
        f" and put the Host's file in place with `heterofed task accept FILE`; {hint} are files of:"
        f" {', '.join(known) or 'no task'}"
    )


def _check_part(
    task: TaskFile, task_id: str, party: str, role: Role, purpose: Purpose | None
) -> None:
    if task.task != task_id:
        raise ConfigError(f"the file of task {task_id!r} is of task {task.task!r}; rename it")
    if purpose is not None and task.purpose != purpose:
        raise ConfigError(
            f"task {task_id!r} is for {task.purpose!r} and this scheduler for {purpose!r}; use the"
            " other kind of scheduler, or another task"
        )
    is_host = task.member(party) is task.host
    if is_host != (role is Role.HOST):
        part = "the Host" if is_host else "a Collaborator"
        way = as_a(Role.HOST if is_host else Role.COLLABORATOR)
        raise ConfigError(
            f"in task {task_id!r} {party} is {part}: start it with {way}, or give another"
            f" {naming()}"
        )


class LocalPlace(Place):
    """A Unix socket that every party of this user finds by the task id."""

    def __init__(self, task_id: str, home: Path) -> None:
        self._home, self._local = home, local_address(task_id, home)
        self.described = "on this machine, as one user: there is no task file of that name"
        self.compare = (
            f"the task id ({task_id!r}) and HETEROFED_HOME ({home}) with theirs; parties on other"
            " machines need the task file (heterofed task accept)"
        )

    @contextmanager
    def listen(self) -> Iterator[Endpoint]:
        place = self._local
        with HostLock(place.task_id, place.lock, place.socket, doing=self.purpose):
            endpoint = zeromq.listen(self._local.address)
            close_to_others(place.socket)
            yield endpoint

    def connect(self) -> Endpoint:
        private_folder(self._home, "run")  # another user may have replaced it since
        return zeromq.connect(self._local.address)


class TaskPlace(Place):
    """The address of a task file, with its keys.

    Raises:
        ConfigError: a key is missing, foreign, expired or revoked, or there is none at all.
    """

    def __init__(self, task: TaskFile, party: str, home: Path, *, insecure: bool = False) -> None:
        self.task, self._home = task, home
        self.described = f"at {task.address}"
        self.compare = (
            f"the task id ({task.task!r}), the task file and the address ({task.address}) with"
            f" theirs: run `heterofed task check {task.task}` there"
        )
        self.strangers = Strangers(task.task)
        self._name = HostName(task.address)
        self.terms = task.terms()
        member = task.member(party)
        task.check_usable()
        if member.signing is not None and load_signing_key(party, home).public != member.signing:
            raise ConfigError(
                f"the signing key of {party} on this machine is not the one that the file of task"
                f" {task.task!r} lists; bring the right one, or have all parties list what"
                f" `heterofed keys signing {party}` prints"
            )
        self._key: Key | None = None
        if not task.is_keyless:
            self._key = load_key(party, home)
            if self._key.public != member.key:
                raise ConfigError(
                    f"the key of {party} on this machine ({self._key.fingerprint}) is not the one"
                    f" that the file of task {task.task!r} lists ({fingerprint(member.key or '')});"
                    " bring the right one, or have all parties list the new one"
                )
            self.secured = True
        elif not insecure:
            raise ConfigError(
                f"the file of task {task.task!r} lists no keys, so anybody on the way could read"
                " and change everything: make keys (heterofed keys new) and list them, or pass"
                " insecure=True"
            )
        else:
            logger.warning(
                "INSECURE: task %s runs over %s WITHOUT keys: no encryption, and anybody can claim"
                " to be any party",
                task.task,
                task.address,
            )

    @contextmanager
    def listen(self) -> Iterator[Endpoint]:
        keys = None
        if self._key is not None:
            parties = {each.party: each.key or "" for each in self.task.collaborators}
            keys = ServerKeys(self._key.public, self._key.secret, parties, self.strangers.note)
        lock = lock_path(self.task.task, self._home)
        with HostLock(self.task.task, lock, doing=self.purpose), room_for_strangers():
            try:
                # A connection that died unnoticed may exist beside its successor.
                below = zeromq.listen(
                    self.task.listens_at,
                    keys=keys,
                    max_channels=2 * MAX_CHANNELS,
                    first_bytes=FIRST_BYTES,
                )
            except ConfigError as error:
                raise ConfigError(
                    f"{error}; stop what listens there, or set `bind` in the task file to an"
                    " address of this machine"
                ) from None
            yield ReliableListener(below, first_frames=FIRST_FRAMES)

    def connect(self) -> Endpoint:
        self._name.check()
        keys = None
        if self._key is not None:
            host = self.task.host
            keys = ClientKeys(self._key.public, self._key.secret, host.key or "", host.party)
        return ReliableConnector(lambda: zeromq.connect(self.task.address, keys=keys))

    def diagnose(self) -> str:
        found, wanted = who_answers(self.task.address), Answer.NULL
        if self._key is not None:
            wanted = Answer.CURVE
        if found in (wanted, Answer.NOBODY):
            return ""
        if found in (Answer.CURVE, Answer.NULL):
            return (
                f"what answers at {self.task.address} is {found.value}, and by this party's task"
                f" file it is {wanted.value}; use the same task file at all parties"
            )
        return (
            f"what answers at {self.task.address} is no heterofed Host but {found.value}: compare"
            " the address and port in the task file with those that the Host listens at; a proxy"
            " or another server may be there"
        )

    def is_silent(self) -> bool:
        return who_answers(self.task.address) is Answer.NOTHING

    def check_usable(self) -> None:
        self.task.check_usable()

    def identities(self, other: str) -> tuple[bytes, bytes] | None:
        if self._key is None:
            return None
        return raw_key(self._key.secret), raw_key(self.task.member(other).key or "")

    def expected(self, given: Sequence[str] | int, *, partial: bool = False) -> Sequence[str] | int:
        agreed = [each.party for each in self.task.collaborators]
        if partial and not isinstance(given, int) and set(given) <= set(agreed):
            return [each for each in agreed if each in given]
        named = len(agreed) if given == 1 else given  # 1: the default, where a file says it
        if named not in (len(agreed), agreed):
            raise ConfigError(
                f"collaborators={given!r}, and the file of task {self.task.task!r} lists"
                f" {', '.join(agreed)}; leave it out, or give those"
            )
        return agreed

    def settle(self, plan: Plan, *, trains: bool = True) -> Plan:
        return settle(plan, self.task, trains=trains)

    def differences(
        self, plan: Plan, *, partial: bool = False, predicts: bool = False
    ) -> list[str]:
        agreed = with_decisions(self.task.make_plan(), plan)
        if partial:
            here = tuple(each for each in agreed.collaborators if each in plan.collaborators)
            agreed = structs.replace(agreed, collaborators=here)
        if predicts:
            agreed = of_prediction(agreed)
        return differences(shown_plan(agreed), shown_plan(plan))
