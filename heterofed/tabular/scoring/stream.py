"""Asks for the rows of a long table over a standing link, some at a time, and keeps the answers."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from heterofed.errors import RequestError
from heterofed.hetero_nn.serve.host import serve_scores
from heterofed.hetero_nn.serve.request_queue import Outcome, Request, RequestQueue, Scores
from heterofed.tabular.host import TabularHost
from heterofed.tabular.own_ids import beside
from heterofed.tabular.scoring.parts import Parts

logger = logging.getLogger("heterofed")

ROWS_AT_ONCE = 32_768
"""The most rows of a part."""

AHEAD = 2
"""The number of parts that are asked for at once, so that the link does not wait for the disk."""

DEADLINE_SECONDS = 600.0
"""The longest time in seconds until a part is answered."""

PAUSE_SECONDS, LONGEST_PAUSE = 0.2, 60
"""The pause in seconds before an attempt while the link is down, and the longest for a limit."""

AGAIN = ("unavailable", "deadline", "late", "busy")
"""The codes of refusals after which the same request is made again."""

DRAIN_SECONDS = 10.0


def score(
    host: TabularHost,
    task_id: str,
    out: Path,
    *,
    fresh: bool = False,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Callable[[int, int], object] = lambda _done, _all: None,
    **settings: Any,
) -> tuple[int, int]:
    """Write the predictions of a table's rows to a file, while the other parties serve.

    The columns of the ids are those of the table, in its order, with its own cells. Rows that not
    all parties have are left out. A run that was interrupted goes on where it was.

    Args:
        host: the scheduler with the table.
        task_id: the id of the finished task.
        out: the file, as CSV, or as Parquet if its name ends in `.parquet`.
        fresh: whether to begin anew.
        rows_at_once: the most rows that are asked for at once.
        progress: called with the number of rows that are done, and with that of all.
        settings: further arguments of `serve_scores`.

    Returns:
        The number of ids of the table, and of those that have a prediction.

    Raises:
        ConfigError: a setting or file is wrong, or the table or the version has changed since.
        RequestError: another party refuses further rows; what is done is kept.
    """
    parts = Parts(out, task_id, rows_at_once, fresh=fresh)
    with _Link(host, task_id, settings) as link:
        link.wait_until_open()
        total, in_parts = host.ids_in_parts(rows_at_once)  # the link has read them
        done = predicted = count = 0
        for rows, found in _kept(link, parts, in_parts):
            done, predicted, count = done + rows, predicted + found, count + 1
            progress(done, total)
    parts.finish(count)
    return done, predicted


def _kept(
    link: _Link, parts: Parts, in_parts: Iterator[tuple[list[str], pd.DataFrame]]
) -> Iterator[tuple[int, int]]:
    """Keep one part after another; yield the number of its ids, and of its predictions."""
    asked: deque[tuple[int, Sequence[str], pd.DataFrame, Future[Scores]]] = deque()

    def oldest() -> tuple[int, int]:
        number, some, own, future = asked.popleft()
        scores = link.answer(some, future)
        parts.keep(number, some, _with_own_ids(some, own, scores), scores.version)
        return len(some), len(scores.parties)

    for number, (some, own) in enumerate(in_parts):
        if (rows := parts.rows_of(number, some)) is not None:
            yield len(some), rows
            continue
        asked.append((number, some, own, link.ask(some)))
        if len(asked) == AHEAD:
            yield oldest()
    while asked:
        yield oldest()


def _with_own_ids(asked: Sequence[str], own: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """Return the scores of the ids that are served, beside the table's columns of these ids."""
    found = pd.DataFrame({**scores.columns, "parties": scores.parties})
    served = set(scores.ids or ())
    is_served = np.fromiter((each in served for each in asked), bool, len(asked))
    return beside(own[is_served].reset_index(drop=True), found)


class _Link:
    """The standing link of one scoring, in a thread."""

    def __init__(self, host: TabularHost, task_id: str, settings: dict[str, Any]) -> None:
        self._queue = RequestQueue(_settle)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(host, task_id, settings), name="heterofed-score", daemon=True
        )

    def __enter__(self) -> _Link:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        waits = DRAIN_SECONDS if self._queue.version else 0.0  # without a link nobody is told
        self._queue.leave()
        self._thread.join(waits)

    def _run(self, host: TabularHost, task_id: str, settings: dict[str, Any]) -> None:
        try:
            serve_scores(host, task_id, self._queue, models="best", max_age=0, **settings)
        except BaseException as error:
            self._failed = error

    def wait_until_open(self) -> None:
        """Wait until rows can be asked for.

        Raises:
            Exception: the link has ended by it.
        """
        while not self._queue.version:
            self._pause(PAUSE_SECONDS)

    def ask(self, ids: Sequence[str]) -> Future[Scores]:
        """Ask for rows, as soon as the link is there."""
        while True:
            future: Future[Scores] = Future()
            try:
                ends = time.monotonic() + DEADLINE_SECONDS
                self._queue.put(Request(ids, ends, caller=future, partial=True))
            except RequestError as error:
                self._bear(error)
            else:
                return future

    def answer(self, ids: Sequence[str], future: Future[Scores]) -> Scores:
        """Return the answer to a request, which is repeated as often as needed.

        Raises:
            RequestError: it is refused for a reason that does not pass soon.
            Exception: the link has ended by it.
        """
        while True:
            try:
                return future.result(2 * DEADLINE_SECONDS)
            except RequestError as error:
                self._bear(error)
                future = self.ask(ids)

    def _bear(self, error: RequestError) -> None:
        """Wait until a request may be made again."""
        wait = error.retry_after or 0
        if error.code not in AGAIN and not (error.code == "limit" and 0 < wait <= LONGEST_PAUSE):
            raise error
        self._pause(wait if error.code == "limit" else PAUSE_SECONDS)

    def _pause(self, seconds: float) -> None:
        self._thread.join(seconds)
        if not self._thread.is_alive():
            raise self._failed or RequestError("the link has ended", code="unavailable")


def _settle(outcomes: list[Outcome]) -> None:
    for request, outcome in outcomes:
        if isinstance(outcome, Scores):
            request.caller.set_result(outcome)
        else:
            request.caller.set_exception(outcome)
