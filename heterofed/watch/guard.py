"""Who may ask the page's server: those who know the token, by an address that is this machine's.

A page of another site cannot reach it by a name of its own that leads here (DNS rebinding): the
Host header has to be a name of this machine, or a number, which no name server can turn around.
Every answer forbids all that the page does not need.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TOKEN_BYTES = 24


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class Guard:
    """Lets a request through to the app if its path begins with the token.

    Args:
        app: gets the request, with the token as its root path.
        token: the first part of every path.
        names: the host names by which this machine may be asked; see `allowed_names`.
        numbers: whether any IP address may stand in the Host header, not only loopback ones.
    """

    def __init__(
        self, app: ASGIApp, token: str, *, names: Collection[str] = (), numbers: bool = False
    ) -> None:
        self._app, self._token, self._numbers = app, token.encode(), numbers
        self._names = {"localhost", *(each.lower() for each in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return  # websockets are closed by the server

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self._refusal(scope) or self._app
        await app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """What answers a request that is not let through."""
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this page is only read\n", 405)
        if not self._is_ours(Headers(scope=scope).get("host", "")):
            return PlainTextResponse("this is not a name of this machine\n", 421)
        given, _, _ = scope["path"].removeprefix("/").partition("/")
        if not secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self._token):
            return PlainTextResponse(
                "open the address that heterofed watch has printed: it ends in a token\n", 403
            )
        scope["root_path"] = f"/{given}"
        return None

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._numbers or address.is_loopback


def host_name(host: str) -> str:
    """The name or number in a Host header, without its port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
