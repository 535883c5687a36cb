"""Converts the reason why a task ends early to the user's error and to the peers' Abort, and back.

All functions are pure. Texts of exceptions are never sent.
"""

from __future__ import annotations

import signal

from heterofed.errors import (
    ConfigError,
    HandshakeError,
    InternalError,
    LocalProtocolError,
    PeerLostError,
    PeerTimeoutError,
    RemoteProtocolError,
    TaskFailed,
    aborted,
)
from heterofed.protocol.codec import Buffer, encode
from heterofed.protocol.messages import Abort
from heterofed.transport.base import LostReason

BETWEEN = "between phases"
"""The name of the phase of a Collaborator that waits for the Host to announce the next one."""

SIGTERM_EXIT = 128 + signal.SIGTERM
"""The exit code of a party that was asked to stop."""


def lost(party: str, phase: str, reason: str) -> PeerLostError:
    """Return the error for a connection to `party` that broke or was never established."""
    if reason == LostReason.HANDSHAKE_FAILED:
        return HandshakeError(
            f"the handshake with {party} failed {during(phase)}: it does not know this party's"
            " key, or has another key than the task file says; compare both files with `heterofed"
            " keys show`",
            party=party,
        )
    happened = f"lost the connection to {party} {during(phase)} ({reason})"
    return PeerLostError(
        f"{happened}: its process ended or the network broke; see its log, then start all parties"
        " again",
        party=party,
        happened=happened,
    )


def silent(party: str, phase: str, seconds: float, what: str) -> PeerTimeoutError:
    """Return the error for a connected party that has done `what` for this many seconds."""
    happened = f"{party} has {what} for {seconds:.0f} s {during(phase)}, though it is connected"
    return PeerTimeoutError(
        f"{happened}; if its hooks need that long, raise calculation_timeout at the Host",
        party=party,
        happened=happened,
    )


def during(phase: str) -> str:
    """Return the place in the task for a sentence: `in phase train` or `between phases`."""
    return phase if phase == BETWEEN else f"in phase {phase}"


def cause(error: BaseException) -> str:
    """Return a name for a foreign error that ended a task: `Ctrl-C`, `SIGTERM`, or its type."""
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    if isinstance(error, SystemExit):
        return "SIGTERM" if error.code == SIGTERM_EXIT else "sys.exit"
    return type(error).__name__


def unlawful(party: str, phase: str, what: str) -> RemoteProtocolError:
    """Return the error for a party that did `what`, which the protocol does not allow."""
    return RemoteProtocolError(
        f"{party} {what} ({where(phase, 0, None)}); {RemoteProtocolError.remedy}",
        party=party,
    )


def told(abort: Abort, party: str) -> TaskFailed:
    """Return the error of a party that received an Abort; `party` is the party that it blames."""
    kind = aborted(abort.code)
    return kind(
        f"{party} ended the task{where(abort.phase, abort.round, abort.batch, ' in ')}:"
        f" {kind.described(abort.numbers)}",
        party=party,
        phase=abort.phase,
        round=abort.round,
        batch=abort.batch,
        numbers=abort.numbers,
    )


def where(phase: str, round_number: int, batch: int | None, lead: str = "") -> str:
    """Return `phase train, round 2, batch 17` after `lead`, without the parts that are unknown."""
    parts = [phase if phase == BETWEEN else f"phase {phase}"] if phase else []
    parts += [f"round {round_number}"] if round_number else []
    parts += [f"batch {batch}"] if batch is not None else []
    if phase == BETWEEN and lead:
        lead = " "
    return lead + ", ".join(parts) if parts else ""


def abort_frames(
    error: BaseException, code: str, here: tuple[str, str, int, int | None]
) -> tuple[Abort, list[Buffer]]:
    """Return the frames of the Abort that the other parties get.

    Args:
        error: the error that ended the task. Its own party and place take precedence over `here`.
        code: the code of the Abort; see `abort_code`.
        here: this party's name, phase, round and batch.
    """
    party, phase, round_number, batch = here
    if isinstance(error, TaskFailed):
        party, phase = error.party or party, error.phase or phase
        round_number = error.round or round_number
        batch = error.batch if error.batch is not None else batch
    numbers = error.numbers[:2] if isinstance(error, TaskFailed) else ()
    abort = Abort(code, phase, party, round_number, batch, numbers)
    try:
        return abort, encode(abort)
    except LocalProtocolError:  # a name or number cannot be encoded
        abort = Abort(InternalError.code, "", here[0])
        return abort, encode(abort)


def abort_code(error: BaseException, failed_hook: str | None) -> str:
    """Return the code that tells the other parties what ended the task."""
    if isinstance(error, TaskFailed):
        return error.code
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    if isinstance(error, ConfigError):
        return error.told
    return "hook" if failed_hook else InternalError.code
