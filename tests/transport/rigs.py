"""What the transport tests share: both ends of every transport."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from heterofed.transport.base import (
    MAX_CHANNELS,
    MAX_PENDING_BYTES,
    Channel,
    Endpoint,
    Event,
    Lost,
    LostReason,
    Opened,
    Received,
)
from heterofed.transport.memory import Hub
from heterofed.transport.reliable.connector import Connection, ReliableConnector
from heterofed.transport.reliable.listener import ReliableListener
from heterofed.transport.zeromq import Heartbeat, connect, listen
from heterofed.transport.zeromq.zap import ClientKeys, ServerKeys, new_key_pair

ROOT = Path(__file__).parents[2]
KINDS = ["memory", "ipc", "tcp", "curve"]
RELIABLE = "reliable "
RELIABLE_KINDS = [RELIABLE + kind for kind in KINDS if kind != "ipc"]
GRACE = 1.5  # seconds: what is lost in these tests shall not come back
PARTIES = [f"party-{number}" for number in range(8)]
FAST = Heartbeat(interval=0.3, timeout=1.0)


class Party:
    """An endpoint and everything that happened to it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.events: list[Event] = []

    @property
    def channel(self) -> Channel:
        """The channel of an endpoint that connected."""
        return self._channel

    _channel: Channel

    def poll(self, timeout: float = 0.0) -> None:
        self.events += self.endpoint.poll(timeout)

    @property
    def channels(self) -> list[Channel]:
        return [event.channel for event in self.events if isinstance(event, Opened)]

    def frames(self, channel: Channel | None = None) -> list[bytes]:
        return [
            bytes(event.frame)
            for event in self.events
            if isinstance(event, Received) and channel in (None, event.channel)
        ]

    def lost(self, channel: Channel | None = None) -> list[LostReason]:
        return [
            event.reason
            for event in self.events
            if isinstance(event, Lost) and channel in (None, event.channel)
        ]


def connected(endpoint: Any) -> Party:
    party = Party(endpoint)
    party._channel = endpoint.channel
    return party


def pump(parties: Sequence[Party], until: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll all parties in turn until something is so."""
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            seen = [[type(event).__name__ for event in party.events[-5:]] for party in parties]
            raise TimeoutError(f"not so after {seconds} s; last events: {seen}")
        for party in parties:
            party.poll(0.002)


class Keyring:
    def __init__(self) -> None:
        self.server = new_key_pair()
        self.parties = {party: new_key_pair() for party in PARTIES}
        self.stranger = new_key_pair()

    def listening(self) -> ServerKeys:
        return ServerKeys(*self.server, {name: pair[0] for name, pair in self.parties.items()})

    def connecting(self, party: str) -> ClientKeys:
        return ClientKeys(*self.parties[party], self.server[0])


class Rig:
    """One listener and its peers over one kind of transport."""

    def __init__(self, kind: str, keyring: Keyring) -> None:
        self.kind = kind.removeprefix(RELIABLE)
        self.reliable = kind.startswith(RELIABLE)
        self.proves = self.kind in ("memory", "curve")
        self.keyring = keyring
        self.folder = tempfile.mkdtemp(dir="/tmp")
        self._hub: Hub | None = None
        self._address = ""
        self._ends: list[Endpoint] = []

    def listen(
        self, *, max_channels: int = MAX_CHANNELS, max_pending: int = MAX_PENDING_BYTES
    ) -> Party:
        if not self.reliable:
            return self.keep(Party(self._listen(max_channels, max_pending)))
        below = self._listen(2 * max_channels, MAX_PENDING_BYTES)
        return self.keep(
            Party(
                ReliableListener(
                    below, max_channels=max_channels, max_pending=max_pending, grace=GRACE
                )
            )
        )

    def connect(self, name: str = PARTIES[0]) -> Party:
        if not self.reliable:
            return self.keep(connected(self._connect(name)))
        return self.keep(connected(ReliableConnector(lambda: self._connect(name), grace=GRACE)))

    def _listen(self, max_channels: int, max_pending: int) -> Endpoint:
        if self.kind == "memory":
            self._hub = Hub(max_channels=max_channels, max_pending=max_pending)
            return self._hub.listen()
        address = f"ipc://{self.folder}/s" if self.kind == "ipc" else "tcp://127.0.0.1:*"
        keys = self.keyring.listening() if self.kind == "curve" else None
        endpoint = listen(address, keys=keys, max_channels=max_channels, max_pending=max_pending)
        self._address = endpoint.address
        return endpoint

    def _connect(self, name: str) -> Connection:
        if self.kind == "memory":
            return (self._hub or Hub()).connect(name)
        keys = self.keyring.connecting(name) if self.kind == "curve" else None
        return connect(self._address, keys=keys)

    def pair(self) -> tuple[Party, Party, Channel]:
        """A listener, a peer whose first frame `hello` arrived, the listener's channel for it."""
        listener, peer = self.listen(), self.connect()
        peer.channel.send([b"hello"])
        pump([listener, peer], lambda: bool(listener.frames()) and bool(peer.channels))
        return listener, peer, listener.channels[0]

    def keep(self, party: Party) -> Party:
        self._ends.append(party.endpoint)
        return party

    def close(self) -> None:
        for end in self._ends:
            end.close()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def start_python(script: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has heterofed.transport and no torch; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()
