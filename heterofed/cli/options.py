"""Defines options that several commands have, so that they have the same names and meanings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from heterofed.protocol.plan import MAX_PEER_IDS
from heterofed.reporting.log_lines import VARIABLE, LogFormat

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]


def all_of(*options: Option[Any]) -> Option[Any]:
    """Return one decorator for several options, which the help shows in this order."""

    def decorate(command: F) -> F:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


def max_peer_ids(meaning: str) -> Option[Any]:
    """Return the option for the limit of ids; each command says what it counts."""
    kind = click.IntRange(min=1, max=MAX_PEER_IDS)
    return click.option(
        "--max-peer-ids", type=kind, default=10_000_000, show_default=True, help=meaning
    )


def parties(who: str) -> Option[Any]:
    """Return the option for the number of parties to wait for."""
    return click.option(
        "--parties", type=click.IntRange(min=1), default=1, show_default=True, help=who
    )


TASK = click.option("--task", required=True, help="Task id, the same at every party.")
PARTY = click.option("--party", help="Your key in the task; the role by default.")
RESULTS = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("heterofed_runs"),
    show_default=True,
    help="Parent of the results folder.",
)
JOIN_TIMEOUT = click.option(
    "--join-timeout",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    help="Seconds to wait for the other parties; 0: without limit.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")


def _choose_format(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    """Choose the format for this process and for those that it starts."""
    if value is not None:
        os.environ[VARIABLE] = value


LOG_FORMAT = click.option(
    "--log-format",
    type=click.Choice(get_args(LogFormat)),
    expose_value=False,
    callback=_choose_format,
    help="How log lines are written to stderr: text by default, or one JSON object each.",
)
WATCH = click.option(
    "--watch",
    is_flag=True,
    help="Serve a live page of the task while it runs; its address is printed. Needs an extra.",
)
FRESH = click.option("--fresh", is_flag=True, help="Do not resume an interrupted run of the task.")

TABLE = all_of(
    click.argument("location", metavar="TABLE"),
    click.option("--table", help="Of a database."),
    click.option("--query", help="Of a database, in place of a table."),
    click.option("--delimiter", help="Between the fields of a text file; found out by default."),
    click.option("--encoding", help="Of a text file; found out by default."),
    click.option(
        "--header/--no-header",
        default=None,
        help="Whether the first line of a text file names its columns (c1, c2, ... where it does"
        " not); found out by default.",
    ),
)
"""A table and how to open it: the arguments of `open_source`, whose address is `location`."""

ROLE = click.option(
    "--role",
    type=click.Choice(["host", "collaborator"]),
    default="host",
    show_default=True,
    help="The Host has the label; one per task.",
)
ID_RECIPE = click.option(
    "--id-recipe",
    help="How ids are written, such as integer, text:lower, phone:CN or 'phone:CN;email' (first by"
    " phone, then by e-mail); at the Host for all.",
)
DUPLICATES = click.option(
    "--duplicates",
    type=click.Choice(["error", "first", "last", "many"]),
    default="error",
    show_default=True,
    help="Where an id stands in several rows: refuse, keep one, or keep all (at the Host).",
)
