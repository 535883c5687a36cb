"""Runs the parties of a simulation in turns, over a network in memory.

One party runs at a time with its own random generators, as if it were alone in its process. This
module knows only the settings of a scheduler.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from heterofed.compute.rng import RandomState
from heterofed.compute.tensors import unpack
from heterofed.errors import JoinTimeoutError, RemoteProtocolError, TaskAborted
from heterofed.protocol.codec import Decoder
from heterofed.protocol.messages import Features, Gradients, Message, Welcome
from heterofed.protocol.plan import Coding, Plan
from heterofed.rendezvous.backend import Place
from heterofed.runs.scheduler import Scheduler, engine_of
from heterofed.transport.base import Channel, Endpoint, Event, Received
from heterofed.transport.memory import Hub, MemoryEndpoint

logger = logging.getLogger("heterofed")


@dataclass(frozen=True, slots=True)
class Crossing:
    """One message that a party received.

    Attributes:
        sender: the feature key of the party that sent it.
        message: the header.
        payload: the bytes after the header: blinded values, tags or tensors.
        coding: the compression of features or gradients.
    """

    sender: str
    message: Message
    payload: bytes
    coding: Coding = "none"

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of features or gradients by name; empty for any other message."""
        if not isinstance(self.message, Features | Gradients):
            return {}
        payload = bytearray(self.payload)
        return unpack(self.message.tensors, payload, self.sender, coding=self.coding)


class Network:
    """The network in memory, and the turn of the parties."""

    def __init__(self, latency: float, rate: float | None) -> None:
        self.hub = Hub(latency=latency, rate=rate)
        self.turn = _Turn()
        self.parties: dict[str, PartyRun] = {}
        self.listens = threading.Event()
        self.ended: list[PartyRun] = []
        self.plan: Plan | None = None
        self.ledger = Path()
        self.home: Path | None = None

    @property
    def host(self) -> PartyRun:
        return next(iter(self.parties.values()))

    def raise_first(self) -> None:
        """Raise what ended the task: the first error that is not about another party's end."""
        failed = [run for run in self.ended if run.error is not None]
        if not failed:
            return
        cause = next((run for run in failed if not isinstance(run.error, TaskAborted)), failed[0])
        if cause.error is not None:
            cause.error.add_note(f"heterofed: simulated party {cause.key}")
            raise cause.error


_speaker: ContextVar[str] = ContextVar("heterofed_speaker", default="")


@contextmanager
def speaking(party: str) -> Iterator[None]:
    """Make log lines of this thread begin with a party's name."""

    def name(record: logging.LogRecord) -> bool:
        if _speaker.get() == party and not record.getMessage().startswith(party):
            record.msg = f"{party}: {record.msg}"
        return True

    token = _speaker.set(party)
    logger.addFilter(name)
    try:
        yield
    finally:
        logger.removeFilter(name)
        _speaker.reset(token)


class _Turn:
    """The turn to run. It may be given or taken twice, because Ctrl-C can come between any two
    steps.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: object | None = None

    def take(self, party: object) -> None:
        """Wait until no other party runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._owner in (None, party))
            self._owner = party

    def give(self, party: object) -> None:
        """Let others run if it is this party's turn."""
        with self._changed:
            if self._owner is party:
                self._owner = None
                self._changed.notify_all()  # one alone may be about to be interrupted


