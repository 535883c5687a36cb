"""`heterofed watch`: a page of runs in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from heterofed.cli import options
from heterofed.cli.said import say


@click.command()
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
@options.RESULTS
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Listen at this port; 0 means any free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Listen at this address. With any other than the default, whoever knows the page's"
    " address can open it from elsewhere.",
)
@click.option("--until-stdin-ends", is_flag=True, hidden=True)
def watch(
    tasks: tuple[str, ...], results: Path, port: int, host: str, until_stdin_ends: bool
) -> None:
    """Show runs in a browser, while they go on and after them.

    The command prints the address of a page that shows each TASK, by default all tasks of
    ./heterofed_runs. The address ends in a token, and whoever has it can look. Ctrl-C ends it.
    """
    from heterofed.watch.serve import serve

    if not until_stdin_ends:  # otherwise a run has started this, and begins soon
        _tell_absent(results.absolute(), tasks)
    serve(
        results.absolute(),
        tasks,
        host=host,
        port=port,
        say=lambda address: click.echo(f"watch: {address}"),
        until_stdin_ends=until_stdin_ends,
    )


def _tell_absent(results: Path, tasks: tuple[str, ...]) -> None:
    """Say which tasks have no run yet: a name may be mistyped, or its run may still begin."""
    for task in tasks:
        if not (results / task).is_dir():
            say(f"no run of {task!r} in {results} yet; the page shows it when it begins")
