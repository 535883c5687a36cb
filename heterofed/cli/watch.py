"""`heterofed watch`: a page of runs in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from heterofed.cli import options


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

    serve(
        results.absolute(),
        tasks,
        host=host,
        port=port,
        say=lambda address: click.echo(f"watch: {address}"),
        until_stdin_ends=until_stdin_ends,
    )
