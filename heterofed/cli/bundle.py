"""Implements `heterofed bundle`: what the maintainers need to answer a question, and no data.

Everything in the archive goes through `cleared`, which lets only numbers and heterofed's own words
pass. Models, checkpoints, tables of metrics, logs and receipts are not read.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heterofed.cli.cleared import Clearing, clearing_of
from heterofed.cli.report import find_run
from heterofed.cli.version import versions
from heterofed.errors import ConfigError
from heterofed.files import put_in_place
from heterofed.report.sources import Sources
from heterofed.reporting.journal_records import FILE as EVENTS
from heterofed.reporting.results import STATUS, SUMMARY

MOST_EVENTS = 5000
"""The newest lines of the journal that are taken."""

NUMBERS = frozenset({"messages", "bytes", "encode_ms", "wait_ms", "compute_ms"})
"""The columns of numbers in the tables of costs; a party may be called `17`."""

DATE = (1980, 1, 1, 0, 0, 0)
"""The time of each file in the archive, since theirs says nothing."""

ABOUT = """\
A bundle of a run of heterofed, for a question to its maintainers.

It has versions, settings, costs, timings and classes of errors: numbers, and words of heterofed
itself. Names of parties are replaced by their roles, and every other text by (hidden). It has no
id, label, feature, key, path, host name or text of an error. Look at it before you send it.
"""


def write_bundle(run: str, output: Path) -> list[str]:
    """Write the bundle of a run, and return the names of its files.

    Args:
        run: a results folder, a folder of a task with one party's results, or a task id.
        output: the archive to write, which must not exist.

    Raises:
        ConfigError: there is no such run, or the archive cannot be written.
    """
    members = dict(_members(Sources(find_run(run))))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), text, zipfile.ZIP_DEFLATED)
    try:
        put_in_place(output, lambda file: file.write(packed.getvalue()), anywhere=True, new=True)
    except FileExistsError:
        raise ConfigError(f"{output} exists already; remove it, or give another --output") from None
    except OSError as error:
        raise ConfigError(
            f"{output} cannot be written ({error.strerror}); give another --output"
        ) from None
    return list(members)


def _members(sources: Sources) -> Iterator[tuple[str, str]]:
    status = _object(sources, STATUS)
    clearing = clearing_of(status.get("plan"))
    yield "about.txt", ABOUT
    yield "versions.json", _json(versions())
    yield "run.json", _json(_run(status, clearing))
    yield "summary.json", _json(clearing.value(_object(sources, SUMMARY)))
    for name in ("comm.csv", "outbound.csv"):
        rows = [_numbers(row) for row in sources.table(name)]
        yield name.replace(".csv", ".json"), _json(clearing.value(rows))
    yield "events.json", _json([clearing.value(each) for each in _events(sources)])


def _run(status: Mapping[str, Any], clearing: Clearing) -> dict[str, Any]:
    """Return the state of the last launch, its settings and its error."""
    found: dict[str, Any] = clearing.value(status)
    own = status.get("party")
    return {"own": clearing.text(own) if isinstance(own, str) else None, **found}


def _events(sources: Sources) -> Iterator[Any]:
    """Yield the newest lines of the journal, with times since the first of them."""
    began: float | None = None
    try:
        with (sources.folder / EVENTS).open("rb") as file:
            newest = deque(file, MOST_EVENTS)
    except OSError:
        return
    for line in newest:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(at := event.get("at"), int | float):
            began = at if began is None else began
            yield {**event, "at": round(at - began, 3)}


def _object(sources: Sources, name: str) -> dict[str, Any]:
    try:
        found = json.loads((sources.folder / name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of a table of costs, with the numbers of its columns of numbers as such."""
    return {name: _number(text) if name in NUMBERS else text for name, text in row.items()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _json(value: object) -> str:
    return json.dumps(value, indent=1)
