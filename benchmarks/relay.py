"""A bad network between two addresses: a relay that delays, limits, stalls and cuts.

    relay = Relay("tcp://127.0.0.1:7000", rtt=0.05, mbit=100)  # a thread; every figure is optional
    ...                                     # clients connect to relay.address, not to the target
    relay.cut()                             # every connection, at once, with what it holds
    relay.cut(mid_message=True)             # each in the middle of the next thing that it forwards
    relay.stalled = True                    # forward nothing, close nothing; False: go on
    relay.close()                           # or use it as a context manager

or as a process of its own, which prints its address and then obeys `cut`, `cut mid`, `stall`,
`go on` and `end`, one per line, on stdin:

    python -m benchmarks.relay tcp://127.0.0.1:7000 --rtt-ms 50 --mbit 100 --cuts-per-minute 30

Addresses are `tcp://host:port` (port 0: any) or `ipc:///path` (a Unix socket). Each connection is
one line in each direction, the line of a real network: bytes enter it one after another at `mbit`
and come out `rtt / 2` later, so that small frames queue behind bulk ones and pay nothing else.
What a sender may have in the line is bounded, by `buffer` seconds of sending on top of the delay.
Each thing that enters is delayed by up to `jitter` more, in order, as TCP delivers. With `loss`, so
many of its packets are lost: what they held, and all behind it, comes a round trip and 200 ms later
than it would have, which is how long Linux waits before it sends a lone packet again (RFC 6298).
Where nobody is at the target, a connection waits for somebody, as in a network that loses packets.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

CHUNK = 16 << 10  # bytes read in one go: how finely the rate is kept
KERNEL_BYTES = 64 << 10  # asked of the kernel's own buffers: what waits, waits in the line
CONNECT_SECONDS = 5.0
MID_MESSAGE_SECONDS = 0.5  # for this long a cut waits for something to be forwarded
MAX_LINE_BYTES = 64 << 20
PACKET_BYTES = 1448  # what a packet of Ethernet carries of a TCP stream
AGAIN_SENT_SECONDS = 0.2  # on top of a round trip, until a lost packet is sent again
IDLE_SECONDS = 0.5
PATIENCE_SECONDS = 30.0  # for so long a connection waits for somebody at the target
AGAIN_SECONDS = 0.1  # between two looks whether somebody is
STALLED_SECONDS = 0.02  # a relay that was stalled goes on after at most this


def split_address(address: str) -> tuple[str, int] | str:
    """Host and port of `tcp://host:port`, or the path of `ipc:///path`."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        return rest
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdecimal():
        raise ValueError(f"{address!r} is neither tcp://host:port nor ipc:///path")
    return host.strip("[]"), int(port)


def _listen(address: str) -> tuple[socket.socket, str]:
    place = split_address(address)
    if isinstance(place, str):
        server = socket.socket(socket.AF_UNIX)
        server.bind(place)
        server.listen(128)
        return server, address
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    server = socket.create_server(place, family=family, backlog=128)
    host, port = server.getsockname()[:2]
    return server, f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _dial(address: str) -> socket.socket:
    place = split_address(address)
    if not isinstance(place, str):
        return socket.create_connection(place, CONNECT_SECONDS)
    end = socket.socket(socket.AF_UNIX)
    try:
        end.settimeout(CONNECT_SECONDS)
        end.connect(place)
    except BaseException:
        end.close()
        raise
    return end


