"""A party's consent to a task, and the audit log of its consents, refusals and starts.

A Collaborator's consent is a file in `$HETEROFED_HOME/tasks/accepted`, and is valid only for the
terms for which it was given. `$HETEROFED_HOME/audit.log` gets a JSON line for each event. A line
holds names, digests and fixed words, but no id, no key, and no text from a peer.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

import msgspec

from heterofed.errors import ConfigError
from heterofed.files import append_json, private_folder, put_in_place, read

AuditEvent = Literal["accepted", "refused", "started"]

MOST_LINES = 100_000
"""The newest lines of the audit log are read, up to this number."""


class _Recorded(msgspec.Struct):
    when: str
    event: AuditEvent
    task: str
    party: str
    terms: str


def accept(home: Path, task: str, party: str, digest: str) -> None:
    """Record that a party agrees to a task's terms.

    Raises:
        ConfigError: the record cannot be written.
    """
    record(home, "accepted", task=task, party=party, digest=digest)
    path = _place(home, task, party)
    text = json.dumps({"terms": digest}).encode()
    try:
        put_in_place(path, lambda file: file.write(text))
    except OSError as error:
        raise ConfigError(
            f"the consent {path} cannot be written: {error.strerror}; make it writable"
        ) from None


def refuse(home: Path, task: str, party: str, digest: str, why: str) -> None:
    """Record that a party does not agree to a task's terms, or no longer agrees.

    Raises:
        ConfigError: the record cannot be written.
    """
    _place(home, task, party).unlink(missing_ok=True)
    record(home, "refused", task=task, party=party, digest=digest, why=why)


def has_accepted(home: Path, task: str, party: str, digest: str) -> bool:
    """Return whether a party agreed to exactly these terms of a task."""
    try:
        kept = json.loads(read(_place(home, task, party, make=False)))
    except (OSError, ValueError):
        return False
    return isinstance(kept, dict) and kept.get("terms") == digest


def record(
    home: Path, event: AuditEvent, *, task: str, party: str, digest: str, why: str = ""
) -> None:
    """Append a line to the audit log.

    Args:
        home: `$HETEROFED_HOME`.
        event: what this party did with the task.
        task: the id of the task.
        party: the feature key of this party.
        digest: the digest of the task's terms, in hexadecimal.
        why: the reason, for a refusal.

    Raises:
        ConfigError: the line cannot be written; then the party must not act either.
    """
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"when": when, "event": event, "task": task, "party": party, "terms": digest}
    if why:
        line["why"] = why
    path = private_folder(home) / "audit.log"
    try:
        append_json(path, line)
    except OSError as error:
        raise ConfigError(
            f"the audit log {path} cannot be written ({error.strerror}): consents and starts must"
            " be recorded; make the file writable"
        ) from None


def on_record(home: Path, task: str, party: str, digest: str) -> dict[str, str]:
    """Return when each audit event last happened with exactly these terms, by event."""
    try:
        lines = read(home / "audit.log").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines[-MOST_LINES:]:
        try:
            entry = msgspec.json.decode(line, type=_Recorded)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if (entry.task, entry.party, entry.terms) == (task, party, digest):
            found[entry.event] = entry.when
    return found


def _place(home: Path, task: str, party: str, *, make: bool = True) -> Path:
    folder = private_folder(home, "tasks", "accepted", make=make)
    return folder / f"{task}@{party}.json"  # names have no '@'
