"""A party at work: its peers, their mail, its waits and deadlines, and how it ends.

The thin shell around the protocol core: here, and only here, sessions meet the transport and the
clock. Knows no torch, no hooks and no particular phase.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from heterofed.errors import (
    HeteroFedError,
    InternalError,
    LocalProtocolError,
    PeerLostError,
    PeerTimeoutError,
    RemoteProtocolError,
    TaskFailed,
    aborted,
)
from heterofed.events import Callback, Event, PhaseBegan, PhaseEnded, Progressed, StillWaiting
from heterofed.protocol.messages import Abort, Bye, Hello, Message, Waiting
from heterofed.protocol.session import Session
from heterofed.protocol.states import Role
from heterofed.transport.base import Channel, Endpoint, Lost, Opened, Received
from heterofed.wire import Buffer, Decoder, encode, payload_size

logger = logging.getLogger("heterofed")

M = TypeVar("M", bound=Message)

NOTICE_SECONDS = 10.0
"""How often a wait says whom it waits for."""

ABORT_LINGER = 2.0
"""Seconds that a party gives its last words."""

POLL_SECONDS = 0.5
HIGH_WATER = 8 << 20
LOW_WATER = 2 << 20


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of silence that this party bears; see the schedulers' constructors.

    Attributes:
        calculation: of a peer that runs user code or heavy compute; 0: no limit.
        schedule: of a peer that runs no user code.
        moving: without a byte, while one message is moving.
    """

    calculation: float = 300.0
    schedule: float = 30.0
    moving: float = 60.0


@dataclass(frozen=True, slots=True)
class Mail:
    """A message of a peer that its session has accepted, with its payload."""

    message: Message
    payload: bytearray

    def of(self, kind: type[M]) -> M:
        """The message as the one kind that it was asked for as."""
        if not isinstance(self.message, kind):
            raise LocalProtocolError(f"a {type(self.message).__name__} is not a {kind.__name__}")
        return self.message


class Peer:
    """One other party as seen from here.

    Attributes:
        name: its feature key; a provisional name before its Hello was accepted.
        inbox: what it sent and nobody has taken.
    """

    def __init__(self, name: str, channel: Channel, role: Role, now: float) -> None:
        self.name = name
        self.channel = channel
        self.session = Session(role)
        self.decoder = Decoder(self.session.admit)
        self.inbox: deque[Mail] = deque()
        self.turn_began = now  # its last message, or ours to it: since then it may be at work
        self.byte_came = now
        self.host_waits_for: str | None = None


