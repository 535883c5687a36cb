"""A party at work: its peers, their mail, its waits and deadlines, and how it ends.

The thin shell around the protocol core: here, and only here, sessions meet the transport and the
clock. Knows no torch, no hooks and no particular phase.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from heterofed import endings
from heterofed.errors import (
    HeteroFedError,
    RemoteProtocolError,
    TaskFailed,
)
from heterofed.events import Callback, Event, PhaseBegan, PhaseEnded, Progressed, StillWaiting
from heterofed.peers import Mail, Peer, Timeouts
from heterofed.protocol.messages import Abort, Bye, Hello, Message, Waiting
from heterofed.protocol.states import Role
from heterofed.transport.base import Channel, Endpoint, Lost, Opened, Received
from heterofed.wire import Buffer, encode, payload_size

logger = logging.getLogger("heterofed")


NOTICE_SECONDS = 10.0
"""How often a wait says whom it waits for."""

ABORT_LINGER = 2.0
"""Seconds that a party gives its last words."""

POLL_SECONDS = 0.5
HIGH_WATER = 8 << 20
LOW_WATER = 2 << 20


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
            refusal = Abort(code, "join", self.name)
            self._say_abort(visitor, refusal, encode(refusal))
        visitor.channel.close()

    # -- mail ------------------------------------------------------------------------------

    def post(
        self,
        peer: Peer,
        message: Message,
        payload: Sequence[Buffer] = (),
        *,
        patient: bool = True,
    ) -> None:
        """Send a message; waits only where the peer is far behind in reading, if `patient`.

        Raises:
            LocalProtocolError: the session does not allow it now.
            PeerLostError: the connection broke.
            PeerTimeoutError: the peer has stopped reading.
        """
        self._put(peer, message, payload)
        if patient and peer.channel.pending > HIGH_WATER:
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
            what = f"said {type(mail.message).__name__} unexpectedly"
            raise endings.unlawful(peer.name, self.phase, what)
        return mail

    def take_leave(self, peer: Peer) -> None:
        """Wait for a peer's Bye; this party's work is done, so anything else is only a warning."""
        if self.peers.get(peer.name) is not peer:
            return  # it went while another one's goodbye was waited for
        try:
            self.take(peer, Bye)
        except TaskFailed as error:
            logger.warning("%s did not say goodbye: %s", error.party or peer.name, error)
            gone = error.party if error.party in self.peers else peer.name
            self.peers = {key: each for key, each in self.peers.items() if key != gone}
            self.take_leave(peer)  # unless it was this one that went

    def leave(self, host: Peer) -> None:
        """Say Bye to the Host; this party's work is done either way."""
        try:
            self.post(host, Bye())
        except TaskFailed as error:
            logger.warning("%s did not hear the goodbye: %s", host.name, error)

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
        for peer in self.peers.values():
            if peer.lost and not peer.inbox:
                raise endings.lost(peer.name, self.phase, peer.lost)

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
        abort, frames = endings.abort_frames(
            error, code, (self.name, self.phase, self.round, self.batch)
        )
        for peer in [*self.peers.values(), *self.visitors.values()]:
            if not peer.session.ended:
                self._say_abort(peer, abort, frames)
        self._endpoint.flush(ABORT_LINGER)

    def close(self, linger: float = ABORT_LINGER) -> None:
        """Close every connection."""
        self._endpoint.close(linger)

    # -- within ----------------------------------------------------------------------------

    def _put(self, peer: Peer, message: Message, payload: Sequence[Buffer] = ()) -> None:
        if peer.lost:
            raise endings.lost(peer.name, self.phase, peer.lost)
        frames = encode(message, payload)
        peer.session.send(message, payload_size(payload))
        try:
            peer.channel.send(frames)
        except HeteroFedError as error:
            peer.session.lost()
            raise endings.lost(peer.name, self.phase, "disconnected") from error
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
                seconds = self.clock() - since
                raise endings.silent(peer.name, self.phase, seconds, "taken nothing")

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
            if self.role is Role.HOST and (channel in self.visitors or self.phase == "join"):
                logger.warning("turned %s away: %s", peer.name, error)
                self._drop(peer)
                return
            raise endings.unlawful(peer.name, self.phase, f"broke the protocol: {error}") from None
        peer.turn_began = self.clock()
        message, payload = complete
        if self.role is Role.HOST and channel in self.visitors:
            # Whoever was not let in has no part in the task: a Hello, or nothing.
            if isinstance(message, Hello):
                self._greet(peer, message)
            else:
                self._drop(peer)
            return
        match message:
            case Waiting():
                peer.host_waits_for = message.party
            case Abort() if self.phase == "join" and self.role is Role.HOST:
                self._drop(peer)
            case Abort():
                # The Host speaks for all parties, a Collaborator for itself alone.
                by_host = self.role is Role.COLLABORATOR
                raise endings.told(message, message.party if by_host else peer.name)
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
            raise endings.lost("the Host", self.phase, reason)
        elif not peer.session.ended:
            peer.session.lost()
            peer.lost = reason  # raised once what came before is taken

    def _check_silence(self, peer: Peer, computing: bool, now: float) -> None:
        if peer.inbox:
            return
        if peer.decoder.moving:
            if now - peer.byte_came <= self.timeouts.moving:
                return
            stuck = now - peer.byte_came
            raise endings.silent(peer.name, self.phase, stuck, "stopped in the middle of a message")
        limit = self.timeouts.calculation if computing else self.timeouts.schedule
        silence = now - peer.turn_began
        if silence > limit and (limit or not computing):
            raise endings.silent(peer.name, self.phase, silence, "said nothing")

    def _say_abort(self, peer: Peer, abort: Abort, frames: list[Buffer]) -> None:
        try:
            peer.session.send(abort)
            peer.channel.send(frames)
        except HeteroFedError:
            peer.session.lost()  # nobody is left to be told
