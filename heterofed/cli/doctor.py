"""`heterofed doctor`: looks at the machines of a task and between them before the first run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from heterofed.cli import options
from heterofed.cli.sentences import translated
from heterofed.protocol.plan import MAX_PEER_IDS

ids_option = click.IntRange(min=1, max=MAX_PEER_IDS)


@click.command()
@click.argument("source", metavar="[TASK|FILE]", required=False)
@click.option("--party", help="Act as this party; the default is the one whose key is here.")
@click.option(
    "--ids",
    type=ids_option,
    default=100_000,
    show_default=True,
    help="Forecast for this many ids of this party.",
)
@click.option(
    "--common",
    type=ids_option,
    help="Forecast for this many common ids, at the Host; the default is all of its ids.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=0, max=10**6),
    help="Forecast for this many rounds, at the Host; the default is that of the task, or 10.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1, max=1 << 20),
    help="Forecast for batches of this many rows, at the Host; the default is that of the task, or"
    " 256.",
)
@click.option(
    "--width",
    type=click.IntRange(min=1, max=1 << 16),
    default=32,
    show_default=True,
    help="Forecast for this many numbers that a Collaborator sends per row, at the Host.",
)
@click.option(
    "--columns",
    type=click.IntRange(min=1, max=1 << 16),
    default=50,
    show_default=True,
    help="Forecast for this many input columns of a Collaborator, at the Host.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="Wait this many seconds for the other parties, which have to run the same command.",
)
@options.RESULTS
@options.AS_JSON
def doctor(
    source: str | None, party: str | None, results: Path, as_json: bool, **given: Any
) -> None:
    """Look at this machine and, with a task, at the others and between them.

    Run it at every party at the same time before the first run. It checks versions, memory, disk,
    open files, keys and terms, measures round trips, bandwidth and clocks, and forecasts how long
    the intersection and the training take and what they send. No id and no row is read.
    """
    from heterofed.cli.diagnosis import Asked, diagnosed

    asked = Asked(**given)
    told: dict[str, Any] = {"lines": [], "probes": []}
    for line, probe in diagnosed(source, party, results, asked):
        if probe is not None:
            told["probes"].append(probe)
        else:
            told["lines"].append(line)
            if not as_json:
                click.echo(translated(line))
    if as_json:
        click.echo(json.dumps(told))
