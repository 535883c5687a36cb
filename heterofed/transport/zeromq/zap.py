"""CURVE keys, and the ZAP handler that admits only listed keys.

The handler answers in a thread of its own, because handshakes must proceed while the endpoint's
owner computes. It knows public keys, and nothing of tasks or frames.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from heterofed.errors import ConfigError
from heterofed.transport.rate_limit import RateLimit

logger = logging.getLogger("heterofed")

DOMAIN = b"heterofed"
_ADDRESS = "inproc://zeromq.zap.01"
_STOP = "inproc://heterofed.zap.stop"
_REQUEST_PARTS = 7  # version, request id, domain, address, routing id, mechanism, public key


def raw_key(key: str) -> bytes:
    """Decode a public or secret X25519 key from Z85 to its 32 bytes."""
    return bytes(z85.decode(key))


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A listener's own key pair and the parties it admits.

    Attributes:
        public: own public key (40 characters, Z85).
        secret: own secret key (40 characters, Z85).
        parties: each admitted party's public key, by the party's name.
        refused: called, in the handler's thread, with each refused key and its peer's address.
    """

    public: str
    secret: str = field(repr=False)
    parties: Mapping[str, str]
    refused: Callable[[str, str], object] = field(
        default=lambda _key, _address: None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_pair(self.public, self.secret)
        for party, key in self.parties.items():
            check_key(key, f"the public key of {party!r}")
        if not self.parties:
            raise ConfigError("no party is listed, so none could connect: list one with its key")
        if len(set(self.parties.values())) != len(self.parties):
            raise ConfigError(
                "two parties have the same public key; give each party a key of its own"
            )


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A connecting party's own key pair and the public key of the listener it trusts.

    Attributes:
        public: own public key (40 characters, Z85).
        secret: own secret key (40 characters, Z85).
        server: the listener's public key.
        name: the party that owns the listener's key, if it is known.
    """

    public: str
    secret: str = field(repr=False)
    server: str
    name: str | None = None

    def __post_init__(self) -> None:
        check_pair(self.public, self.secret)
        check_key(self.server, "the public key of the Host")


def new_key_pair() -> tuple[str, str]:
    """Make a key pair; return the public and the secret key in Z85."""
    require_curve()
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def require_curve() -> None:
    if not zmq.has("curve"):
        raise ConfigError("this build of pyzmq has no CURVE: install pyzmq from its wheels")


def check_pair(public: str, secret: str) -> None:
    """Check that two keys belong together; raise a ConfigError that shows neither if not."""
    require_curve()
    check_key(public, "the own public key")
    check_key(secret, "the own secret key")
    if zmq.curve_public(secret.encode()).decode() != public:
        raise ConfigError(
            "the own public key does not belong to the own secret key; restore both from one copy"
        )


def check_key(key: str, what: str) -> None:
    """Check that `key` is a key in Z85; raise a ConfigError that names it by `what` if not."""
    # The message must not show the key: it may be the secret one.
    try:
        good = len(key) == 40 and z85.encode(z85.decode(key.encode("ascii"))) == key.encode()
    except Exception:  # z85 raises KeyError, ValueError or struct.error
        good = False
    if not good:
        raise ConfigError(
            f"{what} is not a Z85 key of 40 characters; give the first line of `heterofed keys"
            " show`"
        )


class ZapHandler:
    """Answers libzmq's ZAP requests about new connections in one context, until `stop`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys) -> None:
        self._admission = KeyAdmission(frozenset(keys.parties.values()), keys.refused)
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
        self._stopper.send(b"stop", zmq.NOBLOCK)
        self._thread.join(10)
        self._stopper.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._requests, zmq.POLLIN)
        poller.register(self._stopping, zmq.POLLIN)
        try:
            while self._stopping not in (ready := dict(poller.poll(1000))):
                if self._requests in ready:
                    request = self._requests.recv_multipart(zmq.NOBLOCK)
                    reply = self._admission.answer(request, time.monotonic())
                    self._requests.send_multipart(reply, zmq.NOBLOCK)
        finally:
            self._requests.close()
            self._stopping.close()


class KeyAdmission:
    """Admits the listed keys, each of them a limited number of times per minute.

    Args:
        allowed: the public keys to admit, in Z85.
        refused: see `ServerKeys`.
    """

    def __init__(
        self,
        allowed: frozenset[str],
        refused: Callable[[str, str], object] = lambda _key, _address: None,
    ) -> None:
        self._allowed, self._refused = allowed, refused
        self._rate_limit = RateLimit()

    def answer(self, request: list[bytes], now: float) -> list[bytes]:
        """Return the reply to one ZAP request (ZeroMQ RFC 27): the key as User-Id, or 400."""
        request_id = request[1] if len(request) > 1 else b""
        if (
            len(request) == _REQUEST_PARTS
            and request[0] == b"1.0"
            and request[2] == DOMAIN
            and request[5] == b"CURVE"
            and len(request[6]) == 32
        ):
            key = z85.encode(request[6]).decode()
            if key not in self._allowed:
                self._refused(key, request[3].decode("ascii", "replace"))
            elif self._rate_limit.allow(key, now):
                return [b"1.0", request_id, b"200", b"", key.encode(), b""]
        logger.debug("a connection was refused: its key is unknown or connects too often")
        return [b"1.0", request_id, b"400", b"", b"", b""]
