"""`heterofed table overlap`: how many ids two tables share; nobody learns which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from heterofed.protocol.plan import MAX_PEER_IDS


@click.command()
@click.argument("location", metavar="TABLE")
@click.option("--task", required=True, help="Task id, the same at every party.")
@click.option("--id", "ids", multiple=True, required=True, help="Column of the ids; or several.")
@click.option("--id-recipe", "recipe", help="How ids are written; the same at every party.")
@click.option(
    "--role",
    type=click.Choice(["host", "collaborator"]),
    default="host",
    show_default=True,
    help="The Host counts with each other party; one per task.",
)
@click.option("--party", help="Your key in the task; the role by default.")
@click.option(
    "--parties",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="At the Host: parties to wait for, where there is no task file.",
)
@click.option(
    "--max-peer-ids",
    type=click.IntRange(min=1, max=MAX_PEER_IDS),
    default=10_000_000,
    show_default=True,
    help="Ids that the Host may have counted or intersected in all runs of the task together.",
)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("heterofed_runs"),
    show_default=True,
    help="Parent of the results folder.",
)
@click.option(
    "--join-timeout",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    help="Seconds to wait for the others; 0: for ever.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON on stdout.")
def overlap(as_json: bool, **options: Any) -> None:
    """Count how many ids of TABLE the other parties have too: run this at every party.

    Every party learns the number and nothing else; before any contract, and without a label.
    """
    found = count_overlap(**options)
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
    recipe: str | None,
    role: str,
    party: str | None,
    parties: int,
    max_peer_ids: int,
    results: Path,
    join_timeout: float,
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

    by = IdRecipe.parse(recipe) if recipe else IdRecipe.of_columns(len(ids))
    # Rows that repeat an id count once: only whom both know is asked.
    own = read_ids(open_source(location), ids, by, duplicates="first")
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
