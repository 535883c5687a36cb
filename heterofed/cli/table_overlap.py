"""`heterofed table overlap`: how many ids two tables share; nobody learns which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from heterofed.cli import options


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
@options.AS_JSON
def overlap(as_json: bool, **given: Any) -> None:
    """Count how many ids of TABLE the other parties have too: run this at every party.

    Every party learns the number and nothing else; before any contract, and without a label.
    """
    found = count_overlap(**given)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, size in found["common"].items():
        click.echo(f"{size} of {found['ids']} ids are common with {name}")
    for line in found["notes"]:
        click.echo(f"note: {line}")


def count_overlap(
    *,
    location: str,
    task: str,
    ids: tuple[str, ...],
    id_recipe: str | None,
    role: str,
    party: str | None,
    parties: int,
    max_peer_ids: int,
    results: Path,
    join_timeout: float,
    **of_source: Any,
) -> dict[str, Any]:
    """Run one party of a count.

    Returns:
        ids (how many this party has), common (by the other party's key), and notes for people.

    Raises:
        ConfigError, ColumnError, IdError: the table cannot be used; nothing was sent.
        TaskFailed: the task could not go on.
    """
    from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
    from heterofed.tabular.ids import IdRecipe, overlap_advice, read_ids
    from heterofed.tabular.sources import open_source

    by = IdRecipe.parse(id_recipe) if id_recipe else IdRecipe.of_columns(len(ids))
    # Rows that repeat an id count once: only whom both know is asked.
    own = read_ids(open_source(location, **of_source), ids, by, duplicates="first")
    given: dict[str, Any] = {
        "ids": own.ids,
        "max_peer_ids": max_peer_ids,
        "results_dir": results,
        "join_timeout": join_timeout,
    }
    scheduler = (
        RSAPSIInitiatorScheduler(party or role, collaborators=parties, **given)
        if role == "host"
        else RSAPSICollaboratorScheduler(party or role, **given)
    )
    common = scheduler.count_common(task)
    advice = (overlap_advice(size, len(own), len(own), by) for size in common.values())
    return {"ids": len(own), "common": common, "notes": [*own.notes, *filter(None, advice)]}
