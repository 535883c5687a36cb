"""The bad network that other tests and benchmarks trust: its line as numbers, its cuts as bytes."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.relay import Line, Relay, split_address
from tests.transport.rigs import ROOT


class Echo:
    """Answers every connection with what it said."""

    def __init__(self, address: str) -> None:
        place = split_address(address)
        if isinstance(place, str):
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(place)
            self._server.listen()
            self.address = address
        else:
            self._server = socket.create_server(place)
            self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.heard: list[bytearray] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                end, _ = self._server.accept()
                with end:
                    self.heard.append(bytearray())
                    try:
                        while data := end.recv(65536):
                            self.heard[-1] += data
                            end.sendall(data)
                    except OSError:
                        continue
        except OSError:
            return

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)


@pytest.fixture(params=["tcp", "ipc"])
def echo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Echo]:
    echo = Echo("tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{tmp_path}/s")
    yield echo
    echo.close()


def dial(relay: Relay) -> socket.socket:
    place = split_address(relay.address)
    assert not isinstance(place, str)
    return socket.create_connection(place, 10)


def ask(end: socket.socket, data: bytes) -> bytes:
    """What comes back for `data`; less where the connection ends."""
    got = bytearray()
    sender = threading.Thread(target=lambda: end.sendall(data))
    sender.start()
    while len(got) < len(data) and (more := end.recv(65536)):
        got += more
    sender.join(10)
    return bytes(got)


def test_everything_arrives_in_order(echo: Echo) -> None:
    data = random.Random(1).randbytes(3_000_000)
    with Relay(echo.address, rtt=0.01, mbit=800) as relay, dial(relay) as end:
        assert ask(end, data) == data
        relay.close()  # what is counted is counted
        assert relay.forwarded == 2 * len(data)
        assert relay.cuts == 0


@given(
    st.lists(st.tuples(st.integers(1, 20_000), st.floats(0, 0.1)), min_size=1, max_size=30),
    st.sampled_from([0.0, 1e5, 1e6]),
    st.sampled_from([0.0, 0.025]),
)
def test_a_line_takes_its_time_and_no_more(
    sent: list[tuple[int, float]], rate: float, delay: float
) -> None:
    """Each chunk leaves as if bytes went one after another: bulk at the rate, small at once."""
    line = Line(rate, delay, buffer=1e9)
    now = free = 0.0
    expected, total = [], 0
    for size, pause in sent:
        now += pause
        assert line.room_at(now) <= now
        line.enter(bytes(size), now)
        free = max(free, now) + (size / rate if rate else 0.0)
        total += size
        expected.append((free + delay, size))
    for due, size in expected:
        at = line.due_at()
        assert at is not None
        assert at == pytest.approx(due)
        assert line.due(at - 1e-6) is None
        data = line.due(at)
        assert data is not None
        assert len(data) == size
        line.left(size // 2)
        if size // 2 < size:
            line.left(size - size // 2)
    assert line.due_at() is None


def test_a_line_takes_no_more_than_its_buffer() -> None:
    line = Line(rate=1000.0, delay=5.0, buffer=0.1)
    line.enter(bytes(99), 0.0)
    assert line.room_at(0.0) <= 0.0
    line.enter(bytes(101), 0.0)
    assert line.room_at(0.0) == pytest.approx(0.1)


def came_out(line: Line, count: int) -> list[float]:
    """When each of so many bytes comes out, of which one enters in each millisecond."""
    out = []
    for number in range(count):
        line.enter(b"x", number / 1000)
    while (due := line.due_at()) is not None:
        out.append(due)
        line.left(1)
    return out


def test_jitter_delays_and_nothing_overtakes() -> None:
    out = came_out(Line(0.0, 0.1, 1.0, jitter=0.02, draw=random.Random(1).random), 1000)
    late = [each - number / 1000 - 0.1 for number, each in enumerate(out)]
    assert out == sorted(out)
    assert min(late) >= 0
    assert 0.015 < max(late) <= 0.02


def test_a_lost_packet_comes_a_round_trip_and_a_pause_later_with_all_behind_it() -> None:
    draws = iter([0.5, 0.9995, *[0.5] * 998])  # the second one is lost
    out = came_out(Line(0.0, 0.1, 1.0, loss=0.001, draw=lambda: next(draws)), 1000)
    assert out[0] == pytest.approx(0.1)
    assert out[1:402] == pytest.approx([0.001 + 0.1 + 0.2 + 0.2] * 401, abs=1e-3)
    assert out[403:] == pytest.approx([each / 1000 + 0.1 for each in range(403, 1000)])


def test_more_packets_are_lost_of_more_bytes() -> None:
    def lost(size: int) -> int:
        line = Line(0.0, 0.0, 1.0, loss=0.01, draw=random.Random(1).random)
        found = 0
        for number in range(2000):
            line.enter(bytes(size), float(number))
            found += (line.due_at() or 0.0) > number + 0.1
            line.left(size)
        return found

    assert lost(1) == pytest.approx(20, abs=12)
    assert lost(14_480) == pytest.approx(2000 * (1 - 0.99**10), rel=0.2)


def test_a_cut_resets_both_ends_and_the_next_connection_works(echo: Echo) -> None:
    with Relay(echo.address) as relay:
        for count in range(1, 4):
            with dial(relay) as end:
                assert ask(end, b"hello") == b"hello"
                relay.cut()
                assert relay.cuts == count
                with pytest.raises(ConnectionResetError):
                    end.recv(1)


def test_a_cut_in_the_middle_lets_a_part_through(echo: Echo) -> None:
    with Relay(echo.address) as relay, dial(relay) as end:
        assert ask(end, b"hello") == b"hello"
        relay.cut(mid_message=True)
        end.sendall(bytes(10_000))
        with pytest.raises(ConnectionResetError):
            end.recv(1)
            end.recv(10_000)
            end.recv(10_000)
        assert relay.cuts == 1
        assert 5 <= len(echo.heard[0]) < 10_005


@pytest.mark.slow
def test_a_cut_in_the_middle_comes_where_nothing_is_said(echo: Echo) -> None:
    with Relay(echo.address) as relay, dial(relay) as end:
        assert ask(end, b"hello") == b"hello"
        relay.cut(mid_message=True)
        with pytest.raises(ConnectionResetError):
            end.recv(1)


def test_what_is_held_goes_with_the_cut(echo: Echo) -> None:
    with Relay(echo.address, rtt=60) as relay, dial(relay) as end:
        end.sendall(b"late")
        deadline = time.monotonic() + 10
        while not echo.heard and time.monotonic() < deadline:
            time.sleep(0.01)
        relay.cut()
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert all(not heard for heard in echo.heard)


def test_random_cuts_come_by_themselves(echo: Echo) -> None:
    with Relay(echo.address, cuts_per_minute=3000, seed=3) as relay:
        for _ in range(5):
            with dial(relay) as end, contextlib.suppress(OSError):
                while True:
                    end.sendall(b"x" * 100)
                    assert end.recv(100)
        assert relay.cuts >= 5


def test_a_stalled_relay_closes_nothing_and_goes_on(echo: Echo) -> None:
    with Relay(echo.address) as relay, dial(relay) as end:
        assert ask(end, b"one") == b"one"
        relay.stalled = True
        end.sendall(b"two")
        end.settimeout(0.2)
        with pytest.raises(TimeoutError):
            end.recv(3)
        relay.stalled = False
        end.settimeout(10)
        assert end.recv(3) == b"two"


def test_a_connection_waits_for_somebody_at_the_target(tmp_path: Path) -> None:
    target = f"ipc://{tmp_path}/s"
    with Relay(target) as relay, dial(relay) as end:
        gone = dial(relay)
        gone.close()
        end.sendall(b"early")
        time.sleep(0.3)
        echo = Echo(target)
        assert end.recv(5) == b"early"
        end.close()
        assert len(echo.heard) == 1
        echo.close()


def test_the_end_of_one_side_reaches_the_other(echo: Echo) -> None:
    with Relay(echo.address, rtt=0.05) as relay:
        with dial(relay) as end:
            end.sendall(b"last words")
        with dial(relay) as end:  # served once the first is over
            assert ask(end, b"next") == b"next"
        assert [bytes(heard) for heard in echo.heard] == [b"last words", b"next"]


def test_a_relay_of_its_own_process(echo: Echo) -> None:
    command = [sys.executable, "-m", "benchmarks.relay", echo.address, "--rtt-ms", "1"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        place = split_address(process.stdout.readline().strip())
        assert not isinstance(place, str)
        with socket.create_connection(place, 10) as end:
            assert ask(end, b"hello") == b"hello"
            process.stdin.write("cut\n")
            process.stdin.flush()
            assert process.stdout.readline() == "cuts: 1\n"
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        process.stdin.write("end\n")
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.parametrize("address", ["", "tcp://", "tcp://x", "udp://x:1", "tcp://x:y", "x:1"])
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(ValueError):
        Relay(address)
