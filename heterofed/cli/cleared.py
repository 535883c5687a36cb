"""Lets only fixed words and numbers pass, so that nothing of data is in a bundle.

A text passes if it is a word of heterofed itself: a field, a phase, a message, a hook, the class of
an error. Names of parties become `host` and `collaborator 1`; every other text becomes `HIDDEN`.
So whatever somebody named after a person or a column does not pass, wherever it stands.
"""

from __future__ import annotations

import builtins
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec

from heterofed import errors
from heterofed.hetero_nn.settings import CollaboratorSettings, HostSettings
from heterofed.protocol import plan as plans
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.protocol.messages import AnyMessage
from heterofed.reporting import costs, egress
from heterofed.reporting import journal_records as records
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.hook_calls import HOOKS

HIDDEN = "(hidden)"

UNSAID = frozenset(
    {"agreed", "leaks", "loss", "metrics", "process", "run", "seed", "task_id", "terms"}
)
"""Fields that are left out, although their values may be numbers."""

PHASES = (
    "between phases",
    "checkpoint",
    "finish",
    "join",
    "predict",
    "prepare",
    "probe",
    "psi",
    "resume",
    "serve",
    "split",
    "test",
    "train",
)

STRUCTS = (plans.Plan, plans.Averaging, LeakLimits, records.Costs, records.Span)

SETTINGS = (HostSettings, CollaboratorSettings)

LITERALS = (
    plans.Coding,
    plans.Fusion,
    plans.LossReduction,
    plans.PSIProtocol,
    plans.Weighting,
    costs.Direction,
    costs.Work,
)

OTHERS = (
    *("running", "finished", "failed", "interrupted", "auto", "weights", "gradients", "cpu"),
    *("state", "done", "total", "waiting_for", "error", "type", "hook", "ids", "own", "common"),
    *("secured", "kind", "at", "message", "settings", "plan", "compute_seconds"),
    *("encode_seconds", "wait_seconds", "direction", "messages", "encode_ms", "wait_ms"),
    *("compute_ms", "train", "test", "limits"),
)


def _words() -> Iterator[str]:
    yield from (*PHASES, *OTHERS, *HOOKS, *costs.COLUMNS, *egress.COLUMNS, *egress.HOLDS.values())
    kinds = get_args(records.AnyRecord)
    for struct in (*STRUCTS, *kinds):
        yield from struct.__struct_fields__
    for kind in kinds:
        yield kind.__name__.lower()
    for kept in (TaskResult, costs.PhaseCost, costs.LinkQuality, *SETTINGS):
        yield from (each.name for each in dataclasses.fields(kept))
    for literal in LITERALS:
        yield from (each for each in get_args(literal) if isinstance(each, str))
    yield from (each.__name__ for each in get_args(AnyMessage))
    for module in (errors, builtins):
        for name, each in vars(module).items():
            if isinstance(each, type) and issubclass(each, BaseException):
                yield name


WORDS = frozenset(_words())


class Clearing:
    """Clears values of what is not heterofed's own.

    Args:
        host: the feature key of the Host.
        collaborators: those of the Collaborators.
    """

    def __init__(self, host: str, collaborators: Sequence[str]) -> None:
        self._parties = {
            name: f"collaborator {number}" for number, name in enumerate(collaborators, 1)
        } | {host: "host"}

    def text(self, text: str) -> str:
        """Return a text, the role of a party for its name, or `HIDDEN`."""
        if text in self._parties:
            return self._parties[text]
        return text if text in WORDS else HIDDEN

    def value(self, value: Any) -> Any:
        """Return a value of JSON with its texts cleared, and without the fields in `UNSAID`."""
        match value:
            case str():
                return self.text(value)
            case bool() | int() | None:
                return value
            case float():
                return value if math.isfinite(value) else str(value)
            case Mapping():
                return self._fields(value)
            case list() | tuple():
                return [self.value(each) for each in value]
        return HIDDEN

    def _fields(self, fields: Mapping[Any, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in fields.items():
            if name not in UNSAID:
                shown = self.text(str(name))
                found[shown if shown != HIDDEN else f"{HIDDEN} {len(found)}"] = self.value(value)
        return found


def clearing_of(plan: object) -> Clearing:
    """Return the clearing for the parties of a plan in `status.json`, which may be anything."""
    try:
        found = msgspec.convert(plan, _Parties)
    except msgspec.ValidationError:
        return Clearing("", ())
    return Clearing(found.host, found.collaborators)


class _Parties(msgspec.Struct):
    host: str
    collaborators: list[str]
