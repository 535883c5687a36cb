"""What this party agreed to: its consent to a task, and the record of its deeds.

A Collaborator's consent lies in `$HETEROFED_HOME/tasks/accepted`, and holds for exactly the terms
that it was given to. `$HETEROFED_HOME/audit.log` gets a JSON line for each deed: names, digests
and words of ours; no id, no key, and nothing that a peer made up.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

import msgspec

from heterofed.errors import ConfigError
from heterofed.files import append, private_folder, put_in_place, read

Deed = Literal["accepted", "refused", "started"]

MOST_LINES = 100_000
"""Of the audit log that are looked at, the newest ones."""


class _Recorded(msgspec.Struct):
    when: str
    deed: Deed
    task: str
    party: str
    terms: str


def accept(home: Path, task: str, party: str, digest: str) -> None:
    """Note that a party agrees to a task's terms.

    Raises:
        ConfigError: it cannot be written.
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
    """Note that a party does not agree, or no longer.

    Raises:
        ConfigError: it cannot be written.
    """
    _place(home, task, party).unlink(missing_ok=True)
    record(home, "refused", task=task, party=party, digest=digest, why=why)


def has_accepted(home: Path, task: str, party: str, digest: str) -> bool:
    """Whether a party agreed to exactly these terms of a task."""
    try:
        kept = json.loads(read(_place(home, task, party, make=False)))
    except (OSError, ValueError):
        return False
    return isinstance(kept, dict) and kept.get("terms") == digest


def record(home: Path, deed: Deed, *, task: str, party: str, digest: str, why: str = "") -> None:
    """Append a line to the audit log.

    Args:
        home: `$HETEROFED_HOME`.
        deed: what this party did with the task.
        task: its id.
        party: this party.
        digest: digest of the task's terms, hexadecimal.
        why: for a refusal, the reason.

    Raises:
        ConfigError: it cannot be written; then the deed must not be done either.
    """
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"when": when, "deed": deed, "task": task, "party": party, "terms": digest}
    if why:
        line["why"] = why
    path = private_folder(home) / "audit.log"
    try:
        append(path, json.dumps(line, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise ConfigError(
            f"the audit log {path} cannot be written ({error.strerror}): what this party agrees to"
            " must be on record; make it writable"
        ) from None


def on_record(home: Path, task: str, party: str, digest: str) -> dict[str, str]:
    """When each deed was done last with exactly these terms, by deed; of what the log still has."""
    try:
        lines = read(home / "audit.log").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines[-MOST_LINES:]:
        try:
            deed = msgspec.json.decode(line, type=_Recorded)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if (deed.task, deed.party, deed.terms) == (task, party, digest):
            found[deed.deed] = deed.when
    return found


def _place(home: Path, task: str, party: str, *, make: bool = True) -> Path:
    folder = private_folder(home, "tasks", "accepted", make=make)
    return folder / f"{task}@{party}.json"  # no name has an '@'
