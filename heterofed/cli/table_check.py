"""Implements `heterofed table check`, which says how each column would be treated.

It only reads the table: there is no task, no party and no network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from heterofed.cli import options
from heterofed.errors import HeteroFedError

USES = {
    "numeric": "number, scaled",
    "boolean": "yes or no",
    "category": "categories",
    "date": "parts of the date",
    "text": "words, hashed",
    "tags": "tags and values",
    "constant": "left out",
    "id": "left out",
}
"""The treatment of a column of each kind."""


@click.command()
@options.TABLE
@click.option("--id", "ids", multiple=True, help="Column of the ids, or several.")
@click.option("--label", "labels", multiple=True, help="At the Host: column of the label.")
@options.ID_RECIPE
@options.DUPLICATES
@options.AS_JSON
@click.pass_context
def check(context: click.Context, /, location: str, as_json: bool, **given: Any) -> None:
    """Say what each column of a TABLE (a file, or a database's address) is, and would become."""
    from heterofed.tabular.inspect import inspect
    from heterofed.tabular.sources import open_source

    ids, labels, recipe, duplicates = (
        given.pop(name) for name in ("ids", "labels", "id_recipe", "duplicates")
    )
    source = open_source(location, **given)
    report = inspect(source, ids=ids, label=labels)
    notes, problems = list(report.notes), list(report.problems)
    if ids:
        try:
            notes += _of_ids(source, ids, recipe, duplicates)
        except HeteroFedError as error:
            problems.insert(0, str(error))
    else:
        notes.append(_likely_ids(report))
    found = {
        "table": report.name,
        "rows": report.rows,
        "sampled": report.sampled,
        "columns": [_row(each, ids, labels) for each in report.columns],
        "notes": notes,
        "problems": problems,
    }
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)
    if problems:
        context.exit(2)


def _of_ids(source: Any, ids: Sequence[str], recipe: str | None, duplicates: Any) -> list[str]:
    from heterofed.tabular.ids import IdRecipe, joining_note, read_ids

    parsed = IdRecipe.parse(recipe) if recipe else IdRecipe.of_columns(len(ids))
    said = [joining_note(len(ids))] if not recipe and len(ids) > 1 else []
    for key, columns in enumerate(parsed.by_key(ids)):
        found = read_ids(source, ids, parsed, duplicates=duplicates, key=key)
        dropped = f", {found.dropped} rows repeat one and are left out" if found.dropped else ""
        said.append(f"ids of {' and '.join(columns)}: {len(found)}{dropped}")
        said += found.notes
    return said


def _likely_ids(report: Any) -> str:
    likely = [each.name for each in report.columns if each.kind == "id"]
    shown = ", ".join(map(repr, likely)) or "no column looks like it"
    return f"name the column of the ids with --id ({shown})"


def _row(column: Any, ids: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    use = USES[column.kind]
    if column.name in ids:
        use = "id"
    elif column.name in labels:
        use = "label"
    return {
        "name": column.name,
        "kind": column.kind,
        "use": use,
        "type": column.type,
        "format": column.format,
        "missing": column.missing,
        "distinct": column.distinct,
        "notes": list(column.notes),
    }


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    sampled = f" ({found['sampled']} looked at)" if found["sampled"] < found["rows"] else ""
    width = len(found["columns"])
    console.print(f"{escape(found['table'])}: {found['rows']} rows{sampled}, {width} columns")
    shown = Table(box=None, pad_edge=False)
    for name, justify in (("column", "left"), ("holds", "left"), ("missing", "right")):
        shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    shown.add_column("values", justify="right")
    shown.add_column("becomes")
    shown.add_column("to know", overflow="fold")
    for each in found["columns"][:_MOST_SHOWN]:
        cells = (each["name"], each["kind"], f"{each['missing']}", f"{each['distinct']}")
        shown.add_row(*map(escape, (*cells, each["use"], "; ".join(each["notes"]))))
    console.print(shown)
    if width > _MOST_SHOWN:
        console.print(f"... and {width - _MOST_SHOWN} more columns (--json shows all)")
    for note in found["notes"]:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    for problem in found["problems"]:
        console.print(f"error: {escape(problem)}", soft_wrap=True)
    if not found["problems"]:
        console.print("nothing is in the way of training on this table")


_MOST_SHOWN = 200
