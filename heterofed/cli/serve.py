"""Defines `heterofed serve`, which answers requests for single rows, day after day."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from heterofed.cli import options

NOT_OF = {
    "host": ("max_rows_per_day", "max_rows_per_minute", "limits"),
    "collaborator": (
        *("address", "port", "token_file", "deadline", "missing_party"),
        *("tls_cert", "tls_key", "client_ca"),
    ),
}
"""The options that do not belong to a role."""

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("task")
@options.TABLE
@options.ROLE
@options.PARTY
@options.RESULTS
@click.option("--id", "ids", multiple=True, help="Name the column of the ids, if not as trained.")
@click.option(
    "--max-age",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    help="Keep the features of a row for so many seconds; 0 computes them for each request.",
)
@click.option(
    "--max-rows-per-day",
    type=click.IntRange(min=0),
    default=1_000_000,
    show_default=True,
    help="At a Collaborator, compute at most so many rows in a day (UTC).",
)
@click.option(
    "--max-rows-per-minute",
    type=click.IntRange(min=0),
    help="At a Collaborator, compute at most so many rows in a minute.",
)
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="At the Host, listen at this address.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="At the Host, listen at this port; 0 takes any free one.",
)
@click.option(
    "--token-file",
    type=FILE,
    help="At the Host, read the callers' bearer token from this file; otherwise one is made.",
)
@click.option(
    "--tls-cert",
    type=FILE,
    help="At the Host, encrypt connections (HTTPS) with this certificate, as PEM.",
)
@click.option("--tls-key", type=FILE, help="At the Host, the private key of --tls-cert, as PEM.")
@click.option(
    "--client-ca",
    type=FILE,
    help="At the Host, let in only callers with a certificate of one of the authorities in this"
    " file (mutual TLS). They need a token too only if there is a --token-file.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="At the Host, answer each request within so many seconds, if only by an error.",
)
@click.option(
    "--missing-party",
    type=click.Choice(["error", "mean", "zero"]),
    default="error",
    show_default=True,
    help="At the Host, say what replaces the features of rows that a party lacks.",
)
@click.option(
    "--also",
    multiple=True,
    metavar="TASK=TABLE",
    callback=lambda _context, _option, given: pairs(given),
    help="Serve another task in this process too, with a table of its own; the option may be"
    " repeated. All other options hold for each task.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="TASK=DAY[/MINUTE]",
    callback=lambda _context, _option, given: limits_of(given),
    help="At a Collaborator, compute at most so many rows of this task in a day and in a minute;"
    " the option may be repeated.",
)
@options.LOG_FORMAT
@click.pass_context
def serve(
    context: click.Context, /, task: str, role: Literal["host", "collaborator"], **given: Any
) -> None:
    """Serve the model of TASK row by row: run this at every party, each with its own TABLE.

    The Host answers HTTP requests for ids, and a Collaborator computes its part of the rows. The
    links come back by themselves after cuts and restarts. It ends with SIGTERM or Ctrl-C. A new
    version of the model takes over by `heterofed models use`, without a restart.
    """
    from heterofed.cli.serve_tasks import serve_collaborator, serve_host

    options.refuse(context, NOT_OF[role], f"it is not for a {role}")
    cert, key, client_ca = (given[each] for each in ("tls_cert", "tls_key", "client_ca"))
    if bool(cert) != bool(key) or (client_ca and not cert):
        raise click.UsageError("--tls-cert and --tls-key belong together; --client-ca needs both")
    tasks = {task: given.pop("location")}
    for name, location in given.pop("also").items():
        if name in tasks:
            raise click.UsageError(f"--also {name}: give each task once")
        tasks[name] = location
    limits = given.pop("limits")
    if unknown := sorted(limits.keys() - tasks.keys()):
        raise click.UsageError(f"--limit {unknown[0]}: this task is not served here")
    if role == "host":
        serve_host(tasks=tasks, **given)
    else:
        serve_collaborator(tasks=tasks, limits=limits, **given)


def pairs(given: Sequence[str]) -> dict[str, str]:
    """Return the tables of further tasks.

    Raises:
        BadParameter: a value is not `TASK=TABLE`, or a task is given twice.
    """
    found: dict[str, str] = {}
    for each in given:
        task, equals, location = each.partition("=")
        if not (task and equals and location) or task in found:
            raise click.BadParameter(f"{each!r}: give TASK=TABLE, each task once")
        found[task] = location
    return found


def limits_of(given: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """Return the most rows of some tasks per day and per minute.

    Raises:
        BadParameter: a value is not `TASK=DAY` or `TASK=DAY/MINUTE`, or a task is given twice.
    """
    found: dict[str, tuple[int, int | None]] = {}
    for each in given:
        match = re.fullmatch(r"(.+)=([0-9]{1,18})(?:/([0-9]{1,18}))?", each)
        if match is None or match[1] in found:
            raise click.BadParameter(f"{each!r}: give TASK=DAY or TASK=DAY/MINUTE, each task once")
        found[match[1]] = int(match[2]), None if match[3] is None else int(match[3])
    return found
