"""Connects the sessions of a party to the transport and the clock.

A `Party` sends messages, receives those of its peers, waits for them within deadlines, and ends the
task. This module knows no torch, no hooks and no particular phase.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from heterofed.errors import HeteroFedError, RemoteProtocolError, TaskFailed
from heterofed.events import Callback, StillWaiting
from heterofed.messaging import aborts
from heterofed.messaging.deadlines import Deadlines
from heterofed.messaging.notices import NOTICE_SECONDS, Notices
from heterofed.messaging.peer import Mail, Peer, Timeouts
from heterofed.messaging.stage import Stage
from heterofed.messaging.taps import Tap
from heterofed.protocol.codec import Buffer, encode, header_in, payload_size
from heterofed.protocol.messages import (
    Abort,
    Bye,
    Hello,
    Message,
    Signed,
    Waiting,
    Welcome,
    WelcomeBack,
)
from heterofed.protocol.states import Role
from heterofed.reporting.costs import LARGE_BYTES, Account
from heterofed.reporting.diagnostics import shielded
from heterofed.transport.base import Channel, Endpoint, Lost, Opened, Received
from heterofed.transport.rate_limit import FIRST_MESSAGE_SECONDS, RateLimit

logger = logging.getLogger("heterofed")

ABORT_LINGER = 2.0
"""The most seconds for which a party tries to send its last messages."""

POLL_SECONDS = 0.5


class Party(Stage):
    """This party's end of a task.

    Args:
        name: the feature key of this party.
        role: the role of this party.
        endpoint: the transport of this party, which `close` closes.
        timeouts: the timeouts, which may be replaced when the plan is known.
        callbacks: functions that get every event; one that raises an error is logged and not called
            again.
        account: the costs of the task so far, if the parties connected before.
        clock: returns a monotonic time in seconds.

    Attributes:
        peers: the parties of the task, by feature key, in task order.
        visitors: the connections that have not been admitted.
        admission: a function that takes a visitor's Hello and returns the code of a refusal, or
            None to admit the visitor. It stays in place after all parties are connected, and then
            refuses.
        check_welcome: raises an error for a Welcome that this party refuses, before the Host is
            known by the name in it. Without one, that name is not taken.
        gathers: whether a party that disconnects may simply connect again, since the task has not
            begun. A Host sets it while it waits for parties.
        taps: look at each message before and after it is sent, and when it has come.
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
        super().__init__(name, callbacks=callbacks, account=account, clock=clock)
        self.role = role
        self.timeouts = timeouts
        self.peers: dict[str, Peer] = {}
        self.visitors: dict[Channel, Peer] = {}
        self.admission: Callable[[Peer, Hello], str | None] = lambda _peer, _hello: "stranger"
        self.check_welcome: Callable[[Welcome | WelcomeBack], object] | None = None
        self.gathers = False
        self.taps: list[Tap] = []
        self._egress = shielded(lambda: self.account.egress, "outbound.csv")
        self._endpoint = endpoint
        self._by_channel: dict[Channel, Peer] = {}
        self._rate_limit = RateLimit()
        self._notices = Notices()
        self._deadlines = Deadlines(self)

    # -- membership ------------------------------------------------------------------------

    def admit(self, visitor: Peer, name: str) -> None:
        """Make a visitor the peer of this name."""
        self.visitors.pop(visitor.channel, None)
        visitor.name = name
        self.peers[name] = visitor
        self._by_channel[visitor.channel] = visitor

    def forget(self, peer: Peer) -> None:
        """Close a peer's connection and remove the peer from the task."""
        peer.session.lost()
        peer.channel.close()
        self._by_channel.pop(peer.channel, None)
        if self.peers.get(peer.name) is peer:
            del self.peers[peer.name]

    def turn_away(self, visitor: Peer, code: str | None = None) -> None:
        """Close a visitor's connection, after an Abort if `code` gives a reason."""
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
        """Send a message. If `patient`, wait while the peer is far behind in reading.

        Nothing is sent while this party computes, so it is better to wait here than later.

        Raises:
            LocalProtocolError: the session does not allow this message now.
            PeerLostError: the connection broke.
            PeerTimeoutError: the peer has stopped reading, or reads too slowly.
        """
        self._put(peer, message, payload)
        if patient:
            self.let_drain(peer)

    def let_drain(self, peer: Peer) -> None:
        """Wait while a peer is far behind in reading messages that were posted without patience.

        Raises:
            PeerTimeoutError: the peer has stopped reading, or reads too slowly.
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
        for peer in list(self.peers.values()):
            self.post(peer, message)

    def take(self, peer: Peer, *kinds: type[Message], computing: bool = True) -> Mail:
        """Wait for the next message of a peer.

        Args:
            peer: the peer.
            kinds: the types that the message may have.
            computing: whether the peer may be running user code or heavy computation meanwhile.

        Raises:
            TaskAborted: this peer or another one ended the task.
            PeerLostError: a connection broke.
            PeerTimeoutError: the peer was silent for longer than allowed.
            RemoteProtocolError: the peer sent another message.
        """
        self._await([peer], computing)
        return self._next(peer, kinds)

    def take_all(
        self, *kinds: type[Message], peers: Sequence[Peer] | None = None
    ) -> dict[str, Mail]:
        """Wait for the next message of every peer, in any order.

        Args:
            kinds: the types that the messages may have.
            peers: the peers to wait for; all of them by default.

        Raises:
            TaskFailed: the task ended, as in `take`.
        """
        peers = list(self.peers.values()) if peers is None else peers
        self._await(peers, computing=True)
        return {peer.name: self._next(peer, kinds) for peer in peers}

    def take_leave(self, peer: Peer) -> Bye | None:
        """Wait for a peer's Bye. This party's work is done, so any failure is only logged.

        Returns:
            The Bye, or None if it did not arrive.
        """
        if self.peers.get(peer.name) is not peer:
            return None  # it disconnected while this party waited for another peer's Bye
        try:
            return self.take(peer, Bye).of(Bye)
        except TaskFailed as error:
            logger.warning("%s did not say goodbye: %s", error.party or peer.name, error)
            gone = error.party if error.party in self.peers else peer.name
            self.peers = {key: each for key, each in self.peers.items() if key != gone}
            return self.take_leave(peer)  # another peer has failed, and this one may still say Bye

    def leave(self, host: Peer, signed: Signed | None = None) -> None:
        """Send Bye to the Host. This party's work is done even if that fails."""
        try:
            self.post(host, Bye(signed))
        except TaskFailed as error:
            logger.warning("%s did not hear the goodbye: %s", host.name, error)

    def notice_waiting(self, names: Collection[str], seconds: float, compare: str = "") -> None:
        """Report whom this party is waiting for, and for how long.

        The user is told less and less often. A Host also tells its other peers. `compare` is as in
        `StillWaiting`.
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
        """Process what the transport received, after waiting for at most `timeout` seconds.

        Raises:
            TaskAborted, PeerLostError, RemoteProtocolError: a peer ended the task, disconnected, or
                violated the protocol. A visitor that does so is only disconnected.
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

    # -- the end ---------------------------------------------------------------------------

    def abort(self, error: BaseException, code: str) -> None:
        """Tell every peer that the task has ended, within at most `ABORT_LINGER` seconds."""
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
        size = payload_size(frames)
        for tap in self.taps:
            tap.leaves(peer.name, message, size)
        peer.session.send(message, payload_size(payload))
        try:
            peer.channel.send(frames)
        except HeteroFedError as error:
            self.pump(0)  # the reason may have arrived and not been read yet
            peer.session.lost()
            raise aborts.lost(peer.name, self.phase, "disconnected") from error
        for tap in self.taps:
            tap.left(peer.name, message, header_in(frames[0]), payload)
        self.bytes_sent += size
        peer.turn_began = peer.moved_on = self.clock()
        if not isinstance(message, Waiting):
            peer.told = peer.turn_began
        self.account.moved(
            self.phase, peer.name, "sent", size, messages=1, seconds=peer.turn_began - began
        )
        self._egress.note(self.phase, type(message).__name__, peer.name, size)

    def _await(self, peers: Sequence[Peer], computing: bool) -> None:
        """Wait until all of these peers have sent a message, and record the time as waiting for
        them.
        """
        if all(peer.inbox for peer in peers):
            return
        began = noticed = before = self.clock()
        while missing := [peer for peer in peers if not peer.inbox]:
            counted = self.counts.counted
            self.pump(POLL_SECONDS)
            now = self.clock()
            idle = max(0.0, now - before - (self.counts.counted - counted)) / len(missing)
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
            # This shows whether there is room; the next step reads what arrived.
            self._endpoint.flush(POLL_SECONDS)
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
            if channel not in self.visitors:  # a visitor has no name yet and may be anybody
                self.account.moved(
                    self.phase,
                    peer.name,
                    "received",
                    len(frame),
                    messages=complete is not None,
                    seconds=self.clock() - began,
                )
            if complete is None or not peer.session.receive(complete[0], len(complete[1])):
                return
        except RemoteProtocolError as error:
            if self.gathers or (self.role is Role.HOST and channel in self.visitors):
                logger.warning("turned %s away: %s", peer.name, error)
                self._drop(peer)
                return
            raise aborts.unlawful(peer.name, self.phase, f"broke the protocol: {error}") from None
        peer.turn_began = self.clock()
        message, payload = complete
        if isinstance(message, Welcome | WelcomeBack) and self.check_welcome is not None:
            self.check_welcome(message)
            self._learn_name(peer, message.plan.host)
        if not isinstance(message, Waiting):
            peer.moved_on = peer.turn_began
        if self.role is Role.HOST and channel in self.visitors:
            # A visitor that is not admitted has no part in the task: only its Hello is read.
            if isinstance(message, Hello):
                self._greet(peer, message)
            else:
                self._drop(peer)
            return
        match message:
            case Waiting():
                peer.host_waits_for = message.party
            case Abort() if self.gathers:
                self._drop(peer)
            case Abort():
                # The Host may blame any party, a Collaborator only itself.
                by_host = self.role is Role.COLLABORATOR
                raise aborts.told(message, message.party if by_host else peer.name)
            case _:
                peer.host_waits_for = None
                self._keep(peer, message, payload)

    def _keep(self, peer: Peer, message: Message, payload: bytearray) -> None:
        """Note what a message says of its link, and store it until it is taken."""
        moving = peer.byte_came - peer.message_began
        if len(payload) >= LARGE_BYTES:
            self.account.arrived(peer.name, len(payload), moving)
        if peer.round_trip != (known := peer.channel.round_trip):
            peer.round_trip = known
            self.account.answered(peer.name, known)
        for tap in self.taps:
            tap.came(peer.name, message, peer.decoder.header, payload)
        peer.put(Mail(message, payload, moving))

    def _greet(self, visitor: Peer, hello: Hello) -> None:
        visitor.held, visitor.mask_key = hello.held, hello.mask_key
        refusal = self.admission(visitor, hello)
        if refusal is None:
            self.admit(visitor, hello.party)
            logger.info("%s is here", hello.party)
        elif (gone := self.peers.get(hello.party)) is not None and gone.lost:
            # It was restarted, and connects again until all parties reconnect.
            self.turn_away(visitor)
        else:
            if hello.purpose != "check":  # a check only compares terms and is logged elsewhere
                logger.warning("turned %r away: %s", hello.party, refusal)
            self.turn_away(visitor, refusal)

    def _learn_name(self, host: Peer, name: str) -> None:
        """Know the Host by its name before the messages that come with its first are counted."""
        del self.peers[host.name]
        self.account.renamed(host.name, name)
        self.admit(host, name)

    def _drop(self, peer: Peer) -> None:
        """Forget a party that disconnected before the task began, so that it may connect again."""
        self.visitors.pop(peer.channel, None)
        admitted = peer.channel in self._by_channel
        self.forget(peer)
        if admitted:
            logger.info("%s has left", peer.name)

    def _lose(self, channel: Channel, reason: str) -> None:
        peer = self._by_channel.get(channel)
        if self.gathers or (self.role is Role.HOST and peer is None):
            if peer := peer or self.visitors.get(channel):
                self._drop(peer)
        elif peer is None:
            raise aborts.lost("the Host", self.phase, reason)
        elif not peer.session.ended:
            peer.session.lost()
            peer.lost = reason  # raised after the messages before it were taken

    def _say_abort(self, peer: Peer, abort: Abort, frames: list[Buffer]) -> None:
        try:
            peer.session.send(abort)
            peer.channel.send(frames)
            self._egress.note(self.phase, "Abort", peer.name, payload_size(frames))
        except HeteroFedError:
            peer.session.lost()  # the peer is gone and needs no Abort
