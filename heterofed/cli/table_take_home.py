"""Defines `heterofed table take-home`, which makes a model of the Host's columns alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from heterofed.cli import options
from heterofed.cli.ways import COMMANDS
from heterofed.rendezvous.ways import started_by


@click.command("take-home")
@options.TABLE
@options.TASK
@options.PARTY
@options.RESULTS
@options.JOIN_TIMEOUT
@options.AS_JSON
@click.option("--seed", type=int, help="Give the model the same weights when it is made again.")
@options.LOG_FORMAT
def take_home(as_json: bool, **given: Any) -> None:
    """Make a model that needs the Host's columns only, from the joint predictions of TABLE's rows.

    Run this at the Host while the other parties run `heterofed table predict`. The terms of the
    task must allow it (`take_home = true` in the plan), because such a model keeps what the columns
    of the others taught it. What it loses against the joint model is shown, and is in the report.
    """
    with started_by(COMMANDS):
        outcome = run_take_home(**given)
    if as_json:
        click.echo(json.dumps(outcome))
        return
    click.echo(outcome.pop("said"))
    click.echo(f"folder       {outcome['folder']}")


def run_take_home(
    *,
    location: str,
    task: str,
    party: str | None,
    results: Path,
    join_timeout: float,
    seed: int | None,
    **of_source: Any,
) -> dict[str, Any]:
    """Make the model.

    Returns:
        A dict with the keys task, party, folder and said, and the fields of
        `heterofed.tabular.take_home.Compared`.

    Raises:
        ConfigError: the terms do not allow it, or the table or the trained model is wrong.
        TaskFailed: the joint prediction failed.
    """
    import msgspec

    from heterofed.cli.own_party import name_in
    from heterofed.cli.table_tasks import LABELLED, given_in, opened
    from heterofed.errors import ConfigError
    from heterofed.rendezvous.address import check_free
    from heterofed.report.render import write_report
    from heterofed.reporting.diagnostics import Harmless
    from heterofed.tabular import TabularHost
    from heterofed.tabular.take_home.model import FOLDER

    name = name_in(task, party, "host", is_host=True)
    folder = results.absolute() / task / name
    kept = given_in(folder)
    if not kept.label:
        raise ConfigError(
            f"{folder} does not say which column is the label: it is of a Collaborator or of an"
            " earlier version; run this at the Host, or train again"
        )
    check_free(task, turns="predict")
    host = TabularHost(
        name,
        opened(location, **of_source),
        label=kept.label,
        **kept.reading(),
        results_dir=results,
        join_timeout=join_timeout,
        **{each: getattr(kept, each) for each in LABELLED},
    )
    compared = host.take_home(task, seed=seed).compared
    with Harmless()("the report"):
        write_report(folder)
    told = {"task": task, "party": name, "folder": str(folder / FOLDER), "said": str(compared)}
    return {**told, **msgspec.to_builtins(compared)}


def predict_alone(
    *,
    location: str,
    task: str,
    party: str | None,
    results: Path,
    ids: tuple[str, ...],
    out: Path,
    role: str = "host",
    **given: Any,
) -> dict[str, Any]:
    """Predict all rows of a table by the take-home model of a task.

    Returns:
        A dict with the keys task, party, rows and out.

    Raises:
        ConfigError: there is no such model, or the table cannot be used.
    """
    from heterofed.cli.own_party import name_in
    from heterofed.cli.table_tasks import OF_SOURCE, given_in, opened, write_predictions
    from heterofed.reporting.results import check_writable
    from heterofed.tabular import TakeHome

    name = name_in(task, party, role, is_host=True)
    folder, out = results.absolute() / task / name, out.absolute()
    kept = given_in(folder)
    model = TakeHome.load(folder)
    check_writable(out.parent)
    source = opened(location, **{each: given[each] for each in OF_SOURCE})
    frame = model.predict(source, **kept.reading(ids))
    write_predictions(frame, out)
    return {"task": task, "party": name, "rows": len(frame), "out": str(out)}
