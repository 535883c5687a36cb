"""Defines the commands `heterofed models`, which manage the versions of a model at this party."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heterofed.cli import options
from heterofed.cli.options import all_of
from heterofed.errors import ConfigError

if TYPE_CHECKING:
    from heterofed.hetero_nn.serve.held_runs import HeldRuns, Wanted
    from heterofed.runs.artifacts import Trained

_COMMON = all_of(click.argument("task"), options.PARTY, options.RESULTS)

LEAST_DIGITS = 6
"""The fewest digits by which a run is named."""


@click.group()
def models() -> None:
    """Manage the versions of a model at this party: list them, add one, choose which is served."""


@models.command("list")
@_COMMON
@options.AS_JSON
def list_models(task: str, party: str | None, results: Path, as_json: bool) -> None:
    """List the finished runs of TASK whose models this party holds, the newest first."""
    held = _held(task, party, results)
    served, wanted = held.served(), held.wanted()
    rows = []
    for each in held.all():
        run = each.run.hex()
        row: dict[str, Any] = {"run": run, "rounds": each.rounds, "folder": str(each.folder)}
        row["served"] = served is not None and served.run == run
        row["wanted"] = wanted is not None and wanted.run == run
        rows.append(row | ({"version": served.version} if served and row["served"] else {}))
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        said = [word for word in ("served", "wanted") if row[word]]
        click.echo("  ".join([row["run"], f"{row['rounds']} rounds", row["folder"], *said]))


@models.command()
@_COMMON
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def add(task: str, party: str | None, results: Path, folder: Path) -> None:
    """Add this party's half of the run in FOLDER, which was trained elsewhere, to those of TASK."""
    added = _held(task, party, results).add(folder)
    click.echo(f"{added.run.hex()}: {added.folder}")


@models.command()
@_COMMON
@click.argument("run")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Wait this many seconds until the server has taken it over; 0 does not wait.",
)
def use(task: str, party: str | None, results: Path, run: str, wait: float) -> None:
    """Have the Host of TASK serve the models of RUN from now on; `newest` names the newest run.

    A server that runs takes over as soon as all parties hold the version, and loses no request. If
    one of them does not, it goes on as before. Without a server this holds for the next one.
    """
    held = _held(task, party, results)
    wish = held.want(_named(held.all(), run))
    if wait:
        click.echo(_outcome(held, wish, wait))


def _outcome(held: HeldRuns, wish: Wanted, seconds: float) -> str:
    """Return what has become of a wish.

    Raises:
        ConfigError: the server does not grant it, and why.
    """
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        served = held.served()
        if served is not None and served.turn == wish.turn:
            if served.refused:
                raise ConfigError(
                    f"the run {wish.run[:12]} is not served ({served.refused}), and"
                    f" {served.run[:12]} goes on; correct this and choose it again, or use another"
                )
            return f"run {served.run}, version {served.version}"
        time.sleep(0.1)
    return f"run {wish.run} is wanted; no server has answered within {seconds:g} s"


def _named(held: Sequence[Trained], run: str) -> Trained:
    """Return the run that a word names."""
    if not held:
        raise ConfigError("this party holds no finished run of the task; train first, or add one")
    if run == "newest":
        return held[0]
    found = [each for each in held if len(run) >= LEAST_DIGITS and each.run.hex().startswith(run)]
    if len(found) != 1:
        raise ConfigError(
            f"{len(found)} runs begin with {run!r}; give one of those that `heterofed models list`"
            f" shows, by {LEAST_DIGITS} digits or more"
        )
    return found[0]


def _held(task: str, party: str | None, results: Path) -> HeldRuns:
    """Return the runs of a party; without a name, of the only one with results of the task.

    Raises:
        ConfigError: there is none, or more than one.
    """
    from heterofed.hetero_nn.serve.held_runs import HeldRuns, number_of
    from heterofed.reporting.results import check_name

    check_name(task, "TASK")
    if party is None:
        there = results.absolute() / task
        names = [each.name for each in there.iterdir() if each.is_dir()] if there.is_dir() else []
        names = [name for name in names if not number_of(Path(name)) and name[0] != "."]
        if len(names) != 1:
            raise ConfigError(f"{there} has results of {len(names)} parties; give --party")
        (party,) = names
    check_name(party, "--party")
    return HeldRuns(results.absolute() / task / party)
