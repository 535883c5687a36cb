"""Encrypts the connections of callers, and checks their certificates if asked to (mutual TLS)."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509

from heterofed.errors import ConfigError

logger = logging.getLogger("heterofed")


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a server's TLS, as PEM.

    Attributes:
        certificate: the certificate of this server, with those that lead to its authority.
        key: its private key, not encrypted.
        client_ca: the certificates of the authorities of callers, who must then have a certificate
            of one of them; None asks for no certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the settings of a server's connections, TLS 1.2 or later.

        Raises:
            ConfigError: a file cannot be used; the message names it.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # Without a password, OpenSSL would ask for that of an encrypted key.
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            self._check_days(datetime.now(UTC))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the certificate {self.certificate} and the key {self.key} cannot be used"
                f" ({_why(error)}): give files that belong together, as PEM, the key not encrypted"
            ) from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"{self.client_ca} cannot be used ({_why(error)}): give the certificates of the"
                    " authorities of callers, as PEM"
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def ages(self) -> tuple[int, ...]:
        """Return when each file was changed; a file that cannot be reached counts as old."""
        files = (self.certificate, self.key, self.client_ca)
        return tuple(_age(each) for each in files if each is not None)

    def _check_days(self, now: datetime) -> None:
        """Refuse a certificate that no caller would accept today.

        Raises:
            ConfigError: it has expired, or is not valid yet.
        """
        own = x509.load_pem_x509_certificates(self.certificate.read_bytes())[0]
        if own.not_valid_after_utc < now:
            day = own.not_valid_after_utc.date()
            raise ConfigError(
                f"the certificate {self.certificate} expired on {day}; give a renewed one"
            )
        if own.not_valid_before_utc > now:
            since = f"{own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            raise ConfigError(
                f"the certificate {self.certificate} is valid from {since} on; give another one, or"
                " set the clock of this machine right"
            )


class RenewedContext(ssl.SSLContext):
    """The settings of a server's connections, which are made anew when a file has changed.

    They are replaced as a whole, because authorities can be added to settings and never removed,
    and a session that began with a removed one must not be resumed. Open connections keep theirs.

    Args:
        tls: the files.

    Raises:
        ConfigError: a file cannot be used; the message names it.
    """

    def __new__(cls, tls: Tls) -> Self:  # noqa: ARG004 - an SSLContext is made by a protocol
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, tls: Tls) -> None:
        self._tls, self._ages = tls, tls.ages()
        self._current = tls.context()

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        """Begin a connection with the settings of now; event loops call this for each."""
        return self._current.wrap_bio(*given, **named)

    async def look(self) -> None:
        """Use the files if one of them has changed; what cannot be used changes nothing."""
        if (ages := self._tls.ages()) == self._ages:
            return
        self._ages = ages
        try:
            self._current = self._tls.context()
        except ConfigError as error:  # one file may be written and the other not yet
            logger.warning("TLS: %s; the earlier files stay in use", error)
        else:
            logger.info("TLS: the renewed files are in use")


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # such as a file that is just replaced
        return 0


def _why(error: OSError | ValueError) -> str:
    """Return the reason without any path or content."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "no PEM file"
    return getattr(error, "strerror", None) or type(error).__name__
