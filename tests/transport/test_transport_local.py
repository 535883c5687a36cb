from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from heterofed.errors import ConfigError
from heterofed.transport import local
from heterofed.transport.local import (
    MAX_PATH_BYTES,
    HostLock,
    heterofed_home,
    local_address,
    lock_path,
)
from heterofed.transport.zeromq import connect, listen
from tests.transport.rigs import Party, connected, pump, start_python


@pytest.fixture
def home() -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def test_home_comes_from_the_environment_and_is_not_created(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETEROFED_HOME", str(home / "other"))
    assert heterofed_home() == home / "other"
    assert not (home / "other").exists()
    monkeypatch.setenv("HETEROFED_HOME", "")
    assert heterofed_home().name == "heterofed"


def test_the_same_task_meets_at_the_same_private_place(home: Path) -> None:
    place = local_address("täsk/../\udc80", home)
    assert place == local_address("täsk/../\udc80", home)
    assert place.socket != local_address("other", home).socket
    assert place.socket.parent == home / "run"
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700
    assert place.address == f"ipc://{place.socket}"


def test_a_loose_directory_is_tightened(home: Path) -> None:
    (home / "run").mkdir()
    (home / "run").chmod(0o777)
    local_address("task", home)
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700


def test_a_directory_of_somebody_else_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345678)
    with pytest.raises(ConfigError, match="another user"):
        local_address("task", home)


def test_a_directory_that_stays_open_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "run").mkdir(mode=0o755)
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    with pytest.raises(ConfigError, match="open to other users"):
        local_address("task", home)


def test_a_link_or_a_file_in_its_place_is_refused(home: Path) -> None:
    (home / "real").mkdir()
    (home / "run").symlink_to(home / "real")
    with pytest.raises(ConfigError):
        local_address("task", home)
    (home / "run").unlink()
    (home / "run").write_text("")
    with pytest.raises(ConfigError):
        local_address("task", home)


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
from heterofed.transport.local import HostLock, local_address
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
