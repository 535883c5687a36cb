"""Defines `heterofed table score`, which predicts tables of any length over a standing link."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from heterofed.cli import options
from heterofed.cli.ways import COMMANDS
from heterofed.rendezvous.ways import started_by


@click.command()
@options.TABLE
@options.TASK
@options.PARTY
@options.RESULTS
@options.AS_JSON
@click.option("--id", "ids", multiple=True, help="Column of the ids; that of the training, else.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("scores.csv"),
    show_default=True,
    help="Write the predictions to this file, as Parquet if its name ends in .parquet.",
)
@click.option(
    "--missing-party",
    type=click.Choice(["error", "mean", "zero"]),
    default="error",
    show_default=True,
    help="Say what replaces the features of rows that a party lacks; error leaves them out.",
)
@click.option("--fresh", is_flag=True, help="Begin anew, and forget an interrupted run.")
@options.LOG_FORMAT
def score(as_json: bool, **given: Any) -> None:
    """Predict the rows of TABLE at the Host, while the other parties run `heterofed serve`.

    Rows stream in and predictions stream out, so that a table of any length fits. If the command is
    interrupted or killed, run it again: it goes on where it was, and no row is asked for twice.
    """
    with started_by(COMMANDS):
        outcome = run_score(**given)
    if as_json:
        click.echo(json.dumps(outcome))
        return
    for name, value in outcome.items():
        click.echo(f"{name:<12} {value}")


def run_score(
    *,
    location: str,
    task: str,
    party: str | None,
    results: Path,
    ids: tuple[str, ...],
    out: Path,
    missing_party: str,
    fresh: bool,
    **of_source: Any,
) -> dict[str, Any]:
    """Predict the rows of a table.

    Returns:
        A dict with the keys task, party, rows, missing (rows of the table without a prediction) and
        out.

    Raises:
        ConfigError: an option, the table or the trained model is wrong.
        RequestError: another party refuses further rows; what is done is kept.
    """
    from heterofed.cli.own_party import name_in
    from heterofed.cli.table_tasks import given_in, opened
    from heterofed.rendezvous.address import check_free
    from heterofed.reporting.results import check_writable
    from heterofed.tabular import TabularHost
    from heterofed.tabular.scoring.stream import score as scored

    name = name_in(task, party, "host", is_host=True)
    check_free(task)
    source, out = opened(location, **of_source, streams=True), out.absolute()
    kept = given_in(results.absolute() / task / name)
    check_writable(out.parent)
    host = TabularHost(
        name,
        source,
        label=None,
        **kept.reading(ids),
        results_dir=results,
        join_timeout=0,
    )
    with click.progressbar(length=len(source), label="rows", file=sys.stderr) as bar:
        rows, predicted = scored(
            host,
            task,
            out,
            fresh=fresh,
            missing_party=missing_party,
            progress=lambda done, _all: bar.update(done - bar.pos),
        )
    told = {"task": task, "party": name, "rows": predicted, "missing": rows - predicted}
    return told | {"out": str(out)}
