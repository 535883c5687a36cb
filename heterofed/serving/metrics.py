"""Counts requests for Prometheus, if its client library is installed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 5)
"""The bounds of the buckets of the histogram, in seconds."""

Note = Callable[[str, int, float], object]
"""Counts a request with its result (`ok`, or the code of an error), its rows and its seconds."""


class Metrics:
    """The metrics of one server; without the library they count nothing."""

    def __init__(self) -> None:
        try:
            client = importlib.import_module("prometheus_client")
        except ImportError:
            self._client = None
            return
        self._client, self._registry = client, client.CollectorRegistry()
        of, name = {"namespace": "heterofed_serving", "registry": self._registry}, ["model"]
        self._requests = client.Counter("requests", "Requests by result", [*name, "code"], **of)
        self._rows = client.Counter("rows", "Predicted rows", name, **of)
        self._seconds = client.Histogram(
            "seconds", "Seconds of requests that were answered", name, buckets=BUCKETS, **of
        )
        self._ready = client.Gauge("ready", "1 while the link is there", name, **of)
        self._waiting = client.Gauge("rows_waiting", "Rows that wait", name, **of)

    def of(self, model: str, ready: Callable[[], bool], waiting: Callable[[], int]) -> Note:
        """Return what counts the requests of one model, which is the label of its metrics.

        Args:
            model: the name of the model.
            ready: returns whether the link to the other parties is there.
            waiting: returns the number of rows that wait.
        """
        if self._client is None:
            return lambda *_: None
        self._ready.labels(model).set_function(ready)
        self._waiting.labels(model).set_function(waiting)
        by_code = functools.cache(functools.partial(self._requests.labels, model))
        all_rows, all_seconds = self._rows.labels(model), self._seconds.labels(model)

        def note(code: str, rows: int, seconds: float) -> None:
            by_code(code).inc()
            if code == "ok":
                all_rows.inc(rows)
                all_seconds.observe(seconds)

        return note

    def text(self, models: Collection[str]) -> bytes | None:
        """Return the metrics of some models in Prometheus' format; None without the library."""
        if self._client is None:
            return None
        text: bytes = self._client.generate_latest(_Some(self._registry, models))
        return text


class _Some:
    """The metrics of some models of a registry."""

    def __init__(self, registry: Any, models: Collection[str]) -> None:
        self._registry, self._models = registry, models

    def collect(self) -> Iterator[Any]:
        """Yield the metrics, which the registry makes anew each time."""
        for metric in self._registry.collect():
            metric.samples = [
                each for each in metric.samples if each.labels["model"] in self._models
            ]
            yield metric
