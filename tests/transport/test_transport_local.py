from __future__ import annotations

import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from heterofed.errors import ConfigError
from heterofed.rendezvous import local
from heterofed.rendezvous.local import MAX_PATH_BYTES, HostLock, local_address, lock_path
from heterofed.transport.zeromq import connect, listen
from tests.transport.rigs import Party, connected, pump, start_python


@pytest.fixture
def home() -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def test_the_same_task_meets_at_the_same_private_place(home: Path) -> None:
    place = local_address("täsk/../\udc80", home)
    assert place == local_address("täsk/../\udc80", home)
    assert place.socket != local_address("other", home).socket
    assert place.socket.parent == home / "run"
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700
    assert place.address == f"ipc://{place.socket}"


def test_a_long_path_is_refused_with_the_remedy(home: Path) -> None:
    with pytest.raises(ConfigError, match="HETEROFED_HOME"):
        local_address("task", home / ("x" * MAX_PATH_BYTES))
    assert not list(home.iterdir())


def test_no_unix_sockets_says_where_to_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_has_unix_sockets", lambda: False)
    with pytest.raises(ConfigError, match="Linux or macOS"):
        local_address("task", home)


def test_a_second_host_is_refused_by_name_until_the_first_is_done(home: Path) -> None:
    place = local_address("my-task", home)
    with HostLock(place.task_id, place.lock, place.socket):
        with pytest.raises(ConfigError, match="my-task"):
            HostLock(place.task_id, place.lock, place.socket).acquire()
        with HostLock("other", lock_path("other", home)):
            pass
    for _ in range(2):
        with HostLock(place.task_id, place.lock, place.socket):
            pass


HOST = """
import sys
from pathlib import Path
from heterofed.rendezvous.local import HostLock, local_address
from heterofed.transport.zeromq import listen

place = local_address("task", Path(sys.argv[1]))
lock = HostLock(place.task_id, place.lock, place.socket)
lock.acquire()
listener = listen(place.address)
while True:
    listener.poll(10)
"""


def test_a_killed_host_leaves_a_stale_socket_that_is_replaced(home: Path) -> None:
    place = local_address("task", home)
    with start_python(HOST, str(home)) as process:
        deadline = time.monotonic() + 20
        while not place.socket.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(ConfigError):
            HostLock(place.task_id, place.lock, place.socket).acquire()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert place.socket.exists()
    with HostLock(place.task_id, place.lock, place.socket):
        assert not place.socket.exists()
        listener = Party(listen(place.address))
        peer = connected(connect(place.address))
        peer.channel.send([b"hello"])
        pump([listener, peer], lambda: listener.frames() == [b"hello"])
        peer.endpoint.close()
        listener.endpoint.close()
