"""Runs calls in processes of this machine, and replaces those that die.

The processes are started with `python -m psi.executors.child`, and so they do not run the caller's
script again, as those of `multiprocessing` would. Bytes go both ways through one socket for each.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from queue import Empty, LifoQueue
from typing import IO

import psi.errors
from psi.errors import PSIError
from psi.executors.frames import pack, unpack
from psi.executors.pool import Pool, Work, WorkerLostError, failed

FINE, REFUSED, FAILED = b"0", b"1", b"2"
"""The first byte of an answer: a result follows, an error of psi, or another error's type."""

_NUMBER = 8
_ENDS_WITHIN = 5.0


class Processes(Pool):
    """A fixed number of processes; each has one call at a time."""

    elsewhere = False

    def __init__(self, count: int) -> None:
        self.slots, self.name = count, f"processes:{count}"
        self._closed = False
        self._idle: LifoQueue[_Child] = LifoQueue()
        for _ in range(count):
            self._idle.put_nowait(_Child())

    def attempt(self, work: Work, parts: Sequence[bytes], seconds: float) -> object:
        """See `Pool.attempt`."""
        try:
            child = self._idle.get(timeout=seconds)
        except Empty:
            raise TimeoutError from None
        try:
            answer = child.ask(work, parts, seconds)
        except (OSError, EOFError) as error:  # it died, or its time is up
            child.end()
            child = _Child()
            if isinstance(error, TimeoutError):
                raise
            raise WorkerLostError from None
        finally:
            if self._closed:
                child.end()
            else:
                self._idle.put_nowait(child)
        return self._result(answer)

    def _result(self, answer: bytes) -> bytes:
        """Return what a process computed, or raise what it says that it raised."""
        kind, data = answer[:1], answer[1:]
        if kind == FINE:
            return data
        if kind == FAILED:
            raise failed(self, data.decode())
        name, text = unpack(data)
        error: type[PSIError] = getattr(psi.errors, name.decode(), PSIError)
        raise error(text.decode())

    def close(self) -> None:
        """End the processes; those that are busy end with their call."""
        self._closed = True
        with contextlib.suppress(Empty):
            while True:
                self._idle.get_nowait().end()


class _Child:
    """One process and the socket to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, "-m", "psi.executors.child", str(theirs.fileno())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            # In a session of its own, so that Ctrl-C reaches this process alone, whose end the
            # child sees.
            self._process = subprocess.Popen(  # noqa: S603
                command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self._file = self._socket.makefile("rb")

    def ask(self, work: Work, parts: Sequence[bytes], seconds: float) -> bytes:
        """Return the answer; raise `TimeoutError`, or another `OSError` for a dead process."""
        self._socket.settimeout(seconds)
        send(self._socket, pack([work.__module__.encode(), work.__name__.encode(), *parts]))
        return receive(self._file)

    def end(self) -> None:
        """Kill the process and wait for it."""
        for each in (self._file, self._socket):
            with contextlib.suppress(OSError):
                each.close()
        self._process.kill()
        self._process.wait(_ENDS_WITHIN)


def send(connection: socket.socket, frame: bytes) -> None:
    """Send the length of a frame and the frame."""
    connection.sendall(len(frame).to_bytes(_NUMBER, "little") + frame)


def receive(file: IO[bytes]) -> bytes:
    """Return the next frame; raise `EOFError` if the other process is gone."""
    head = file.read(_NUMBER)
    size = int.from_bytes(head, "little")
    frame = file.read(size) if len(head) == _NUMBER else b""
    if len(head) < _NUMBER or len(frame) < size:
        raise EOFError
    return frame
