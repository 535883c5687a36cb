"""Records a task as an OpenTelemetry trace, with a span for each round and phase."""

from __future__ import annotations

import time
from typing import Any

from heterofed.events import (
    Event,
    PartyLost,
    PhaseBegan,
    PhaseEnded,
    Resumed,
    RoundEnded,
    TaskBegan,
)
from heterofed.reporting.trackers.base import Tracker, library, scalars_of


class OpenTelemetry(Tracker):
    """Makes spans of tasks, rounds and phases. Needs the extra `opentelemetry`.

    The span of a phase is created when the phase has ended.

    Args:
        provider: the tracer provider, which decides where the spans go (OTLP, console, ...); None
            takes the provider of the process from `opentelemetry.trace`.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: Any = None) -> None:
        super().__init__()
        self._api = library("opentelemetry.trace", "opentelemetry")
        self._tracer = self._api.get_tracer("heterofed", tracer_provider=provider)
        self._task_span: Any = None
        self._round_span: Any = None

    def begin(self, task: TaskBegan) -> None:
        """Open the span of the task."""
        self._end_spans()
        self._task_span = self._tracer.start_span(
            f"task {task.task_id}",
            attributes={
                "heterofed.task": task.task_id,
                "heterofed.party": task.party,
                "heterofed.run": task.run,
                "heterofed.host": task.host,
                "heterofed.collaborators": list(task.collaborators),
            },
        )

    def take(self, event: Event) -> None:
        """Open and end spans."""
        match event:
            case PhaseBegan() if event.round and self._round_span is None:
                about = {"heterofed.round": event.round}
                self._round_span = self._started(f"round {event.round}", self._task_span, about)
            case PhaseEnded():
                self._add_phase(event)
            case RoundEnded() if self._round_span is not None:
                for name, value in scalars_of(event).items():
                    self._round_span.set_attribute(f"heterofed.{name}", value)
                self._round_span.end()
                self._round_span = None
            case PartyLost(party):
                self._task_span.add_event("party lost", {"heterofed.peer": party})
            case Resumed(number):
                self._task_span.add_event("resumed", {"heterofed.round": number})
            case _:
                pass

    def _started(self, name: str, parent: Any, attributes: dict[str, Any], **times: int) -> Any:
        context = self._api.set_span_in_context(parent)
        return self._tracer.start_span(name, context, attributes=attributes, **times)

    def _add_phase(self, event: PhaseEnded) -> None:
        parent = self._round_span if event.round else None
        about = {
            "heterofed.phase": event.phase,
            "heterofed.bytes_sent": event.bytes_sent,
            "heterofed.bytes_received": event.bytes_received,
            "heterofed.compute_seconds": event.compute,
            "heterofed.encode_seconds": event.encode,
            **{f"heterofed.waited_for.{peer}": each for peer, each in event.waits.items()},
        }
        now = time.time_ns()
        began = now - int(event.seconds * 1e9)
        self._started(event.phase, parent or self._task_span, about, start_time=began).end(now)

    def _end_spans(self) -> None:
        for span in (self._round_span, self._task_span):
            if span is not None:
                span.end()
        self._round_span = self._task_span = None

    def end(self, error: str | None) -> None:
        """End all open spans, and record the error that ended the task in its span."""
        if error is not None:
            code = self._api.StatusCode.ERROR
            self._task_span.set_status(self._api.Status(code, error))
        self._end_spans()
