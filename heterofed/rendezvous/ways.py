"""Says how a user starts a party: by a method of a scheduler, or by the command that was typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from heterofed.protocol.states import Role
from heterofed.rendezvous.agreement import JoinPurpose


@dataclass(frozen=True, slots=True)
class Ways:
    """The words of one program for what users have to do at another party.

    Attributes:
        calls: what starts a party for each purpose.
        roles: what makes a party one of each role.
        name: what gives a party its feature key.
    """

    calls: Mapping[JoinPurpose, str]
    roles: Mapping[Role, str]
    name: str


METHODS = Ways(
    calls={
        "train": "launch_task",
        "psi": "launch_task",
        "predict": "serve_predictions",
        "serve": "heterofed serve",
        "rehearse": "rehearse",
        "overlap": "count_common",
        "stored": "`heterofed psi --stored` and `heterofed psi-set serve`",
        "probe": "`heterofed doctor`",
    },
    roles={Role.HOST: "a Host's scheduler", Role.COLLABORATOR: "a Collaborator's scheduler"},
    name="feature_key",
)
_ways: ContextVar[Ways] = ContextVar("heterofed_ways", default=METHODS)


@contextmanager
def started_by(ways: Ways) -> Iterator[None]:
    """Let messages of this thread during the block speak of commands in place of methods."""
    token = _ways.set(ways)
    try:
        yield
    finally:
        _ways.reset(token)


def call_for(purpose: JoinPurpose) -> str:
    """Return what starts a party for a purpose."""
    return _ways.get().calls.get(purpose, METHODS.calls.get(purpose, "launch_task"))


def as_a(role: Role) -> str:
    """Return what starts a party in a role, after the word "with"."""
    return _ways.get().roles[role]


def naming() -> str:
    """Return what gives a party its feature key."""
    return _ways.get().name


def both_hosts() -> str:
    """Return what to do if two parties of a task are Hosts."""
    return f"both sides are Hosts: start one with {as_a(Role.COLLABORATOR)}"


def no_host() -> str:
    """Return what to do if no party of a task is the Host."""
    return f"if all sides wait for the Host, none is: start one with {as_a(Role.HOST)}"