class Line:
    """One direction of one connection: when which bytes come out. Knows no socket.

    Args:
        rate: bytes per second; 0: no limit.
        delay: seconds from an end of the line to the other.
        buffer: seconds of sending that may wait to enter.
        jitter: the most seconds that are added to the delay.
        loss: the part of packets that are lost.
        draw: draws random numbers from 0 to 1 for these two.
    """

    def __init__(
        self,
        rate: float,
        delay: float,
        buffer: float,
        jitter: float = 0.0,
        loss: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._rate, self._delay, self._buffer = rate, delay, buffer
        self._jitter, self._loss, self._draw = jitter, loss, draw
        self._free = self._last = 0.0  # when the last byte taken so far has entered, comes out
        self._held = 0
        self._chunks: deque[tuple[float, memoryview]] = deque()

    def room_at(self, now: float) -> float:
        """When the line takes more bytes; `now` or earlier: at once."""
        if self._held > MAX_LINE_BYTES:
            return now + 0.001
        return self._free - self._buffer

    def enter(self, data: bytes, now: float) -> None:
        """Take bytes in."""
        self._free = max(self._free, now)
        if self._rate:
            self._free += len(data) / self._rate
        due = self._free + self._delay
        if self._jitter:
            due += self._jitter * self._draw()
        if self._loss and self._draw() > (1 - self._loss) ** math.ceil(len(data) / PACKET_BYTES):
            due += 2 * self._delay + AGAIN_SENT_SECONDS
        self._last = max(self._last, due)  # nothing overtakes
        self._chunks.append((self._last, memoryview(data)))
        self._held += len(data)

    def due_at(self) -> float | None:
        """When the next bytes come out; None: the line is empty."""
        return self._chunks[0][0] if self._chunks else None

    def due(self, now: float) -> memoryview | None:
        """The bytes that come out next, if it is time."""
        if self._chunks and self._chunks[0][0] <= now:
            return self._chunks[0][1]
        return None

    def left(self, count: int) -> None:
        """So many of the bytes that were due are out."""
        when, data = self._chunks.popleft()
        if count < len(data):
            self._chunks.appendleft((when, data[count:]))
        self._held -= count


class _Way:
    """A line between two sockets."""

    def __init__(self, source: socket.socket, sink: socket.socket, line: Line) -> None:
        self.source, self.sink, self.line = source, sink, line
        self.ended = False  # the source says nothing more
        self.blocked = False  # the sink takes nothing now


class _Connection:
    def __init__(self, near: socket.socket, far: socket.socket, ways: tuple[_Way, _Way]) -> None:
        self.near, self.far, self.ways = near, far, ways
        self.cut_after: float | None = None  # cut mid-message: at the latest then


class Relay:
    """A relay in a thread, from `listen` to `target`; what it does is told on top of the module.

    Args:
        target: where to forward to; it need not be there yet.
        listen: where clients connect; `address` is where that really is.
        rtt: seconds that bytes take there and back.
        mbit: megabits per second and direction of each connection; 0: no limit.
        buffer: seconds of sending that may wait to enter a line.
        jitter: the most seconds by which something is delayed further, each way.
        loss: the part of packets that are lost.
        cuts_per_minute: random cuts, half of them in the middle of a message, at random moments.
        seed: for these, and for where a message is cut.

    Attributes:
        cuts: connections cut so far.
        forwarded: bytes forwarded so far, both directions together.
        stalled: forward nothing, and close nothing.
    """

    def __init__(
        self,
        target: str,
        *,
        listen: str = "tcp://127.0.0.1:0",
        rtt: float = 0.0,
        mbit: float = 0.0,
        buffer: float = 0.05,
        jitter: float = 0.0,
        loss: float = 0.0,
        cuts_per_minute: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.stalled = False
        self.cuts = 0
        self.forwarded = 0
        split_address(target)
        self._target = target
        self._rate = cuts_per_minute / 60
        self._random = random.Random(seed)
        self._line = (mbit * 1e6 / 8, rtt / 2, buffer, jitter, loss, self._random.random)
        self._connections: list[_Connection] = []
        self._waiting: list[tuple[socket.socket, float]] = []  # and until when
        self._orders: deque[bool] = deque()  # cuts that were asked for: mid-message?
        self._done = threading.Condition()
        self._taken = self._given = 0
        self._stop = False
        self._server, self.address = _listen(listen)
        self._server.setblocking(False)
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def cut(self, *, mid_message: bool = False) -> None:
        """Cut every connection, and drop what the relay holds of it; returns once that is done.

        With `mid_message`, each forwards a part of the next thing that comes (or of what it
        holds), and dies then; where nothing comes for half a second, it dies without.
        """
        with self._done:
            self._given += 1
            mine = self._given
            self._orders.append(mid_message)
            self._wake()
            if not self._done.wait_for(lambda: self._taken >= mine, 10):
                raise TimeoutError("the relay did not take the order to cut")

    def close(self) -> None:
        """End it, and every connection with it."""
        self._stop = True
        self._wake()
        self._thread.join(10)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # -- the relay's own thread ------------------------------------------------------------

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full, so it is awake already; or closed
            self._ring.send(b"!")

    def _run(self) -> None:
        next_cut = self._next_cut()
        try:
            while not self._stop:
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
                self._obey()
                now = time.monotonic()
                if next_cut is not None and now >= next_cut:
                    self._order(mid_message=self._random.random() < 0.5)
                    next_cut = self._next_cut()
                self._join_waiting(now)
                wait = STALLED_SECONDS if self.stalled else IDLE_SECONDS
                wait = min(wait, AGAIN_SECONDS) if self._waiting else wait
                self._wait(now, wait if next_cut is None else min(wait, max(0.0, next_cut - now)))
        finally:
            for connection in self._connections:
                self._reset(connection)
            for near, _ in self._waiting:
                near.close()
            for end in (self._server, self._bell, self._ring):
                end.close()
            place = split_address(self.address)
            if isinstance(place, str):
                Path(place).unlink(missing_ok=True)

    def _next_cut(self) -> float | None:
        return time.monotonic() + self._random.expovariate(self._rate) if self._rate else None

    def _obey(self) -> None:
        with self._done:
            while self._orders:
                self._order(mid_message=self._orders.popleft())
                self._taken += 1
            self._done.notify_all()

    def _order(self, *, mid_message: bool) -> None:
        for connection in list(self._connections):
            if mid_message:
                connection.cut_after = time.monotonic() + MID_MESSAGE_SECONDS
            else:
                self._cut(connection)

    def _wait(self, now: float, wait: float) -> None:
        """Wait until something can be done, at most `wait` seconds, and do it."""
        # select takes microseconds, where epoll would round each delay up to a millisecond.
        with selectors.SelectSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            selector.register(self._server, selectors.EVENT_READ)
            interest: dict[socket.socket, int] = {}
            for connection in [] if self.stalled else self._connections:
                for way in connection.ways:
                    if not way.ended:
                        if (room := way.line.room_at(now)) <= now:
                            self._want(interest, way.source, selectors.EVENT_READ)
                        else:
                            wait = min(wait, room - now)
                    if (due := way.line.due_at()) is not None:
                        if way.blocked:
                            self._want(interest, way.sink, selectors.EVENT_WRITE)
                        else:
                            wait = min(wait, max(0.0, due - now))
                if connection.cut_after is not None:
                    wait = min(wait, max(0.0, connection.cut_after - now))
            for end, events in interest.items():
                selector.register(end, events)
            ready: dict[object, int] = {
                key.fileobj: events for key, events in selector.select(wait)
            }
        if self._server in ready:
            self._accept()
        if self.stalled:
            return
        for connection in list(self._connections):
            try:
                self._forward(connection, ready)
            except OSError:
                self._drop(connection)

    @staticmethod
    def _want(interest: dict[socket.socket, int], end: socket.socket, events: int) -> None:
        interest[end] = interest.get(end, 0) | events

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._server.accept()
            near.setblocking(False)
            self._waiting.append((near, time.monotonic() + PATIENCE_SECONDS))
            self._join_waiting(time.monotonic())

    def _join_waiting(self, now: float) -> None:
        for waiting in list(self._waiting):
            near, until = waiting
            try:
                far = _dial(self._target)
            except OSError:
                if now < until and not _has_ended(near):
                    continue
                near.close()
            else:
                self._join(near, far)
            self._waiting.remove(waiting)

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = (_Way(near, far, Line(*self._line)), _Way(far, near, Line(*self._line)))
        self._connections.append(_Connection(near, far, ways))

    def _forward(self, connection: _Connection, ready: dict[object, int]) -> None:
        for way in connection.ways:
            if ready.get(way.source, 0) & selectors.EVENT_READ and not way.ended:
                if came := way.source.recv(CHUNK):
                    way.line.enter(came, time.monotonic())
                else:
                    way.ended = True
            way.blocked = False
            while (data := way.line.due(time.monotonic())) is not None:
                if connection.cut_after is not None and len(data) > 1:
                    way.sink.send(data[: self._random.randrange(1, len(data))])
                    self._cut(connection)
                    return
                try:
                    sent = way.sink.send(data)
                except BlockingIOError:
                    way.blocked = True
                    break
                way.line.left(sent)
                self.forwarded += sent
            if way.ended and way.line.due_at() is None:
                self._drop(connection)
                return
        if connection.cut_after is not None and time.monotonic() >= connection.cut_after:
            self._cut(connection)

    def _cut(self, connection: _Connection) -> None:
        self.cuts += 1
        self._reset(connection)
        self._connections.remove(connection)

    def _reset(self, connection: _Connection) -> None:
        for end in (connection.near, connection.far):
            # What the kernel holds goes too, and the other side is told by a reset.
            with contextlib.suppress(OSError):
                linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            end.close()

    def _drop(self, connection: _Connection) -> None:
        """One end closed, and all it had said is forwarded: the other one learns it."""
        connection.near.close()
        connection.far.close()
        self._connections.remove(connection)


def _has_ended(end: socket.socket) -> bool:
    try:
        return end.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _orders() -> Iterator[str]:
    for line in sys.stdin:
        yield " ".join(line.split())


def main() -> None:
    """The relay as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target")
    parser.add_argument("--listen", default="tcp://127.0.0.1:0")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--mbit", type=float, default=0.0)
    parser.add_argument("--jitter-ms", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.0, help="part of packets, such as 0.001")
    parser.add_argument("--cuts-per-minute", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with Relay(
        args.target,
        listen=args.listen,
        rtt=args.rtt_ms / 1000,
        mbit=args.mbit,
        jitter=args.jitter_ms / 1000,
        loss=args.loss,
        cuts_per_minute=args.cuts_per_minute,
        seed=args.seed,
    ) as relay:
        print(relay.address, flush=True)
        for order in _orders():
            match order:
                case "cut" | "cut mid":
                    relay.cut(mid_message=order == "cut mid")
                    print(f"cuts: {relay.cuts}", flush=True)
                case "stall" | "go on":
                    relay.stalled = order == "stall"
                case "end":
                    break


if __name__ == "__main__":
    main()
