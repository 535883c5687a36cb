"""Somebody on the way: forwards TCP, keeps what it saw, and changes what it likes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

Tamper = Callable[[str, bytes], bytes]


def honest(_way: str, data: bytes) -> bytes:
    return data


class Middle:
    """A relay in front of a port; `seen["up"]` is what went to the target, `seen["down"]` back."""

    def __init__(self, target: int, tamper: Tamper = honest) -> None:
        self.seen = {"up": bytearray(), "down": bytearray()}
        self.tamper = tamper
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._ends += [near, far]
                for way, source, sink in (("up", near, far), ("down", far, near)):
                    threading.Thread(
                        target=self._forward, args=(way, source, sink), daemon=True
                    ).start()

    def _forward(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.seen[way] += data
                sink.sendall(self.tamper(way, data))
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        for end in (self._server, *self._ends):
            end.close()
