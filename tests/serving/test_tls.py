"""Encrypted connections, with real certificates; callers without the right one get nothing."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from heterofed.cli.app import cli
from heterofed.errors import ConfigError
from heterofed.serving.server import ServedTask, Server
from heterofed.serving.tls import RenewedContext, Tls
from tests.e2e.tiny import TinyHost

PREDICT = "/v1/models/t:predict"
PLAIN = serialization.NoEncryption()


@dataclass
class Signed:
    """A certificate with its key, and their files."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    pem: Path
    key_pem: Path


def signed(
    folder: Path, name: str, by: Signed | None = None, *, days: int = 1, encryption: Any = PLAIN
) -> Signed:
    """A certificate of this name, of an authority or of itself, valid for some days."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signer = by.key if by else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        # From Python 3.13 on, a certificate without these is not accepted.
        .add_extension(usage(signs=by is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    made = builder.sign(signer, hashes.SHA256())
    pem, key_pem = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    return Signed(made, key, pem, key_pem)


def usage(*, signs: bool) -> x509.KeyUsage:
    """What the key of a certificate is for: signing certificates, or proving who one is."""
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
        **dict.fromkeys(unused, False),
    )


class Office:
    """An authority with certificates, and a server that asks for them."""

    def __init__(self, folder: Path, *, client_ca: bool) -> None:
        self.folder = folder
        self.authority = signed(folder, "authority")
        self.own = signed(folder, "server", self.authority)
        self.caller = signed(folder, "caller", self.authority)
        ca = self.authority.pem if client_ca else None
        self.tls = Tls(self.own.pem, self.own.key_pem, ca)
        token = "" if client_ca else "a-token-of-some-length"
        task = ServedTask(scheduler=TinyHost(folder), task_id="t", token=token)
        self.server = Server([task], port=0, tls=self.tls)
        self.base = self.server.url("t").removesuffix(PREDICT).replace("127.0.0.1", "localhost")
        self.port = int(self.base.rpartition(":")[2])

    def ask(self, by: Signed | None = None, path: str = "/healthz", **more: Any) -> httpx.Response:
        trusted = ssl.create_default_context(cafile=str(self.authority.pem))
        if by is not None:
            trusted.load_cert_chain(by.pem, by.key_pem)
        with httpx.Client(verify=trusted, base_url=self.base, timeout=20) as client:
            return client.request("POST" if path == PREDICT else "GET", path, **more)


class Front:
    """The HTTP side of a server in a thread, without the links behind it."""

    def __init__(self, office: Office) -> None:
        self._served = office.server._server
        sockets = [office.server._listener]
        self._thread = threading.Thread(target=self._served.run, args=(sockets,), daemon=True)
        self._thread.start()
        ends = time.monotonic() + 20
        while not self._served.started:
            assert time.monotonic() < ends
            time.sleep(0.01)

    def end(self) -> None:
        self._served.should_exit = True
        self._thread.join(20)


@pytest.fixture(scope="module", params=[True, False], ids=["mutual", "one-sided"])
def office(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Office]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heterofed.transport.http.server.HANDSHAKE_SECONDS", 0.5)
        made = Office(tmp_path_factory.mktemp("tls"), client_ca=request.param)
        front = Front(made)
        yield made
        front.end()


def test_who_may_ask(office: Office, tmp_path: Path) -> None:
    assert office.ask(office.caller).text == "ok\n"
    body = {"json": {"ids": ["a"]}}
    answer = office.ask(office.caller, PREDICT, **body)
    if office.tls.client_ca is None:
        assert office.ask().text == "ok\n"
        assert answer.status_code == 401  # the certificate of a caller says nothing here
        return
    assert answer.status_code == 503  # no token is asked for; there is no link behind it
    stranger = signed(tmp_path, "stranger", signed(tmp_path, "another-authority"))
    expired = signed(tmp_path, "expired", office.authority, days=-1)
    for each in (None, stranger, expired):
        with pytest.raises(httpx.TransportError):
            office.ask(each, PREDICT, **body)


def test_what_is_not_tls_gets_nothing(office: Office) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(office.base.replace("https", "http") + "/healthz", timeout=20)
    for first in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", os.urandom(300)):
        with socket.create_connection(("127.0.0.1", office.port), timeout=20) as caller:
            caller.sendall(first)  # and never more: the handshake is given up
            try:
                while got := caller.recv(1000):
                    assert got[0] == 0x15  # an alert
            except ConnectionResetError:
                pass
    assert office.ask(office.caller).status_code == 200


def serial_of(office: Office) -> int:
    """The number of the certificate that the server shows."""
    trusted = ssl.create_default_context(cafile=str(office.authority.pem))
    trusted.load_cert_chain(office.caller.pem, office.caller.key_pem)
    with (
        socket.create_connection(("127.0.0.1", office.port), timeout=20) as plain,
        trusted.wrap_socket(plain, server_hostname="localhost") as shown,
    ):
        found = shown.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found).serial_number


def test_renewed_files_are_taken_over_while_it_serves(office: Office) -> None:
    renewal = office.server._server.config.ssl
    asyncio.run(renewal.look())
    before = serial_of(office)
    office.own.pem.write_text("half a file")
    asyncio.run(renewal.look())
    assert serial_of(office) == before
    again = signed(office.folder, "server", office.authority)
    asyncio.run(renewal.look())
    assert serial_of(office) == again.certificate.serial_number != before


@pytest.mark.parametrize("what", ["expired", "of another key", "empty", "gone"])
def test_a_renewal_of_no_use_changes_nothing(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate before it goes on to be used with its own key, and a later one is taken."""
    authority = signed(tmp_path, "authority")
    own = signed(tmp_path, "server", authority)
    tls = Tls(own.pem, own.key_pem)
    context = RenewedContext(tls)
    if what == "expired":
        signed(tmp_path, "server", authority, days=-1)
    elif what == "of another key":
        own.pem.write_bytes(signed(tmp_path, "other", authority).pem.read_bytes())
    elif what == "empty":
        own.pem.write_bytes(b"")
    else:
        own.pem.unlink()
    asyncio.run(context.look())
    assert "the earlier files stay in use" in caplog.text
    assert shaken(context, authority) == own.certificate.serial_number
    again = signed(tmp_path, "server", authority)
    asyncio.run(context.look())
    assert shaken(context, authority) == again.certificate.serial_number


