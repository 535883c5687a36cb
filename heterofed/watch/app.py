"""The pages, and what is sent to those who look at them while runs go on: server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from heterofed._version import __version__
from heterofed.report.render import style_sheet
from heterofed.watch import compare, words
from heterofed.watch.fragments import PACKAGE, RunParts, rendered
from heterofed.watch.listed import List, chosen, key_of
from heterofed.watch.run import Seen, WatchedRun
from heterofed.watch.runs import Found, runs_in

EVERY = 1.0
"""Seconds between two looks at what runs have written."""
SAID_EVERY = 5.0
"""Seconds between two sentences for screen readers."""
ALIVE_EVERY = 15
"""Looks after which a silent connection gets a comment, so that one that is gone is noticed."""
MAX_VIEWERS = 32


class View(Protocol):
    """What a page shows, by the id of each place in it."""

    def __call__(self) -> tuple[dict[str, str], str]:
        """The parts as they are now, and what a screen reader is told."""


EVENTS = "text/event-stream"


class _Counted(StreamingResponse):
    """A stream of events that counts as a viewer from when it is made until it has ended."""

    def __init__(self, content: AsyncIterator[str], viewed: Callable[[int], None]) -> None:
        super().__init__(content, media_type=EVENTS)
        self._viewed = viewed
        viewed(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._viewed(-1)


class Watch:
    """All runs of a results folder; each is read once for all who look at it.

    Args:
        results: the folder, `<results>/<task>/<party>`.
        tasks: the ids of the tasks that are shown; empty for all.
        leaving: whether the server is about to end; then viewers get a last look and are let go.
        every: seconds between two looks.
    """

    def __init__(
        self,
        results: Path,
        tasks: tuple[str, ...] = (),
        *,
        leaving: Callable[[], bool] = lambda: False,
        every: float = EVERY,
    ) -> None:
        self._results, self._tasks = results, tasks
        self._leaving, self._every = leaving, every
        self._list = List()
        self._open: dict[Path, tuple[WatchedRun, RunParts]] = {}
        self._viewers = 0

    def app(self) -> Starlette:
        """The application, without its guard."""
        return Starlette(
            routes=[
                Route("/", self._list_page),
                Route("/run/{task}/{party}", self._run_page),
                Route("/compare", self._compare_page),
                Route("/events", self._list_events),
                Route("/events/run/{task}/{party}", self._run_events),
                Route("/events/compare", self._compare_events),
                Route("/assets/{name}", _asset),
            ]
        )

    # -- pages -----------------------------------------------------------------------------

    async def _list_page(self, request: Request) -> Response:
        runs = self._runs() if len(self._tasks) == 1 else []
        if len(runs) == 1:  # there is nothing to choose
            return RedirectResponse(f"{request.scope['root_path']}/run/{key_of(runs[0])}", 302)
        parts, _ = self._list_view(request)()
        return _page("list", request, parts, "Runs", "events", is_list=True)

    async def _run_page(self, request: Request) -> Response:
        found = self._asked(request.path_params["task"], request.path_params["party"])
        if found is None:
            return _missing()
        parts, _ = self._run_view(found)()
        title = f"{parts_title(self._seen(found))}"
        return _page("run", request, parts, title, f"events/run/{key_of(found)}")

    async def _compare_page(self, request: Request) -> Response:
        pair = self._pair(request)
        if pair is None:
            return _missing()
        first, second = map(self._seen, pair)
        names = compare.labels(first, second)
        events = f"events/compare?{request.url.query}"
        parts = compare.parts(first, second)
        return _page("compare", request, parts, " and ".join(names), events, names=names)

    # -- events ----------------------------------------------------------------------------

    async def _list_events(self, request: Request) -> Response:
        return self._stream(request, self._list_view(request))

    async def _run_events(self, request: Request) -> Response:
        found = self._asked(request.path_params["task"], request.path_params["party"])
        return _missing() if found is None else self._stream(request, self._run_view(found))

    async def _compare_events(self, request: Request) -> Response:
        pair = self._pair(request)
        if pair is None:
            return _missing()
        return self._stream(request, lambda: (compare.parts(*map(self._seen, pair)), ""))

    def _stream(self, request: Request, view: View) -> Response:
        if request.method == "HEAD":
            return Response(media_type=EVENTS)
        if self._viewers >= MAX_VIEWERS:
            return PlainTextResponse("too many pages are open\n", 503)
        return _Counted(self._events(view), self._viewed)

    def _viewed(self, change: int) -> None:
        self._viewers += change

    async def _events(self, view: View) -> AsyncIterator[str]:
        """All parts at first, then those that change; whoever connects again gets all anew."""
        async for each in events(view, self._leaving, self._every):
            yield each

    # -- views -----------------------------------------------------------------------------

    def _list_view(self, request: Request) -> View:
        base = request.scope["root_path"]

        def view() -> tuple[dict[str, str], str]:
            lines = self._list.lines(self._runs(), time.time())
            choices = [(each.key, f"{each.task}, {each.party}") for each in lines]
            return {
                "runs": rendered("runs", base=base, lines=lines),
                "choose": rendered("choose", base=base, choices=choices, chosen=chosen(lines)),
            }, ""

        return view

    def _run_view(self, found: Found) -> View:
        def view() -> tuple[dict[str, str], str]:
            seen = self._seen(found)
            return self._open[found.folder][1](seen), words.spoken(seen)

        return view

    # -- runs ------------------------------------------------------------------------------

    def _runs(self) -> list[Found]:
        return runs_in(self._results, self._tasks)

    def _asked(self, task: str, party: str) -> Found | None:
        """The run of these names; names are only compared, and never become a path."""
        return next(
            (each for each in self._runs() if (each.task, each.party) == (task, party)), None
        )

    def _pair(self, request: Request) -> tuple[Found, Found] | None:
        by_key = {key_of(each): each for each in self._runs()}
        first, second = (
            by_key.get(request.query_params.get(name, "")) for name in ("one", "other")
        )
        return None if first is None or second is None else (first, second)

    def _seen(self, found: Found) -> Seen:
        if found.folder not in self._open:
            self._open[found.folder] = WatchedRun(found), RunParts()
        return self._open[found.folder][0].look()


async def events(view: View, leaving: Callable[[], bool], every: float) -> AsyncIterator[str]:
    """What one viewer is sent: each part when it changes, sentences, and a last word.

    Args:
        view: gives the parts as they are now.
        leaving: whether this is the last look.
        every: seconds between two looks.
    """
    sent: dict[str, str] = {}
    told, told_at, number = "", time.monotonic(), 0
    yield "retry: 1000\n\n"
    while True:
        last, before = leaving(), number
        parts, said = view()
        for name, html in parts.items():
            if sent.get(name) != html:
                sent[name], number = html, number + 1
                yield event("part", f"{name}\n{html}", number)
        first = not told and number == len(parts)
        if said != told and (first or last or time.monotonic() - told_at >= SAID_EVERY):
            told, told_at = said, time.monotonic()
            if not first:
                number += 1
                yield event("said", said, number)
        if last:
            yield event("over", "", number + 1)
            return
        if number == before:
            yield ": still here\n\n"
        await asyncio.sleep(every)


def event(kind: str, data: str, number: int) -> str:
    """A server-sent event; its data may have several lines."""
    lines = "\n".join(f"data: {line}" for line in data.splitlines() or [""])
    return f"id: {number}\nevent: {kind}\n{lines}\n\n"


def parts_title(seen: Seen) -> str:
    """The title of a run's page."""
    return f"{seen.task}, {seen.party}"


