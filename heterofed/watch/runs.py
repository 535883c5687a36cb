"""Which runs a results folder has: one for each party of each task that left a status there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from heterofed.reporting.results import STATUS, SUMMARY

MAX_RUNS = 300
"""The most runs that are listed; the newest ones."""


@dataclass(frozen=True, slots=True)
class Found:
    """A run.

    Attributes:
        task, party: as its folders are called.
        folder: its results folder.
        changed: when its status was written last, in seconds since 1970.
    """

    task: str
    party: str
    folder: Path
    changed: float


def runs_in(results: Path, tasks: tuple[str, ...] = ()) -> list[Found]:
    """The runs of a folder of results, the newest first.

    Args:
        results: the folder, `<results>/<task>/<party>`; it may not exist yet.
        tasks: the ids of the tasks that are meant; empty for all.
    """
    found = []
    for task in _folders(results):
        if not tasks or task.name in tasks:
            found += [each for party in _folders(task) if (each := _run(task.name, party))]
    return sorted(found, key=lambda each: -each.changed)[:MAX_RUNS]


def _run(task: str, folder: Path) -> Found | None:
    for name in (STATUS, SUMMARY):
        try:
            changed = (folder / name).lstat().st_mtime
        except OSError:
            continue
        return Found(task, folder.name, folder, changed)
    return None


def _folders(within: Path) -> list[Path]:
    try:
        return [each for each in within.iterdir() if each.is_dir() and not each.is_symlink()]
    except OSError:
        return []
