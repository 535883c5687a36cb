"""Defines options that several commands have, so that they have the same names and meanings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

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


def refuse(context: click.Context, names: Iterable[str | None], why: str) -> None:
    """Refuse options that were given and do not belong to the role.

    Raises:
        UsageError: there is such an option; the message names it.
    """
    for each in context.command.params:
        if each.name in names and is_given(context, str(each.name)):
            raise click.UsageError(f"{each.opts[0]}: leave it out; {why}")


def is_given(context: click.Context, name: str) -> bool:
    """Return whether an option was given, and does not have its default."""
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def max_peer_ids(meaning: str) -> Option[Any]:
    """Return the option for the limit of ids; each command says what it counts."""
    kind = click.IntRange(min=1, max=MAX_PEER_IDS)
    return click.option(
        "--max-peer-ids", type=kind, default=10_000_000, show_default=True, help=meaning
    )


def key_leaves(meaning: str) -> Option[Any]:
    """Return the option that lets a secret key leave; each command says which key."""
    return click.option("--key-leaves", is_flag=True, help=meaning)


def parties(who: str) -> Option[Any]:
    """Return the option for the number of parties to wait for."""
    return click.option(
        "--parties", type=click.IntRange(min=1), default=1, show_default=True, help=who
    )


class _IdsPlace(click.Path):
    """A path that exists, or the address of a database, which no message may show."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        if isinstance(value, str) and "://" in value:
            return value
        return Path(os.fsdecode(super().convert(value, param, ctx)))


def ids(meaning: str, *, required: bool = True) -> Option[Any]:
    """Return the options that name the source of ids; each command says what it reads there."""
    return all_of(
        click.option("--ids", type=_IdsPlace(exists=True), required=required, help=meaning),
        click.option(
            "--column", help="Take the ids from this column; leave it out for a text file."
        ),
        click.option("--table", help="Read the rows of this table, if --ids is a database."),
        click.option("--query", help="Read the rows of this SQL query, if --ids is a database."),
    )


IDS = ids(
    "Read your ids from this CSV, TSV or Parquet file or folder of Parquet files (with --column),"
    " from a text file with one id per line, or from a database, such as postgresql://host/base or"
    " sqlite:///file.db (with --column and --table or --query)."
)
TASK = click.option(
    "--task", required=True, help="Run the task with this id, which is the same at all."
)
PARTY = click.option(
    "--party",
    help="Take part under this name; the default is yours in the task file, or else your role.",
)
JOINT = click.option(
    "--joint",
    "psi_parties",
    flag_value="joint",
    default="pairwise",
    help="Hide from everybody which ids only some of three or more parties have, by ecdh; only the"
    " party that chooses the protocol sets it.",
)
RESULTS = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("heterofed_runs"),
    show_default=True,
    help="Write the results folder into this folder.",
)
JOIN_TIMEOUT = click.option(
    "--join-timeout",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    help="Wait this many seconds for the other parties; 0 means without limit.",
)
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one line of JSON."
)


def _choose_format(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    """Choose the format for this process and for those that it starts."""
    if value is not None:
        os.environ[VARIABLE] = value


LOG_FORMAT = click.option(
    "--log-format",
    type=click.Choice(get_args(LogFormat)),
    expose_value=False,
    callback=_choose_format,
    help="Write each line of the log on stderr as text (the default) or as a JSON object.",
)
WATCH = click.option(
    "--watch",
    is_flag=True,
    help="Serve a live page of the task while it runs, and print its address. This needs the extra"
    " heterofed[watch].",
)
EXECUTOR = click.option(
    "--executor",
    help="Compute in other processes or on a cluster: processes:8, dask://scheduler:8786 or"
    " ray://head:10001. The default is threads, or the executor of your configuration.",
)
FRESH = click.option("--fresh", is_flag=True, help="Do not resume an interrupted run of the task.")

TABLE = all_of(
    click.argument("location", metavar="TABLE"),
    click.option("--table", help="Read this table, if TABLE is a database."),
    click.option("--query", help="Read the rows of this SQL query, if TABLE is a database."),
    click.option(
        "--delimiter",
        help="Split the lines of a text file at this sign; by default it is found out.",
    ),
    click.option(
        "--encoding", help="Read a text file in this encoding; by default it is found out."
    ),
    click.option(
        "--header/--no-header",
        default=None,
        help="Say whether the first line of a text file names its columns; by default this is found"
        " out. Columns without names are called c1, c2 and so on.",
    ),
)
"""A table and how to open it: the arguments of `open_source`, whose address is `location`."""

ROLE = click.option(
    "--role",
    type=click.Choice(["host", "collaborator"]),
    default="host",
    show_default=True,
    help="Take part in this role; the Host has the label, and there is one per task.",
)
ID_RECIPE = click.option(
    "--id-recipe",
    help="Write ids in one form, such as integer, text:lower, phone:CN, or 'phone:CN;email', which"
    " matches first by phone and then by e-mail. The Host's recipe holds for all parties.",
)
DUPLICATES = click.option(
    "--duplicates",
    type=click.Choice(["error", "first", "last", "many"]),
    default="error",
    show_default=True,
    help="Choose what happens to an id that is in several rows: it is refused, one row is kept, or"
    " all are (at the Host alone).",
)
