"""Gathers the requests of many callers, and hands them in batches to the thread of the link.

While one batch is under way the next one gathers, so batches grow with the load and a lone request
waits for nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heterofed.errors import RequestError

MOST_WAITING = 500_000
"""The most rows that wait in a queue; further requests are told to come again."""


@dataclass(slots=True, eq=False)
class Request:
    """The request of one caller.

    Attributes:
        ids: the ids of the rows.
        ends: the deadline, on the clock `time.monotonic`.
        columns: the Host's own columns of these rows as they are now, by name; None reads them as
            usual.
        caller: anything that the caller needs to find its request again.
        partial: whether ids that are not served are left out; otherwise they are an error. Such a
            request is scored by itself, so that its answer does not depend on other requests.
    """

    ids: Sequence[str]
    ends: float
    columns: Mapping[str, Sequence[Any]] | None = None
    caller: Any = None
    partial: bool = False


@dataclass(slots=True)
class Scores:
    """The answer to a request.

    Attributes:
        columns: the predictions by column, in the order of the ids.
        parties: the feature keys of the parties that had each row, joined by "+".
        version: the version of the model, 32 bytes that all its parties agreed on.
        ids: the ids of a partial request that are served; None for all of them.
    """

    columns: dict[str, list[Any]]
    parties: list[str]
    version: bytes
    ids: list[str] | None = None


Outcome = tuple[Request, Scores | RequestError]
Deliver = Callable[[list[Outcome]], None]


class RequestQueue:
    """The requests of one model that wait.

    Args:
        deliver: gets the outcomes of requests, on the thread of the link or of whoever closes.
        most_waiting: the most rows that may wait.

    Attributes:
        version: the version of the model that is served; empty while the link is down.
    """

    def __init__(self, deliver: Deliver, most_waiting: int = MOST_WAITING) -> None:
        self._deliver, self._most = deliver, most_waiting
        self._waiting: deque[Request] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._leaving = False
        self.version = b""

    @property
    def rows_waiting(self) -> int:
        """The number of rows that wait."""
        return self._rows

    @property
    def is_leaving(self) -> bool:
        """Whether the link is to end once nothing waits any more."""
        return self._leaving

    def put(self, request: Request) -> None:
        """Take a request.

        Raises:
            RequestError: the link to the other parties is down, or too many rows wait.
        """
        with self._changed:
            if not self.version:
                raise unavailable()
            if self._rows + len(request.ids) > self._most and self._waiting:
                raise RequestError("too many rows wait already", code="busy", retry_after=1)
            self._waiting.append(request)
            self._rows += len(request.ids)
            if len(self._waiting) == 1:
                self._changed.notify()

    def open(self, version: bytes) -> None:
        """Let requests in, because the link is there and serves this version of the model."""
        with self._changed:
            self.version = version

    def close(self) -> None:
        """Refuse all requests that wait, and further ones, because the link is down."""
        with self._changed:
            self.version = b""
            refused, self._rows = list(self._waiting), 0
            self._waiting.clear()
        self.settle([(each, unavailable()) for each in refused])

    def leave(self) -> None:
        """Let the link end once nothing waits any more."""
        with self._changed:
            self._leaving = True
            self._changed.notify()

    def take(self, most_rows: int, timeout: float) -> list[Request]:
        """Return the requests that wait, after waiting for one for at most `timeout` seconds.

        Those whose deadline has passed are refused. One request may have more than `most_rows`.
        """
        with self._changed:
            if not self._waiting and not self._leaving:
                self._changed.wait(timeout)
            taken: list[Request] = []
            rows = 0
            while self._waiting and (not taken or rows + len(self._waiting[0].ids) <= most_rows):
                taken.append(self._waiting.popleft())
                rows += len(taken[-1].ids)
            self._rows -= rows
        now = time.monotonic()
        if late := [each for each in taken if each.ends <= now]:
            self.settle([(each, too_late()) for each in late])
            taken = [each for each in taken if each.ends > now]
        return taken

    def settle(self, outcomes: list[Outcome]) -> None:
        """Give callers their outcomes."""
        if outcomes:
            self._deliver(outcomes)


def unavailable() -> RequestError:
    """Return the error of requests while the link to the other parties is down."""
    return RequestError(
        "the link to the other parties is down; it comes back by itself",
        code="unavailable",
        retry_after=2,
    )


def too_late() -> RequestError:
    """Return the error of a request whose deadline has passed."""
    return RequestError("there was no answer within the deadline", code="deadline")
