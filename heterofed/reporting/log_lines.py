"""Log lines where there is no terminal: text with date, level, task and party, or one JSON object.

Where a record belongs to is known by the thread that logs it, since each party of a task logs from
the thread that launched it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from heterofed.errors import ConfigError
from heterofed.events import Event, PhaseBegan, PhaseEnded, RoundEnded, without_progress
from heterofed.metrics import as_float
from heterofed.reporting.visible import visible_lines

LogFormat = Literal["text", "json"]
VARIABLE = "HETEROFED_LOG_FORMAT"
"""The environment variable that chooses the format, for this process and those that it starts."""


@dataclass(slots=True)
class Place:
    """Where a party is in a task; phase and round are empty and 0 outside of them."""

    task: str = ""
    party: str = ""
    phase: str = ""
    round: int = 0

    @without_progress
    def note(self, event: Event) -> None:
        """Follow the phases; this method is a callback."""
        match event:
            case PhaseBegan(phase, round=number):
                self.phase, self.round = phase, number
            case PhaseEnded():
                self.phase, self.round = "", 0
            case _:
                pass


_place: ContextVar[Place | None] = ContextVar("heterofed_place", default=None)


@contextmanager
def placed(task: str, party: str) -> Iterator[Place]:
    """Let log records of this thread say, during the block, to which task and party they belong."""
    place = Place(task, party)
    before = _place.set(place)
    try:
        yield place
    finally:
        _place.reset(before)


def chosen_format() -> LogFormat:
    """Return the format that the environment variable chooses; `text` if it is not set.

    Raises:
        ConfigError: there is no such format.
    """
    named = os.environ.get(VARIABLE) or "text"
    for each in get_args(LogFormat):
        if each == named:
            found: LogFormat = each
            return found
    raise ConfigError(f"{VARIABLE}={named!r}: give {' or '.join(get_args(LogFormat))}")


class TextLines(logging.Formatter):
    """Writes each line of a message with its date, level, task and party."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one or several lines."""
        place = _place.get() or Place()
        whose = " ".join(filter(None, (place.task, place.party)))
        lead = f"{_moment(record)} {record.levelname}{f' {whose}' if whose else ''}:"
        text = visible_lines(super().format(record))
        return "\n".join(f"{lead} {line}" for line in text.splitlines() or [""])


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object: time, level, task, party, phase, round and message.

    A record of an event also has `event` and `facts`: its name and its numbers. A message has one
    line. Further lines of a record with facts are left out, because the facts say the same; without
    facts, each line is an object of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one object on a line, or as several."""
        place = _place.get() or Place()
        fields: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "task": place.task,
            "party": place.party,
            "phase": place.phase,
            "round": place.round,
            "message": "",
        }
        known = getattr(record, "heterofed", {})
        lines = super().format(record).splitlines() or [""]
        shown = [fields | {"message": line} | known for line in (lines[:1] if known else lines)]
        return "\n".join(msgspec.json.encode(each).decode() for each in shown)


def facts(event: Event) -> dict[str, Any]:
    """What a log record of an event is given as `extra`, for the format `json`.

    An event is logged when its phase is over, so the phase and the round are those of the event.
    """
    values = msgspec.to_builtins(event, enc_hook=_plain)
    place = {name: values[name] for name in ("phase", "round") if name in values}
    if isinstance(event, RoundEnded):
        place["phase"] = "train"
    return {"heterofed": place | {"event": type(event).__name__, "facts": values}}


def named_facts(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """What a log record of something that is no event is given as `extra`."""
    return {"heterofed": {"event": name, "facts": msgspec.to_builtins(values, enc_hook=_plain)}}


def one_record(message: str, level: int = logging.INFO, **extra: Any) -> str:
    """Return a message of a command in the format `json`, as a log record would be written."""
    attributes = {"msg": message, "levelno": level, "levelname": logging.getLevelName(level)}
    return JsonLines().format(logging.makeLogRecord(attributes | extra))


def _plain(value: object) -> object:
    """Return a number of another library as a number, and anything else, such as a path, as
    text.
    """
    number = as_float(value)
    return str(value) if number is None else number


def formatter() -> logging.Formatter:
    """Return the formatter of the chosen format."""
    return JsonLines() if chosen_format() == "json" else TextLines()


def _moment(record: logging.LogRecord) -> str:
    """The time of a record in UTC, in the order of ISO 8601."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03}Z"