def _page(
    name: str,
    request: Request,
    parts: Mapping[str, str],
    title: str,
    events_at: str,
    *,
    is_list: bool = False,
    names: tuple[str, str] = ("", ""),
) -> Response:
    base = request.scope["root_path"]
    return HTMLResponse(
        rendered(
            name,
            base=base,
            parts={key: _ready(html) for key, html in parts.items()},
            title=title,
            events=f"{base}/{events_at}",
            version=__version__,
            is_list=is_list,
            names=names,
        )
    )


def _ready(html: str) -> object:
    """HTML that a template of ours has made, and that another one takes as it is."""
    from markupsafe import Markup

    return Markup(html)  # noqa: S704 - its values were escaped where it was made


def _missing() -> Response:
    return PlainTextResponse("there is no such run\n", 404)


async def _asset(request: Request) -> Response:
    made = {"page.css": _css, "page.js": _script, "icon.svg": _icon}.get(
        request.path_params["name"]
    )
    return _missing() if made is None else made()


def _css() -> Response:
    sheets = style_sheet(), style_sheet(PACKAGE, "watch.css")
    return Response("\n".join(sheets), media_type="text/css")


def _script() -> Response:
    return Response(_read("page.js"), media_type="text/javascript")


def _icon() -> Response:
    return Response(_read("icon.svg"), media_type="image/svg+xml")


def _read(name: str) -> str:
    return (files(PACKAGE) / "templates" / name).read_text(encoding="utf-8")
