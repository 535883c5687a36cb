"""Serves the state of a run to Prometheus over HTTP."""

from __future__ import annotations

from typing import Any

from heterofed.events import (
    Event,
    PartyLost,
    PhaseBegan,
    PhaseEnded,
    Progressed,
    RoundEnded,
    StillWaiting,
    TaskBegan,
)
from heterofed.reporting.trackers.base import Tracker, library, scalars_of

WHOSE = ("task", "party")


class Prometheus(Tracker):
    """Counters and gauges of this process's runs. Needs the extra `prometheus`.

    Args:
        port: the port at which `/metrics` is served; None serves nothing, for a program that serves
            the registry itself.
        address: the interface of the port; by default, only this machine can reach it.
        registry: the registry of the metrics; None creates a new one, see the attribute `registry`.

    Raises:
        ConfigError: prometheus-client is not installed.
        OSError: the port is taken.

    Attributes:
        registry: the `prometheus_client.CollectorRegistry`.
        server: the HTTP server; None without a port. End it by `server.shutdown()`.
    """

    def __init__(
        self, port: int | None = 9464, address: str = "127.0.0.1", registry: Any = None
    ) -> None:
        super().__init__()
        client = library("prometheus_client", "prometheus")
        self.registry: Any = registry or client.CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Any:
            return client.Gauge(name, text, (*WHOSE, *labels), registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Any:
            return client.Counter(name, text, (*WHOSE, *labels), registry=self.registry)

        self._running = gauge("heterofed_running", "Whether the task runs now.")
        self._round = gauge("heterofed_round", "The round that ended last.")
        self._rounds = gauge("heterofed_rounds", "Rounds that the task means to train.")
        self._value = gauge("heterofed_value", "A number of the last round.", "name")
        self._phase = gauge("heterofed_phase", "Whether a phase runs now.", "phase")
        self._done = gauge("heterofed_progress_ratio", "How far the phase is; -1: not known.")
        self._waiting = gauge("heterofed_waiting", "Whether a party is waited for.", "peer")
        self._seconds = counter("heterofed_phase_seconds", "Seconds in a phase.", "phase")
        self._bytes = counter("heterofed_bytes", "Bytes that travelled.", "phase", "direction")
        self._waits = counter("heterofed_wait_seconds", "Seconds that were waited.", "peer")
        self._losses = counter("heterofed_party_lost", "How often a party was lost.", "peer")
        self._ends = counter("heterofed_tasks", "Tasks that have ended.", "error")
        self._whose: tuple[str, str] = ("", "")
        self._waited: set[str] = set()
        self.server: Any = None
        if port is not None:
            self.server, _ = client.start_http_server(port, address, registry=self.registry)

    def begin(self, task: TaskBegan) -> None:
        """Note that a task runs."""
        self._whose = (task.task_id, task.party)
        self._running.labels(*self._whose).set(1)

    def take(self, event: Event) -> None:
        """Update the metrics."""
        match event:
            case PhaseBegan(phase):
                self._phase.labels(*self._whose, phase).set(1)
                self._done.labels(*self._whose).set(-1)
                self._nobody_is_waited_for()
            case Progressed(done, total) if total:
                self._done.labels(*self._whose).set(done / total)
            case PhaseEnded():
                self._count(event)
            case RoundEnded():
                self._round.labels(*self._whose).set(event.round)
                self._rounds.labels(*self._whose).set(event.rounds)
                for name, value in scalars_of(event).items():
                    self._value.labels(*self._whose, name).set(value)
            case StillWaiting(parties):
                self._wait_for(*parties)
            case PartyLost(party):
                self._losses.labels(*self._whose, party).inc()
                self._wait_for(party)
            case _:
                pass

    def _count(self, event: PhaseEnded) -> None:
        phase = event.phase
        self._phase.labels(*self._whose, phase).set(0)
        self._seconds.labels(*self._whose, phase).inc(event.seconds)
        self._bytes.labels(*self._whose, phase, "sent").inc(event.bytes_sent)
        self._bytes.labels(*self._whose, phase, "received").inc(event.bytes_received)
        for peer, seconds in event.waits.items():
            self._waits.labels(*self._whose, peer).inc(seconds)

    def _wait_for(self, *peers: str) -> None:
        self._nobody_is_waited_for()
        self._waited = set(peers)
        for peer in peers:
            self._waiting.labels(*self._whose, peer).set(1)

    def _nobody_is_waited_for(self) -> None:
        for peer in self._waited:
            self._waiting.labels(*self._whose, peer).set(0)
        self._waited = set()

    def end(self, error: str | None) -> None:
        """Note that the task has ended."""
        self._running.labels(*self._whose).set(0)
        self._ends.labels(*self._whose, error or "none").inc()
        self._nobody_is_waited_for()
