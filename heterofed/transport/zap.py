"""Who may connect: CURVE keys and the ZAP handler that admits only listed ones.

The handler answers in a thread of its own, because a handshake must go on while the endpoint's
owner computes. It knows public keys and nothing of names, tasks or frames.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from heterofed.errors import ConfigError

logger = logging.getLogger("heterofed")

DOMAIN = b"heterofed"
_ADDRESS = "inproc://zeromq.zap.01"
_STOP = "inproc://heterofed.zap.stop"
_REQUEST_PARTS = 7  # version, request id, domain, address, routing id, mechanism, public key


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A listener's own key pair and the parties it admits.

    Attributes:
        public: own public key (40 characters, Z85).
        secret: own secret key (40 characters, Z85).
        parties: party name to that party's public key.
    """

    public: str
    secret: str = field(repr=False)
    parties: Mapping[str, str]

    def __post_init__(self) -> None:
        _check_pair(self.public, self.secret)
        for party, key in self.parties.items():
            _check(key, f"the public key of {party!r}")
        if not self.parties:
            raise ConfigError("no party is listed, so nobody could connect")
        if len(set(self.parties.values())) != len(self.parties):
            raise ConfigError("two parties have the same public key; each needs a key of its own")


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A connecting party's own key pair and the public key of the listener it trusts."""

    public: str
    secret: str = field(repr=False)
    server: str

    def __post_init__(self) -> None:
        _check_pair(self.public, self.secret)
        _check(self.server, "the public key of the Host")


def new_key_pair() -> tuple[str, str]:
    """A fresh key pair: public, secret (Z85)."""
    require_curve()
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def require_curve() -> None:
    if not zmq.has("curve"):
        raise ConfigError("this build of pyzmq has no CURVE: install pyzmq from its wheels")


def _check_pair(public: str, secret: str) -> None:
    require_curve()
    _check(public, "the own public key")
    _check(secret, "the own secret key")
    if zmq.curve_public(secret.encode()).decode() != public:
        raise ConfigError("the own public key does not belong to the own secret key")


def _check(key: str, what: str) -> None:
    # The message must not show the key: it may be the secret one.
    try:
        good = len(key) == 40 and z85.encode(z85.decode(key.encode("ascii"))) == key.encode()
    except Exception:  # KeyError, ValueError, struct.error: whatever z85 stumbles over
        good = False
    if not good:
        raise ConfigError(f"{what} is not a Z85 key of 40 characters")


class ZapHandler:
    """Answers libzmq's questions about newcomers in one context, until `stop`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._requests = context.socket(zmq.REP)
        self._stopping = context.socket(zmq.PAIR)
        self._stopper = context.socket(zmq.PAIR)
        for socket in (self._requests, self._stopping, self._stopper):
            socket.setsockopt(zmq.LINGER, 0)
        self._requests.bind(_ADDRESS)
        self._stopping.bind(_STOP)
        self._stopper.connect(_STOP)
        self._thread = threading.Thread(target=self._run, name="heterofed-zap", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopper.send(b"stop")
        self._thread.join(10)
        self._stopper.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._requests, zmq.POLLIN)
        poller.register(self._stopping, zmq.POLLIN)
        try:
            while self._stopping not in (ready := dict(poller.poll(1000))):
                if self._requests in ready:
                    request = self._requests.recv_multipart()
                    self._requests.send_multipart(answer(request, self._allowed))
        finally:
            self._requests.close()
            self._stopping.close()


def answer(request: list[bytes], allowed: frozenset[str]) -> list[bytes]:
    """The reply to one ZAP request (ZeroMQ RFC 27): the key as User-Id, or 400."""
    request_id = request[1] if len(request) > 1 else b""
    if (
        len(request) == _REQUEST_PARTS
        and request[0] == b"1.0"
        and request[2] == DOMAIN
        and request[5] == b"CURVE"
        and len(request[6]) == 32
        and (key := z85.encode(request[6]).decode()) in allowed
    ):
        return [b"1.0", request_id, b"200", b"", key.encode(), b""]
    logger.debug("a connection with an unknown key was turned away")
    return [b"1.0", request_id, b"400", b"", b"", b""]
