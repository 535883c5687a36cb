"""Runs one process of `psi.executors.processes`: `python -m psi.executors.child SOCKET`."""

from __future__ import annotations

import contextlib
import socket
import sys
from importlib import import_module

from psi.errors import PSIError
from psi.executors.frames import pack, unpack
from psi.executors.processes import FAILED, FINE, REFUSED, receive, send


def serve(descriptor: int) -> None:
    """Answer calls until the process that started this one closes the socket or dies."""
    with (
        socket.socket(fileno=descriptor) as connection,
        connection.makefile("rb") as file,
        contextlib.suppress(EOFError, OSError),
    ):
        while True:
            send(connection, answer(receive(file)))


def answer(frame: bytes) -> bytes:
    """Call the function of psi that a frame names, and return its result or its error.

    Of errors of others only the type is told, because their texts may hold ids.
    """
    module, name, *parts = unpack(frame)
    try:
        work = getattr(import_module(module.decode()), name.decode())
        result: bytes = FINE + work(*parts)
    except PSIError as error:
        return REFUSED + pack([type(error).__name__.encode(), str(error).encode()])
    except Exception as error:  # whatever it is, the process goes on
        return FAILED + type(error).__name__.encode()
    return result


if __name__ == "__main__":
    serve(int(sys.argv[1]))
