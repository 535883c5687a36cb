"""Implements `heterofed table overlap`, which counts common ids and tells no party which they
are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from heterofed.cli import options
from heterofed.cli.sentences import translated
from heterofed.cli.ways import COMMANDS
from heterofed.rendezvous.ways import started_by


@click.command()
@options.TABLE
@options.TASK
@click.option("--id", "ids", multiple=True, required=True, help="Column of the ids; or several.")
@options.ID_RECIPE
@options.ROLE
@options.PARTY
@options.parties("At the Host: parties to wait for, where there is no task file.")
@options.max_peer_ids(
    "Ids that the Host may have counted or intersected in all runs of the task together."
)
@options.RESULTS
@options.JOIN_TIMEOUT
@options.LOG_FORMAT
@options.AS_JSON
def overlap(as_json: bool, **given: Any) -> None:
    """Count how many ids of TABLE the other parties have too: run this at every party.

    Every party learns the number and nothing else; before any contract, and without a label.
    """
    with started_by(COMMANDS):
        show_overlap(count_overlap(**given), as_json=as_json)


def show_overlap(found: dict[str, Any], *, as_json: bool) -> None:
    """Show the result of a count; doubts about ids were shown before it began."""
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, size in found["common"].items():
        click.echo(translated(f"{size} of {found['ids']} ids are common with {name}"))
    for line in found["advice"]:
        click.echo(translated(f"note: {line}"))


def count_overlap(
    *,
    location: str,
    task: str,
    ids: tuple[str, ...],
    id_recipe: str | None,
    role: str,
    party: str | None,
    parties: int,
    results: Path,
    join_timeout: float,
    max_peer_ids: int = 10_000_000,
    **of_source: Any,
) -> dict[str, Any]:
    """Run one party of a count.

    Returns:
        A dict with the keys ids (how many this party has), common (by the other party's key), notes
        (on the ids), and advice if ids of the smaller set are not common.

    Raises:
        ConfigError, ColumnError, IdError: the table cannot be used; nothing was sent.
        TaskFailed: the task failed.
    """
    from heterofed.cli.own_party import name_in
    from heterofed.rendezvous.address import check_free
    from heterofed.tabular import overlap
    from heterofed.tabular.ids import IdRecipe
    from heterofed.tabular.sources import open_source

    name = name_in(task, party, role, is_host=role == "host")
    if role == "host":
        check_free(task)
    source = open_source(location, **of_source)
    own = overlap.OwnTable(source, list(ids), IdRecipe.parse(id_recipe) if id_recipe else None)
    given: dict[str, Any] = {
        "max_peer_ids": max_peer_ids,
        "results_dir": results,
        "join_timeout": join_timeout,
    }
    scheduler = (
        overlap.OverlapHost(name, own, collaborators=parties, **given)
        if role == "host"
        else overlap.OverlapCollaborator(name, own, **given)
    )
    return overlap.count_overlap(task, scheduler, own)
