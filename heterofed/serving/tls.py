"""Encrypts the connections of callers, and checks their certificates if asked to (mutual TLS)."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from heterofed.errors import ConfigError

logger = logging.getLogger("heterofed")

HANDSHAKE_SECONDS = 5.0
"""The longest time in seconds of a handshake; whoever can reach the port can begin one."""

LOOK_SECONDS = 30
"""The time in seconds between two looks at the files, which are renewed while a server runs."""


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
        self._load(context)
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
        """Return when the files were changed; a file that cannot be reached counts as old."""
        return _age(self.certificate), _age(self.key)

    def _load(self, context: ssl.SSLContext) -> None:
        """Give the files to connections; what cannot be used changes nothing."""
        try:
            # Half of what cannot be used as a whole would replace what is in use.
            for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
                # Without a password, OpenSSL would ask for that of an encrypted key.
                each.load_cert_chain(self.certificate, self.key, password=lambda: "")
                self._check_days(datetime.now(UTC))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the certificate {self.certificate} and the key {self.key} cannot be used"
                f" ({_why(error)}): give files that belong together, as PEM, the key not encrypted"
            ) from None

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

    def renew(self, context: ssl.SSLContext) -> None:
        """Let further connections have the certificate that is in the files now."""
        try:
            self._load(context)
        except ConfigError as error:  # one file may be written and the other not yet
            logger.warning("TLS: %s; the certificate before it is used", error)
        else:
            logger.info("TLS: the renewed certificate is used")


class Renewal:
    """Notices that the files of a server were renewed.

    Args:
        tls: the files.
        context: the settings that were made of them.
    """

    def __init__(self, tls: Tls, context: ssl.SSLContext) -> None:
        self._tls, self._context, self._ages = tls, context, tls.ages()

    async def look(self) -> None:
        """Use the files if they have changed."""
        if (ages := self._tls.ages()) != self._ages:
            self._ages = ages
            self._tls.renew(self._context)


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
