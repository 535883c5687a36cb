"""Implements `heterofed report`, which finds a results folder and writes its report."""

from __future__ import annotations

import difflib
from pathlib import Path

import click

from heterofed.errors import ConfigError
from heterofed.report.gather import gather
from heterofed.report.render import Format, rendered, write_report
from heterofed.reporting.results import STATUS, SUMMARY

RESULTS = Path("heterofed_runs")
"""The default parent of results folders."""


def run_report(run: str, kind: Format, output: str | None) -> None:
    """Write the report of a run, or print it if `output` is `-`.

    Args:
        run: a results folder, a folder of a task with one party's results, or a task id.
        kind: the kind of report.
        output: a file, `-`, or None for a file in the results folder.

    Raises:
        ConfigError: there is no such run, or several.
        ResultsError: the report cannot be written.
    """
    folder = find_run(run)
    if output == "-":
        click.echo(rendered(gather(folder), kind), nl=False)
        return
    to = None if output is None else Path(output).absolute()
    if to is not None and (to.is_dir() or not to.parent.is_dir()):
        raise ConfigError(f"--output {output}: give a file in a folder that there is, or -")
    click.echo(write_report(folder, kind, to=to))


def find_run(given: str) -> Path:
    """Return the results folder that the user means.

    Raises:
        ConfigError: there is none, or several.
    """
    for folder in dict.fromkeys((Path(given), RESULTS / given)):
        if _is_run(folder):
            return folder.absolute()
        runs = _runs_in(folder)
        if len(runs) == 1:
            return runs[0].absolute()
        if runs:
            raise ConfigError(
                f"{folder} holds runs of several parties: give one of"
                f" {', '.join(str(each) for each in runs)}"
            )
    raise ConfigError(
        f"there is no run {given!r}: give a results folder, RESULTS_DIR/TASK/PARTY,"
        f" {_nearest(given)}"
    )


def _nearest(given: str) -> str:
    tasks = sorted(each.name for each in RESULTS.iterdir()) if RESULTS.is_dir() else []
    near = difflib.get_close_matches(given, tasks, n=1)
    if near:
        return f"or a task id (did you mean {near[0]!r}?)"
    where = f"{RESULTS.absolute()} has {', '.join(tasks[-5:]) or 'none'}"
    return f"or the id of a task in ./{RESULTS} ({where})"


def _runs_in(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if _is_run(each))
    except OSError:
        return []


def _is_run(folder: Path) -> bool:
    try:
        return any((folder / name).is_file() for name in (STATUS, SUMMARY))
    except OSError:  # the name is too long
        return False
