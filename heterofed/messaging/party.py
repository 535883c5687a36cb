"""A party at work: its peers, their mail, its waits and deadlines, and how it ends.

The thin shell around the protocol core: here, and only here, sessions meet the transport and the
clock. Knows no torch, no hooks and no particular phase.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from heterofed.errors import HeteroFedError, RemoteProtocolError, TaskFailed
from heterofed.events import Callback, Event, PhaseBegan, PhaseEnded, Progressed, StillWaiting
from heterofed.messaging import aborts
from heterofed.messaging.deadlines import Deadlines
from heterofed.messaging.notices import NOTICE_SECONDS, Notices
from heterofed.messaging.peer import Mail, Peer, Timeouts
from heterofed.protocol.codec import Buffer, encode, payload_size
from heterofed.protocol.messages import Abort, Bye, Hello, Message, Waiting
from heterofed.protocol.states import Role
from heterofed.reporting.costs import Account, Direction
from heterofed.reporting.diagnostics import place_of, shielded
from heterofed.transport.base import Channel, Endpoint, Lost, Opened, Received
from heterofed.transport.rate_limit import FIRST_MESSAGE_SECONDS, RateLimit

logger = logging.getLogger("heterofed")

ABORT_LINGER = 2.0
"""Seconds that a party gives its last words."""

POLL_SECONDS = 0.5


class Party:
    """This party's end of a task.

    Args:
        name: feature key of this party.
        role: its role.
        endpoint: its transport; closed by `close`.
        timeouts: see `Timeouts`; may be replaced when the plan is known.
        callbacks: get every event; one that raises is logged and left out from then on.
        account: of the task so far, where it has met before.
        clock: seconds that only go up.

    Attributes:
        peers: the parties of the task, by feature key, in task order.
        visitors: connections that have not been admitted.
        admission: judges each visitor's Hello: the code of a refusal, or None to admit it. Stays in
            place after everybody is there, and then refuses.
        phase, round, batch: where the task stands, for messages and errors.
        account: what it cost so far.
    """

    def __init__(
        self,
        name: str,
        role: Role,
        endpoint: Endpoint,
        *,
        timeouts: Timeouts,
        callbacks: Sequence[Callback] = (),
        account: Account | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.role = role
        self.timeouts = timeouts
        self.clock = clock
        self.peers: dict[str, Peer] = {}
        self.visitors: dict[Channel, Peer] = {}
        self.admission: Callable[[Peer, Hello], str | None] = lambda _peer, _hello: "stranger"
        self.phase = "join"
        self.round = 0
        self.batch: int | None = None
        self.bytes_sent = self.bytes_received = 0
        self.account = shielded(lambda: account or Account(name), "comm.csv")
        self._egress = shielded(lambda: self.account.egress, "outbound.csv")
        self._endpoint = endpoint
        self._callbacks = list(callbacks)
        self._by_channel: dict[Channel, Peer] = {}
        self._rate_limit = RateLimit()
        self._notices = Notices()
        self._deadlines = Deadlines(self)

    # -- who is there ----------------------------------------------------------------------

    def admit(self, visitor: Peer, name: str) -> None:
        """Make a visitor the task's peer of this name."""
        self.visitors.pop(visitor.channel, None)
        visitor.name = name
        self.peers[name] = visitor
        self._by_channel[visitor.channel] = visitor

    def forget(self, peer: Peer) -> None:
        """Close a peer's connection, and take it out of the task."""
        peer.session.lost()
        peer.channel.close()
        self._by_channel.pop(peer.channel, None)
        if self.peers.get(peer.name) is peer:
            del self.peers[peer.name]

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
        """Send a message; waits where the peer is far behind in reading, if `patient`.

        Nobody sends while this party computes, so what the peer is behind by is not left to later.

        Raises:
            LocalProtocolError: the session does not allow it now.
            PeerLostError: the connection broke.
            PeerTimeoutError: the peer has stopped reading, or reads too slowly.
        """
        self._put(peer, message, payload)
        if patient:
            self.let_drain(peer)

    def let_drain(self, peer: Peer) -> None:
        """Wait where a peer is far behind in reading what was posted without patience.

        Raises:
            PeerTimeoutError: it has stopped reading, or reads too slowly.
        """
        if not peer.channel.pending:
            return
        began = self.clock()
        try:
            self._drain(peer)
        finally:
            self.account.waited(self.phase, peer.name, "sent", self.clock() - began)

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
        self._await([peer], computing)
        return self._next(peer, kinds)

    def take_all(
        self, *kinds: type[Message], peers: Sequence[Peer] | None = None
    ) -> dict[str, Mail]:
        """Wait for the next message of every peer, in whatever order they come.

        Args:
            kinds: what they may be.
            peers: only those of these.

        Raises:
            TaskFailed: as `take`.
        """
        peers = list(self.peers.values()) if peers is None else peers
        self._await(peers, computing=True)
        return {peer.name: self._next(peer, kinds) for peer in peers}

    def take_leave(self, peer: Peer) -> bool:
        """Wait for a peer's Bye; this party's work is done, so anything else is only a warning.

        Returns:
            Whether it said it.
        """
        if self.peers.get(peer.name) is not peer:
            return False  # it went while another one's goodbye was waited for
        try:
            self.take(peer, Bye)
        except TaskFailed as error:
            logger.warning("%s did not say goodbye: %s", error.party or peer.name, error)
            gone = error.party if error.party in self.peers else peer.name
            self.peers = {key: each for key, each in self.peers.items() if key != gone}
            return self.take_leave(peer)  # unless it was this one that went
        return True

    def leave(self, host: Peer) -> None:
        """Say Bye to the Host; this party's work is done either way."""
        try:
            self.post(host, Bye())
        except TaskFailed as error:
            logger.warning("%s did not hear the goodbye: %s", host.name, error)

    def notice_waiting(self, names: Collection[str], seconds: float, compare: str = "") -> None:
        """Tell the user, ever more rarely, and as Host the other peers whom this party is waiting
        for, and for how long; `compare` as in `StillWaiting`.
        """
        names = tuple(names)
        behind = next((p.host_waits_for for p in self.peers.values() if p.host_waits_for), None)
        if self._notices.due(seconds):
            self.emit(StillWaiting((*names, behind) if behind else names, seconds, compare))
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
                case Opened(channel) if self._rate_limit.allow(channel.party, self.clock()):
                    visitor = Peer("a visitor", channel, self.role, self.clock())
                    self.visitors[channel] = visitor
                case Opened(channel):
                    channel.close()
                case Received(channel, frame):
                    self._receive(channel, frame)
                case Lost(channel, reason):
                    self._lose(channel, reason)
        for visitor in list(self.visitors.values()) if self.role is Role.HOST else ():
            if self.clock() - visitor.turn_began > FIRST_MESSAGE_SECONDS:
                self.turn_away(visitor)
        for peer in self.peers.values():
            if peer.lost and not peer.inbox:
                raise aborts.lost(peer.name, self.phase, peer.lost)

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
        account = self.account
        compute, encode, waits = account.compute, account.encode, dict(account.waits)
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
                account.compute - compute,
                account.encode - encode,
                {
                    name: each - waits.get(name, 0.0)
                    for name, each in account.waits.items()
                    if each > waits.get(name, 0.0)
                },
            )
        )

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count a block as this party's own work, but for what is counted within it."""
        began, counted = self.clock(), self.account.counted
        try:
            yield
        finally:
            within = self.account.counted - counted
            self.account.computed(self.phase, max(0.0, self.clock() - began - within))

    @contextmanager
    def encoding(self, peer: Peer, direction: Direction) -> Iterator[None]:
        """Count a block as turning mail of a peer into bytes, or back."""
        began = self.clock()
        yield
        self.account.encoded(self.phase, peer.name, direction, self.clock() - began)

    def progress(self, done: int, total: int | None = None) -> None:
        """Note that `done` units of the phase are done."""
        self.emit(Progressed(done, total))

    def emit(self, event: Event) -> None:
        """Hand an event to the callbacks."""
        for callback in list(self._callbacks):
            try:
                callback(event)
            except Exception as error:
                self._callbacks = [each for each in self._callbacks if each is not callback]
                logger.warning(
                    "a callback raised (%s) and is left out from here on", place_of(error)
                )

    # -- the end ---------------------------------------------------------------------------

    def abort(self, error: BaseException, code: str) -> None:
        """Tell every peer that the task has ended; for at most `ABORT_LINGER` seconds."""
        abort, frames = aborts.abort_frames(
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
            raise aborts.lost(peer.name, self.phase, peer.lost)
        began = self.clock()
        frames = encode(message, payload)
        peer.session.send(message, payload_size(payload))
        try:
            peer.channel.send(frames)
        except HeteroFedError as error:
            self.pump(0)  # why it left may have come and wait to be read
            peer.session.lost()
            raise aborts.lost(peer.name, self.phase, "disconnected") from error
        size = payload_size(frames)
        self.bytes_sent += size
        peer.turn_began = peer.moved_on = self.clock()
        if not isinstance(message, Waiting):
            peer.told = peer.turn_began
        self.account.moved(self.phase, peer.name, "sent", size, messages=1)
        self._egress.note(self.phase, type(message).__name__, peer.name, size)
        self.account.encoded(self.phase, peer.name, "sent", peer.turn_began - began)

    def _await(self, peers: Sequence[Peer], computing: bool) -> None:
        """Wait until all of these peers have mail; each moment counts for those who have none."""
        if all(peer.inbox for peer in peers):
            return
        began = noticed = before = self.clock()
        while missing := [peer for peer in peers if not peer.inbox]:
            counted = self.account.counted
            self.pump(POLL_SECONDS)
            now = self.clock()
            idle = max(0.0, now - before - (self.account.counted - counted)) / len(missing)
            before = now
            for peer in missing:
                self.account.waited(self.phase, peer.name, "received", idle)
            missing = [peer for peer in missing if not peer.inbox]
            if missing and now - noticed >= NOTICE_SECONDS:
                noticed = now
                self.notice_waiting([peer.name for peer in missing], now - began)
            for peer in missing:
                self._deadlines.check_silence(peer, computing, now)
                self._deadlines.check_waiting(peer, began, now)

    def _next(self, peer: Peer, kinds: tuple[type[Message], ...]) -> Mail:
        mail = peer.pop()
        if not isinstance(mail.message, kinds):
            what = f"said {type(mail.message).__name__} unexpectedly"
            raise aborts.unlawful(peer.name, self.phase, what)
        return mail

    def _drain(self, peer: Peer) -> None:
        least, began = peer.channel.pending, self.clock()
        since = noticed = began
        ends = self._deadlines.transfer(peer, began, least)
        while peer.channel.pending:
            self._endpoint.flush(POLL_SECONDS)  # room shows there; what came is taken in next
            self.pump(0)
            now = self.clock()
            if peer.channel.pending < least:
                least, since = peer.channel.pending, now
            elif now - since > self._deadlines.patience:
                raise aborts.silent(peer.name, self.phase, now - since, "taken nothing")
            if now > ends and peer.channel.pending:
                raise aborts.silent(peer.name, self.phase, now - began, "been behind in reading")
            if now - noticed >= NOTICE_SECONDS:
                noticed = now
                self.notice_waiting([peer.name], now - began)

    def _receive(self, channel: Channel, frame: Buffer) -> None:
        peer = self._by_channel.get(channel) or self.visitors.get(channel)
        if peer is None:
            return
        self.bytes_received += len(frame)
        began = self.clock()
        if not peer.decoder.moving:
            peer.message_began = began
        peer.byte_came = began
        try:
            complete = peer.decoder.feed(frame)
            now = self.clock()
            if channel not in self.visitors:  # they have no name yet, and may be anybody
                self._note_received(peer, len(frame), now - began, complete=complete is not None)
            if complete is None or not peer.session.receive(complete[0], len(complete[1])):
                return
        except RemoteProtocolError as error:
            if self.role is Role.HOST and (channel in self.visitors or self.phase == "join"):
                logger.warning("turned %s away: %s", peer.name, error)
                self._drop(peer)
                return
            raise aborts.unlawful(peer.name, self.phase, f"broke the protocol: {error}") from None
        peer.turn_began = self.clock()
        message, payload = complete
        if not isinstance(message, Waiting):
            peer.moved_on = peer.turn_began
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
                raise aborts.told(message, message.party if by_host else peer.name)
            case _:
                peer.host_waits_for = None
                moving = peer.byte_came - peer.message_began
                self.account.arrived(peer.name, len(payload), moving)
                peer.put(Mail(message, payload, moving))

    def _note_received(self, peer: Peer, size: int, seconds: float, *, complete: bool) -> None:
        self.account.moved(self.phase, peer.name, "received", size, messages=int(complete))
        self.account.encoded(self.phase, peer.name, "received", seconds)

    def _greet(self, visitor: Peer, hello: Hello) -> None:
        visitor.held, visitor.mask_key = hello.held, hello.mask_key
        refusal = self.admission(visitor, hello)
        if refusal is None:
            self.admit(visitor, hello.party)
            logger.info("%s is here", hello.party)
        elif (gone := self.peers.get(hello.party)) is not None and gone.lost:
            self.turn_away(visitor)  # it was started anew, and comes again until we meet anew
        else:
            if hello.purpose != "check":  # which only compares terms, and is told of as such
                logger.warning("turned %r away: %s", hello.party, refusal)
            self.turn_away(visitor, refusal)

    def _drop(self, peer: Peer) -> None:
        """Forget a party that left before the task began: it may come again."""
        self.visitors.pop(peer.channel, None)
        admitted = peer.channel in self._by_channel
        self.forget(peer)
        if admitted:
            logger.info("%s has left", peer.name)

    def _lose(self, channel: Channel, reason: str) -> None:
        peer = self._by_channel.get(channel)
        if self.role is Role.HOST and (peer is None or self.phase == "join"):
            if peer := peer or self.visitors.get(channel):
                self._drop(peer)
        elif peer is None:
            raise aborts.lost("the Host", self.phase, reason)
        elif not peer.session.ended:
            peer.session.lost()
            peer.lost = reason  # raised once what came before is taken

    def _say_abort(self, peer: Peer, abort: Abort, frames: list[Buffer]) -> None:
        try:
            peer.session.send(abort)
            peer.channel.send(frames)
            self._egress.note(self.phase, "Abort", peer.name, payload_size(frames))
        except HeteroFedError:
            peer.session.lost()  # nobody is left to be told
