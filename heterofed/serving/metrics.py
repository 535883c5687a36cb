"""Counts requests for Prometheus, if its client library is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable

BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 5)
"""The bounds of the buckets of the histogram, in seconds."""


class Metrics:
    """The metrics of one server; without the library they count nothing.

    Args:
        ready: returns whether the link to the other parties is there.
        waiting: returns the number of rows that wait.
    """

    def __init__(self, ready: Callable[[], bool], waiting: Callable[[], int]) -> None:
        try:
            client = importlib.import_module("prometheus_client")
        except ImportError:
            self._client = None
            return
        self._client, self._registry = client, client.CollectorRegistry()
        of = {"namespace": "heterofed_serving", "registry": self._registry}
        self._requests = client.Counter("requests", "Requests by result", ["code"], **of)
        self._rows = client.Counter("rows", "Predicted rows", **of)
        self._seconds = client.Histogram(
            "seconds", "Seconds of requests that were answered", buckets=BUCKETS, **of
        )
        client.Gauge("ready", "1 while the link is there", **of).set_function(ready)
        client.Gauge("rows_waiting", "Rows that wait", **of).set_function(waiting)

    def note(self, code: str, rows: int, seconds: float) -> None:
        """Count a request with its result: `ok`, or the code of an error."""
        if self._client is None:
            return
        self._requests.labels(code).inc()
        if code == "ok":
            self._rows.inc(rows)
            self._seconds.observe(seconds)

    def text(self) -> bytes | None:
        """Return the metrics in Prometheus' format; None without the library."""
        return None if self._client is None else self._client.generate_latest(self._registry)