def test_the_authorities_of_callers_are_replaced(tmp_path: Path) -> None:
    """A caller of an authority that was taken out gets no answer, nor does its earlier session."""
    office = Office(tmp_path, client_ca=True)
    renewal, callers = office.server._server.config.ssl, office.authority.pem
    later = signed(tmp_path, "later")
    mine, other = office.caller, signed(tmp_path, "other", later)
    trusted = {each.pem: trusting(office.authority.certificate, each) for each in (mine, other)}
    front = Front(office)
    try:
        session, _ = asked(office, trusted[mine.pem])
        assert asked(office, trusted[mine.pem], session)[1]  # the server does resume sessions
        for useless in (b"", office.own.key_pem.read_bytes()):
            callers.write_bytes(useless)
            asyncio.run(renewal.look())
            asked(office, trusted[mine.pem])
            with pytest.raises((ssl.SSLError, ConnectionError)):
                asked(office, trusted[other.pem])
        callers.write_bytes(later.pem.read_bytes())
        asyncio.run(renewal.look())
        asked(office, trusted[other.pem])
        for again in (None, session):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                asked(office, trusted[mine.pem], again)
    finally:
        front.end()


def trusting(authority: x509.Certificate, caller: Signed) -> ssl.SSLContext:
    pem = authority.public_bytes(serialization.Encoding.PEM).decode()
    context = ssl.create_default_context(cadata=pem)
    context.load_cert_chain(caller.pem, caller.key_pem)
    return context


def asked(
    office: Office, trusted: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Ask whether the server is healthy; gives the session, and whether an earlier one went on."""
    with (
        socket.create_connection(("127.0.0.1", office.port), timeout=20) as plain,
        trusted.wrap_socket(plain, server_hostname="localhost", session=session) as line,
    ):
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        if not line.recv(1000).startswith(b"HTTP/1.1 200"):
            raise ConnectionError("no answer")
        return line.session, line.session_reused


def shaken(context: ssl.SSLContext, authority: Signed) -> int:
    """The serial number that a caller gets in a handshake in memory."""
    caller = ssl.create_default_context(cafile=str(authority.pem))
    (a, b), done = (ssl.MemoryBIO(), ssl.MemoryBIO()), 0
    ends = [
        context.wrap_bio(a, b, server_side=True),
        caller.wrap_bio(b, a, server_hostname="localhost"),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
    assert done
    got = ends[1].getpeercert(binary_form=True)
    assert got is not None
    return x509.load_der_x509_certificate(got).serial_number


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    authority = signed(tmp_path, "authority")
    own = signed(tmp_path, "own", authority)
    locked = signed(
        tmp_path, "locked", authority, encryption=serialization.BestAvailableEncryption(b"word")
    )
    for cert, key, ca in (
        (own.pem, authority.key_pem, None),
        (own.key_pem, own.pem, None),
        (tmp_path / "nowhere", own.key_pem, None),
        (locked.pem, locked.key_pem, None),  # and nobody is asked for the password
        (own.pem, own.key_pem, own.key_pem),
        (own.pem, own.key_pem, tmp_path / "nowhere"),
    ):
        with pytest.raises(ConfigError, match=r"cannot be used .*: give"):
            Tls(cert, key, ca).context()
    expired = signed(tmp_path, "expired", authority, days=-1)
    with pytest.raises(ConfigError, match=r"expired\.pem expired on 20.*; give a renewed one"):
        Tls(expired.pem, expired.key_pem).context()
    with pytest.raises(ConfigError, match="give one of the two"):
        task = ServedTask(scheduler=TinyHost(tmp_path), task_id="t", token="")
        Server([task], port=0, tls=Tls(own.pem, own.key_pem))


@pytest.mark.parametrize("given", [["cert"], ["key"], ["ca"], ["cert", "ca"], ["key", "ca"]])
def test_options_that_belong_together(given: list[str], tmp_path: Path) -> None:
    (file := tmp_path / "file").write_text("")
    names = {"cert": "--tls-cert", "key": "--tls-key", "ca": "--client-ca"}
    words = [word for each in given for word in (names[each], str(file))]
    done = CliRunner().invoke(cli, ["serve", "t", "nowhere.csv", *words])
    assert done.exit_code == 2
    assert "--tls-cert and --tls-key belong together" in done.output
