"""Parties that serve a trained task, as threads of this process, over TCP with keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from heterofed.errors import RequestError
from heterofed.hetero_nn.serve.collaborator import serve_rows
from heterofed.hetero_nn.serve.host import serve_scores
from heterofed.hetero_nn.serve.request_queue import Outcome, Request, RequestQueue, Scores
from heterofed.hetero_nn.serve.serve_limits import ServeLimits

ENOUGH = ServeLimits(max_rows_per_day=10_000)


class Serves:
    """One party's link, in a thread."""

    def __init__(self, call: Any, *args: Any, **settings: Any) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call, args, settings), daemon=True)
        self._thread.start()

    def _run(self, call: Any, args: Any, settings: Any) -> None:
        try:
            call(*args, **settings)
        except BaseException as error:
            self.error = error

    def join(self, timeout: float = 30.0) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive()


def resolve(outcomes: list[Outcome]) -> None:
    for request, outcome in outcomes:
        if isinstance(outcome, Scores):
            request.caller.set_result(outcome)
        else:
            request.caller.set_exception(outcome)


class Office:
    """A Host that serves and its Collaborators."""

    def __init__(
        self,
        host: Any,
        collaborators: Sequence[Any],
        limits: ServeLimits = ENOUGH,
        *,
        another: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._another = another or {}
        self.queue = RequestQueue(resolve)
        self.stops: dict[str, threading.Event] = {}
        self.links: dict[str, Serves] = {}
        self.limits = limits
        for each in collaborators:
            self.start(each)
        self.host = Serves(serve_scores, host, "tiny", self.queue, **settings)

    def start(self, collaborator: Any) -> None:
        name = collaborator.feature_key
        stop = self.stops[name] = threading.Event()
        fresh = self._another.get(name)
        given = {"stop": stop, "fresh": fresh}
        self.links[name] = Serves(serve_rows, collaborator, "tiny", self.limits, **given)

    def ask(self, *ids: str, seconds: float = 20.0) -> Scores:
        """The scores of some ids; waits for the link."""
        ends = time.monotonic() + seconds
        while True:
            try:
                return self.ask_once(*ids, seconds=ends - time.monotonic())
            except RequestError as error:
                if error.code != "unavailable" or time.monotonic() > ends or self.host.error:
                    raise (self.host.error or error) from None
                time.sleep(0.05)

    def ask_once(self, *ids: str, seconds: float = 20.0) -> Scores:
        """The scores of some ids if the link is there."""
        future: Future[Scores] = Future()
        self.queue.put(Request(list(ids), time.monotonic() + seconds, caller=future))
        return future.result(seconds + 10)

    def end(self) -> None:
        for stop in self.stops.values():
            stop.set()
        self.queue.leave()
        self.host.join()
        for link in self.links.values():
            link.join()


def log_of(folder: Path, party: str) -> str:
    return (folder / "tiny" / party / "serving/log.jsonl").read_text()