class PartyRun:
    """The run of one party: its thread's work, its turns, and the messages that it received."""

    def __init__(
        self,
        scheduler: Scheduler,
        work: Callable[[], Any],
        network: Network,
        *,
        is_host: bool = False,
    ) -> None:
        self._engine = engine_of(scheduler)
        self.key: str = self._engine.settings.feature_key
        self.result: Any = None
        self.error: BaseException | None = None
        self.received: list[Crossing] = []
        self._work = work
        self._network, self._is_host = network, is_host
        self._random = RandomState.now()

    def __call__(self) -> None:
        """Run the party to its end."""
        engine, settings = self._engine, self._engine.settings
        engine.settings = replace(settings, place=_MemoryPlace(self, self._network))
        try:
            with self._turn(), speaking(self.key):
                self.result = self._work()
        except BaseException as error:  # raise_first passes it on
            self.error = error
        finally:
            engine.settings = settings
            self._network.ended.append(self)
            if self._is_host:
                self._network.listens.set()
            with self._network.hub.changed:
                self._network.hub.changed.notify_all()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._network.turn.take(self)
        try:
            self._random.restore()
            yield
        finally:
            self._random = RandomState.now()
            self._network.turn.give(self)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let others run for the length of the block."""
        self._random = RandomState.now()
        self._network.turn.give(self)
        try:
            yield
        finally:
            self._network.turn.take(self)
            self._random.restore()

    def look_around(self) -> None:
        """Detect, at the Host, a party that will not connect.

        Raises:
            JoinTimeoutError: a party has ended before the task began.
        """
        party = self._engine.run.maybe_party if self._engine.run else None
        if not self._is_host or (party is not None and party.phase != "join"):
            return
        for other in self._network.ended:
            if other.error is not None:
                raise JoinTimeoutError(
                    f"{other.key} ended before the task began (phase join); see its own error",
                    party=other.key,
                )


class _MemoryPlace(Place):
    """The network in memory as one party sees it."""

    described = "in this simulation"
    simulated = True

    @property
    def ledger(self) -> Path:
        """Return a temporary folder, because nothing is disclosed outside of this process."""
        return self._network.ledger

    def __init__(self, run: PartyRun, network: Network) -> None:
        self._run, self._network = run, network

    @contextmanager
    def listen(self) -> Iterator[Endpoint]:
        endpoint = self._network.hub.listen()
        self._network.listens.set()
        yield _Tapped(endpoint, self._run, self._network)

    def connect(self) -> Endpoint:
        with self._run.waiting():
            self._network.listens.wait()
        host = self._network.host
        if host in self._network.ended:
            raise JoinTimeoutError(
                f"the Host {host.key} has ended (phase join); see its own error", party=host.key
            )
        endpoint = self._network.hub.connect(self._run.key)
        return _Tapped(endpoint, self._run, self._network)


class _Tapped(Endpoint):
    """An endpoint that lets others run while it waits, and records the messages that it
    received.
    """

    def __init__(self, inner: MemoryEndpoint, run: PartyRun, network: Network) -> None:
        self._inner, self._run, self._network = inner, run, network
        self._decoders: dict[Channel, Decoder] = {}

    def poll(self, timeout: float) -> list[Event]:
        events = self._inner.poll(0)
        if not events and timeout > 0:
            with self._run.waiting():
                events = self._inner.poll(timeout)
        if not events:
            self._run.look_around()
        for event in events:
            if isinstance(event, Received):
                self._keep(event)
        return events

    def flush(self, timeout: float) -> bool:
        with self._run.waiting():
            return self._inner.flush(timeout)

    def close(self, linger: float = 0.0) -> None:
        with self._run.waiting():
            self._inner.close(linger)

    def _keep(self, event: Received) -> None:
        decoder = self._decoders.setdefault(event.channel, Decoder(lambda _message, _size: None))
        try:
            complete = decoder.feed(event.frame)
        except RemoteProtocolError:
            return  # the party itself is about to report it
        if complete is not None:
            sender = event.channel.party or self._network.host.key
            message, payload = complete
            if isinstance(message, Welcome):
                self._network.plan = message.plan
            self._run.received.append(
                Crossing(sender, message, bytes(payload), self._coding(message))
            )

    def _coding(self, message: Message) -> Coding:
        plan = self._network.plan
        if plan is None or not isinstance(message, Features | Gradients):
            return "none"
        is_feature = isinstance(message, Features)
        return plan.compress_features if is_feature else plan.compress_gradients
