"""Defines `heterofed serve`, which answers requests for single rows, day after day."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from heterofed.cli import options

NOT_OF = {
    "host": ("max_rows_per_day", "max_rows_per_minute"),
    "collaborator": ("address", "port", "token_file", "deadline", "missing_party"),
}
"""The options that do not belong to a role."""


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
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="At the Host, read the callers' bearer token from this file; otherwise one is made.",
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
@options.LOG_FORMAT
@click.pass_context
def serve(
    context: click.Context, /, task: str, role: Literal["host", "collaborator"], **given: Any
) -> None:
    """Serve the model of TASK row by row: run this at every party, each with its own TABLE.

    The Host answers HTTP requests for ids, and a Collaborator computes its part of the rows. The
    links come back by themselves after cuts and restarts. It ends with SIGTERM or Ctrl-C.
    """
    from heterofed.cli.serve_tasks import serve_collaborator, serve_host

    options.refuse(context, NOT_OF[role], f"it is not for a {role}")
    (serve_host if role == "host" else serve_collaborator)(task=task, **given)