class Party:
    """This party's end of a task.

    Args:
        name: feature key of this party.
        role: its role.
        endpoint: its transport; closed by `close`.
        timeouts: see `Timeouts`; may be replaced when the plan is known.
        callbacks: get every event; one that raises is logged and left out from then on.
        clock: seconds that only go up.

    Attributes:
        peers: the parties of the task, by feature key, in task order.
        visitors: connections that have not been admitted.
        door: judges each visitor's Hello: the code of a refusal, or None to admit it. Stays in
            place after everybody is there, and then refuses.
        phase, round, batch: where the task stands, for messages and errors.
    """

    def __init__(
        self,
        name: str,
        role: Role,
        endpoint: Endpoint,
        *,
        timeouts: Timeouts,
        callbacks: Sequence[Callback] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.role = role
        self.timeouts = timeouts
        self.clock = clock
        self.peers: dict[str, Peer] = {}
        self.visitors: dict[Channel, Peer] = {}
        self.door: Callable[[Peer, Hello], str | None] = lambda _peer, _hello: "stranger"
        self.phase = "join"
        self.round = 0
        self.batch: int | None = None
        self.bytes_sent = self.bytes_received = 0
        self._endpoint = endpoint
        self._callbacks = list(callbacks)
        self._by_channel: dict[Channel, Peer] = {}

    # -- who is there ----------------------------------------------------------------------

    def admit(self, visitor: Peer, name: str) -> None:
        """Make a visitor the task's peer of this name."""
        self.visitors.pop(visitor.channel, None)
        visitor.name = name
        self.peers[name] = visitor
        self._by_channel[visitor.channel] = visitor

    def turn_away(self, visitor: Peer, code: str | None = None) -> None:
        """Close a visitor's connection, with an Abort where `code` says why."""
        self.visitors.pop(visitor.channel, None)
        if code is not None and not visitor.session.ended:
            self._say_abort(visitor, Abort(code, "join", self.name))
            self._endpoint.flush(0.2)
        visitor.channel.close()

    # -- mail ------------------------------------------------------------------------------

    def post(self, peer: Peer, message: Message, payload: Sequence[Buffer] = ()) -> None:
        """Send a message; waits only where the peer is far behind in reading.

        Raises:
            LocalProtocolError: the session does not allow it now.
            PeerLostError: the connection broke.
            PeerTimeoutError: the peer has stopped reading.
        """
        self._put(peer, message, payload)
        if peer.channel.pending > HIGH_WATER:
            self._let_drain(peer)

    def broadcast(self, message: Message) -> None:
        """Send a message to every peer."""
        for peer in self.peers.values():
            self.post(peer, message)

    def take(self, peer: Peer, *kinds: type[Message], computing: bool = True) -> Mail:
        """Wait for the next message of a peer.

        Args:
            peer: whose mail.
            kinds: what it may be.
            computing: whether the peer may be running user code or heavy compute meanwhile.

        Raises:
            TaskAborted: it, or another peer, ended the task.
            PeerLostError: a connection broke.
            PeerTimeoutError: it was silent for longer than allowed.
            RemoteProtocolError: it said something else.
        """
        began = noticed = self.clock()
        while not peer.inbox:
            self.pump(POLL_SECONDS)
            now = self.clock()
            if now - noticed >= NOTICE_SECONDS and not peer.inbox:
                noticed = now
                self.notice_waiting([peer.name], now - began)
            self._check_silence(peer, computing, now)
        mail = peer.inbox.popleft()
        if not isinstance(mail.message, kinds):
            raise self.blame(peer, f"said {type(mail.message).__name__} unexpectedly")
        return mail

    def take_leave(self, peer: Peer) -> None:
        """Wait for a peer's Bye; all it had to keep is kept, so its loss is only a warning."""
        try:
            self.take(peer, Bye, computing=False)
        except (PeerLostError, PeerTimeoutError) as error:
            logger.warning("%s did not say goodbye: %s", peer.name, error)

    def notice_waiting(self, names: Collection[str], seconds: float) -> None:
        """Tell the user, and as Host the other peers, whom this party is waiting for."""
        names = tuple(names)
        behind = next((p.host_waits_for for p in self.peers.values() if p.host_waits_for), None)
        self.emit(StillWaiting((*names, behind) if behind else names, seconds))
        if self.role is Role.HOST:
            for peer in self.peers.values():
                if peer.name not in names and not peer.session.ended:
                    self._put(peer, Waiting(names[0]))

    def pump(self, timeout: float) -> None:
        """Take in what the transport has, for at most `timeout` seconds of waiting.

        Raises:
            TaskAborted, PeerLostError, RemoteProtocolError: a peer ended the task, is gone, or
                broke the protocol. Visitors that do are turned away, nothing else.
        """
        for event in self._endpoint.poll(timeout):
            match event:
                case Opened(channel):
                    visitor = Peer("a visitor", channel, self.role, self.clock())
                    self.visitors[channel] = visitor
                case Received(channel, frame):
                    self._receive(channel, frame)
                case Lost(channel, reason):
                    self._lose(channel, reason)

    def blame(self, peer: Peer, what: str) -> RemoteProtocolError:
        """A protocol error that names the peer, and where the task stood."""
        return RemoteProtocolError(
            f"{peer.name} {what} (phase {self.phase}); run the same version of heterofed at every"
            " party, and do not trust a party where it stays",
            party=peer.name,
        )

    # -- phases ----------------------------------------------------------------------------

    @contextmanager
    def in_phase(
        self,
        phase: str,
        *,
        round_number: int = 0,
        total: int | None = None,
        unit: str = "",
    ) -> Iterator[None]:
        """Note that the task is in `phase` (of a round), and what it cost."""
        self.phase, self.round, self.batch = phase, round_number or self.round, None
        began, sent, received = self.clock(), self.bytes_sent, self.bytes_received
        self.emit(PhaseBegan(phase, total, unit, round_number))
        yield
        self.batch = None
        self.emit(
            PhaseEnded(
                phase,
                self.clock() - began,
                self.bytes_sent - sent,
                self.bytes_received - received,
                round_number,
            )
        )

    def progress(self, done: int, total: int | None = None) -> None:
        """Note that `done` units of the phase are done."""
        self.emit(Progressed(done, total))

    def emit(self, event: Event) -> None:
        """Hand an event to the callbacks."""
        for callback in list(self._callbacks):
            try:
                callback(event)
            except Exception:
                self._callbacks.remove(callback)
                logger.exception("a callback raised and is left out from here on")

    # -- the end ---------------------------------------------------------------------------

    def abort(self, error: BaseException, code: str) -> None:
        """Tell every peer that the task has ended; for at most `ABORT_LINGER` seconds."""
        told = self._abort_message(error, code)
        for peer in [*self.peers.values(), *self.visitors.values()]:
            if not peer.session.ended:
                self._say_abort(peer, told)
        self._endpoint.flush(ABORT_LINGER)

    def close(self, linger: float = ABORT_LINGER) -> None:
        """Close every connection."""
        self._endpoint.close(linger)

    # -- within ----------------------------------------------------------------------------

    def _put(self, peer: Peer, message: Message, payload: Sequence[Buffer] = ()) -> None:
        frames = encode(message, payload)
        peer.session.send(message, payload_size(payload))
        try:
            peer.channel.send(frames)
        except HeteroFedError as error:
            peer.session.lost()
            raise self._gone(peer.name, "disconnected") from error
        self.bytes_sent += payload_size(frames)
        peer.turn_began = self.clock()

    def _let_drain(self, peer: Peer) -> None:
        least, since = peer.channel.pending, self.clock()
        while peer.channel.pending > LOW_WATER:
            self._endpoint.flush(POLL_SECONDS)  # room shows there; what came is taken in next
            self.pump(0)
            if peer.channel.pending < least:
                least, since = peer.channel.pending, self.clock()
            elif self.clock() - since > max(self.timeouts.moving, self.timeouts.calculation):
                raise self._silent(peer, self.clock() - since, "taken nothing of what it is sent")

    def _receive(self, channel: Channel, frame: Buffer) -> None:
        peer = self._by_channel.get(channel) or self.visitors.get(channel)
        if peer is None:
            return
        self.bytes_received += len(frame)
        peer.byte_came = self.clock()
        try:
            complete = peer.decoder.feed(frame)
            if complete is None or not peer.session.receive(complete[0], len(complete[1])):
                return
        except RemoteProtocolError as error:
            if channel in self.visitors:
                logger.warning("turned a visitor away: %s", error)
                self.turn_away(peer)
                return
            raise self.blame(peer, f"broke the protocol: {error}") from None
        peer.turn_began = self.clock()
        message, payload = complete
        match message:
            case Waiting():
                peer.host_waits_for = message.party
            case Hello():
                self._greet(peer, message)
            case Abort() if self.phase == "join" and self.role is Role.HOST:
                self._drop(peer)
            case Abort():
                raise self._ended_by(peer, message)
            case _:
                peer.host_waits_for = None
                peer.inbox.append(Mail(message, payload))

    def _greet(self, visitor: Peer, hello: Hello) -> None:
        refusal = self.door(visitor, hello)
        if refusal is None:
            self.admit(visitor, hello.party)
            logger.info("%s is here", hello.party)
        else:
            logger.warning("turned %r away: %s", hello.party, refusal)
            self.turn_away(visitor, refusal)

    def _drop(self, peer: Peer) -> None:
        """Forget a party that left before the task began: it may come again."""
        peer.session.lost()
        peer.channel.close()
        self.visitors.pop(peer.channel, None)
        if self._by_channel.pop(peer.channel, None):
            self.peers.pop(peer.name, None)
            logger.info("%s has left", peer.name)

    def _lose(self, channel: Channel, reason: str) -> None:
        peer = self._by_channel.get(channel)
        if self.role is Role.HOST and (peer is None or self.phase == "join"):
            if peer := peer or self.visitors.get(channel):
                self._drop(peer)
        elif peer is None:
            raise self._gone("the Host", reason)
        elif not peer.session.ended:
            peer.session.lost()
            raise self._gone(peer.name, reason)

    def _gone(self, name: str, reason: str) -> PeerLostError:
        return PeerLostError(
            f"lost the connection to {name} in phase {self.phase} ({reason}): its process"
            " ended or the network broke; see its log, then start all parties again",
            party=name,
        )

    def _check_silence(self, peer: Peer, computing: bool, now: float) -> None:
        if peer.inbox:
            return
        if peer.decoder.moving and now - peer.byte_came > self.timeouts.moving:
            raise self._silent(peer, now - peer.byte_came, "stopped in the middle of a message")
        limit = self.timeouts.calculation if computing else self.timeouts.schedule
        silence = now - peer.turn_began
        if silence > limit and (limit or not computing):
            raise self._silent(peer, silence, "said nothing")

    def _silent(self, peer: Peer, seconds: float, what: str) -> PeerTimeoutError:
        return PeerTimeoutError(
            f"{peer.name} has {what} for {seconds:.0f} s in phase {self.phase}, though it is"
            " connected; if its hooks need that long, raise calculation_timeout at the Host",
            party=peer.name,
        )

    def _ended_by(self, peer: Peer, told: Abort) -> TaskFailed:
        kind = aborted(told.code)
        # The Host speaks for all; a Collaborator cannot blame a party that is not here.
        known = self.role is Role.COLLABORATOR or told.party in {self.name, *self.peers}
        party = told.party if known else peer.name
        numbers = told.numbers if len(told.numbers) == 2 else (0, 0)
        where = f" in phase {told.phase}" if told.phase else ""
        where += f", round {told.round}" if told.round else ""
        where += f", batch {told.batch}" if told.batch is not None else ""
        return kind(
            f"{party} ended the task{where}: {kind.summary.format(*numbers)}",
            party=party,
            phase=told.phase,
            round=told.round,
            batch=told.batch,
            numbers=told.numbers,
        )

    def _abort_message(self, error: BaseException, code: str) -> Abort:
        if isinstance(error, TaskFailed):
            return Abort(
                code,
                error.phase or self.phase,
                error.party or self.name,
                error.round or self.round,
                error.batch if error.batch is not None else self.batch,
                error.numbers[:2],
            )
        return Abort(code, self.phase, self.name, self.round, self.batch)

    def _say_abort(self, peer: Peer, told: Abort) -> None:
        try:
            frames = encode(told)
        except LocalProtocolError:  # an error with numbers or names that cannot travel
            frames = encode(told := Abort(InternalError.code, "", self.name))
        try:
            peer.session.send(told)
            peer.channel.send(frames)
        except HeteroFedError:
            peer.session.lost()  # nobody is left to be told


def abort_code(error: BaseException, failed_hook: str | None) -> str:
    """The code by which the other parties learn what ended the task."""
    if isinstance(error, TaskFailed):
        return error.code
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    return "hook" if failed_hook else InternalError.code
