"""Writes `status.json` to the results folder, with the state of the last launch.

The file is replaced with each phase and round. If the process is killed, the file still says
`running` and names a process that does not exist any more. It contains no id, label, key or seed,
and no text of foreign errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from heterofed._version import __version__
from heterofed.errors import ConfigError, HeteroFedError
from heterofed.events import (
    Callback,
    Event,
    PartyLost,
    PhaseBegan,
    PhaseEnded,
    Progressed,
    Resumed,
    RoundEnded,
    StillWaiting,
)
from heterofed.files import own_folder, put_in_place, read
from heterofed.identity.task_terms import shown_terms, terms_digest
from heterofed.messaging.aborts import cause
from heterofed.reporting.results import STATUS
from heterofed.runs.run import Run
from heterofed.runs.settings import Settings

PROGRESS_SECONDS = 1.0
"""The least seconds between two updates of the progress of a phase."""

SECRET = frozenset({"seed"})
"""The fields of a plan that are not written."""

LIBRARIES = ("torch", "numpy", "pandas", "zmq")


class Status:
    """The file of one launch; a callback for its events.

    Args:
        run: the run of the launch, whose attributes are read at each write.
        settings: the settings of this party.
    """

    def __init__(self, run: Run, settings: Settings) -> None:
        self._run, self._settings = run, _shown(settings)
        self._began, self._noted = _now(), 0.0
        self._state = "running"
        self._ended: str | None = None
        self._error: dict[str, Any] | None = None
        self._phase, self._round = "", 0
        self._done: int | None = None
        self._total: int | None = None
        self._waits_for: list[str] = []
        self._metrics: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Process an event; most events are written at once."""
        match event:
            case Progressed(done, total):
                self._done, self._total = done, total
                if time.monotonic() - self._noted < PROGRESS_SECONDS:
                    return
            case PhaseBegan():
                self._phase, self._round = event.phase, event.round or self._round
                self._done, self._total, self._waits_for = None, event.total, []
            case StillWaiting(parties):
                self._waits_for = list(parties)
            case PartyLost(party):
                self._waits_for = [party]
            case Resumed():
                self._round = event.round
            case RoundEnded():
                self._round = event.round
                self._metrics = {key: _plain(value) for key, value in event.metrics.items()}
                if event.loss is not None:
                    self._metrics.setdefault("loss", _plain(event.loss))
            case PhaseEnded():
                return  # the next launch begins at once
            case _:
                return
        self.write()

    def end(self, error: BaseException | None) -> None:
        """Record how the launch ended, and the error if it ended early."""
        self._ended, self._waits_for = _now(), []
        self._state = "finished"
        if error is not None:
            self._state = "failed" if isinstance(error, Exception) else "interrupted"
            self._error = {
                "type": cause(error),
                "message": str(error) if isinstance(error, HeteroFedError) else None,
                "hook": self._run.failed_hook,
            }
        self.write(sync=True)

    def write(self, *, sync: bool = False) -> None:
        """Write the file. Without `sync`, a power cut can restore an older one, but a kill
        cannot.
        """
        self._noted = time.monotonic()
        text = json.dumps(self._content(), indent=2).encode()
        put_in_place(self._run.result.folder / STATUS, lambda file: file.write(text), sync=sync)

    def _content(self) -> dict[str, Any]:
        result, agreement = self._run.result, self._run.maybe_agreement
        plan = {} if agreement is None else msgspec.to_builtins(agreement.plan)
        return {
            "state": self._state,
            "phase": self._phase,
            "round": self._round,
            "done": self._done,
            "total": self._total,
            "waiting_for": self._waits_for,
            "error": self._error,
            "task_id": result.task_id,
            "party": result.party,
            "run": result.run,
            "process": os.getpid(),
            "started": self._began,
            "updated": _now(),
            "ended": self._ended,
            "metrics": self._metrics,
            "ids": {
                "own": result.own_ids,
                "common": result.ids,
                "train": result.train_rows,
                "test": result.test_rows,
            },
            "meeting": self._run.meeting,
            "secured": self._run.secured,
            "terms": _shown_terms(self._run.terms),
            "defences": self._run.defences,
            "versions": _versions(),
            "settings": self._settings,
            "plan": {key: value for key, value in plan.items() if key not in SECRET},
        }


@contextmanager
def status_kept(run: Run, settings: Settings) -> Iterator[Callback]:
    """Keep the file up to date from the beginning of the block until after its end, however it
    ends.

    If settings are refused before the parties met, the results folder stays as it was.

    Yields:
        The callback for events. If the file cannot be written, the task continues.
    """
    status = Status(run, settings)

    def note(event: Event) -> None:
        with run.harmless(STATUS):
            status(event)

    before = _Before(run.result.folder)
    with run.harmless(STATUS):
        own_folder(run.result.folder)
        status.write()
    try:
        yield note
    except BaseException as error:
        with run.harmless(STATUS):
            if isinstance(error, ConfigError) and run.maybe_party is None:
                before.put_back()
            else:
                status.end(error)
        raise
    with run.harmless(STATUS):
        status.end(None)


class _Before:
    """The state of a results folder before a launch, from which it can be restored."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATUS
        self._missing = [each for each in (folder, *folder.parents) if not each.exists()]
        self._content: bytes | None = None
        with contextlib.suppress(OSError):  # there is no file, or it is not ours
            self._content = read(self._path)

    def put_back(self) -> None:
        """Undo the changes of the launch; folders that now have other content stay."""
        if (content := self._content) is not None:
            put_in_place(self._path, lambda file: file.write(content))
            return
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for each in self._missing:
                each.rmdir()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _plain(value: object) -> object:
    """Return a number that JSON can hold; NaN and infinity become strings."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> dict[str, str]:
    """Return the versions of the libraries that are loaded; none is loaded for this."""
    found = {"heterofed": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        if (module := sys.modules.get(name)) is not None:
            found[name] = str(getattr(module, "__version__", ""))
    return found


def _shown_terms(terms: bytes) -> dict[str, Any] | None:
    """Return the digest of a task file's terms, its last day, and the fingerprints of the keys."""
    if not terms:
        return None
    fields, key = shown_terms(terms), "key of "
    return {
        "digest": terms_digest(terms),
        "expires": fields["expires"],
        "fingerprints": {
            name.removeprefix(key): value for name, value in fields.items() if name.startswith(key)
        },
    }


def _shown(settings: Settings) -> dict[str, Any]:
    """Return the settings of this party that are plain values."""
    found = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in found.items()
        if name not in SECRET and isinstance(value, str | int | float | Path | None)
    }
