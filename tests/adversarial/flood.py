"""A process that does harm to the Host of a task, in every way, until it is killed.

    python -m tests.adversarial.flood TASK HARM...

Prints a line once it has made 1000 connections.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import threading
import time

from heterofed.errors import HeteroFedError
from heterofed.files import heterofed_home
from heterofed.identity.task_file import load_task, task_path
from heterofed.protocol.codec import encode
from heterofed.protocol.messages import Hello
from heterofed.rendezvous.agreement import task_digest
from heterofed.rendezvous.backend import TaskPlace

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)


class Flood:
    """The ways to do harm; each is called again and again."""

    def __init__(self, task: str) -> None:
        self._task = load_task(task_path(task, heterofed_home()))
        host, _, port = self._task.address.removeprefix("tcp://").partition(":")
        self._address = (host, int(port))
        self.made = 0

    def connect(self) -> socket.socket:
        self.made += 1
        if self.made == 1000:
            print("a thousand", flush=True)
        return socket.create_connection(self._address, 2)

    def stall(self) -> None:
        """A thousand connections that say nothing."""
        with contextlib.ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(self.connect())
            time.sleep(5)

    def trickle(self) -> None:
        """One byte of a handshake at a time."""
        with self.connect() as link:
            for byte in GREETING:
                link.send(bytes([byte]))
                time.sleep(0.1)

    def babble(self) -> None:
        """A greeting, and megabytes of noise."""
        with self.connect() as link:
            link.sendall(GREETING)
            for _ in range(100):
                link.sendall(secrets.token_bytes(1 << 16))

    def come_again(self) -> None:
        """bob's own key, a connection after the other, each with a Hello."""
        place = TaskPlace(self._task, "bob", heterofed_home())
        digest, nonce = task_digest(self._task.task), secrets.token_bytes(16)
        hello = Hello((1,), "train", digest, "bob", nonce, True, terms=place.terms)
        endpoint = place.connect()
        try:
            endpoint.channel.send(encode(hello))  # type: ignore[attr-defined]
            endpoint.poll(0.05)
        finally:
            endpoint.close()


def main() -> None:
    task, *harms = sys.argv[1:]
    flood = Flood(task)

    def again(harm: str) -> None:
        while True:
            with contextlib.suppress(OSError, HeteroFedError):
                getattr(flood, harm)()

    for harm in harms:
        threading.Thread(target=again, args=(harm,), daemon=True).start()
    time.sleep(600)


if __name__ == "__main__":
    main()
