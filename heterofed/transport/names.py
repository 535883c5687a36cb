"""Resolves the host name of an address, because libzmq does not report names that do not exist."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from heterofed.errors import ConfigError

logger = logging.getLogger("heterofed")

PATIENCE_SECONDS = 30.0
"""The longest time in seconds for which a name server may be out of reach."""


def host_and_port(address: str) -> tuple[str, str]:
    """Return the host, without brackets, and the port of an address `tcp://HOST:PORT`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), port


class HostName:
    """The host name of an address, which is looked up until it was found once.

    Args:
        address: an address of the form `tcp://HOST:PORT`.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self._clock = address, clock
        self._host, self._port = host_and_port(address)
        self._found = False
        self._failing_since: float | None = None

    def check(self) -> None:
        """Look the name up.

        Raises:
            ConfigError: the name does not exist, or no name server was reached for
                `PATIENCE_SECONDS`.
        """
        if self._found:
            return
        try:
            socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            self._failed(error)
        except UnicodeError:
            raise ConfigError(self._told("it is not a host name")) from None
        else:
            self._found = True

    def _failed(self, error: socket.gaierror) -> None:
        told, now = self._told(error.strerror or "no such name"), self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if error.errno != socket.EAI_AGAIN or now - self._failing_since >= PATIENCE_SECONDS:
            raise ConfigError(told) from None
        if now == self._failing_since:
            logger.warning("%s; trying for %.0f s", told, PATIENCE_SECONDS)

    def _told(self, why: str) -> str:
        return (
            f"the Host's name {self._host!r} cannot be resolved on this machine ({why}): compare"
            f" the address in the task file ({self._address}) with the Host's, or look at the DNS"
            " of this machine"
        )
