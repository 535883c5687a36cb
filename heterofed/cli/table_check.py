"""Implements `heterofed table check`, which says how each column would be treated.

It only reads the table: there is no task, no party and no network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from heterofed.cli import options
from heterofed.cli.sentences import translated
from heterofed.errors import HeteroFedError
from heterofed.reporting.wrapping import in_rows, wrapped

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
    from heterofed.tabular.inspect import inspect, missing_cells
    from heterofed.tabular.sources import open_source

    ids, labels, recipe, duplicates = (
        given.pop(name) for name in ("ids", "labels", "id_recipe", "duplicates")
    )
    source = open_source(location, **given)
    report = inspect(source, ids=ids, label=labels)
    notes, problems = list(report.notes), list(report.problems)
    missing, better = missing_cells(source, ids=ids), None
    notes += _of_missing(missing)
    in_doubt = False
    if ids:
        try:
            said, in_doubt, better = _of_ids(source, ids, recipe, duplicates)
            notes += said
        except HeteroFedError as error:
            problems.insert(0, str(error))
    else:
        notes.append(_likely_ids(report))
    found = {
        "table": report.name,
        "rows": report.rows,
        "sampled": report.sampled,
        "columns": [_row(each, ids, labels) for each in report.columns],
        "ids": list(ids),
        "missing": missing,
        "ids_in_doubt": in_doubt,
        "id_recipe": better,
        "notes": notes,
        "problems": problems,
    }
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)
    if problems:
        context.exit(2)


def _of_ids(
    source: Any, ids: Sequence[str], recipe: str | None, duplicates: Any
) -> tuple[list[str], bool, str | None]:
    """Return notes on the ids by each key, whether they may miss those of others, and a recipe
    that would help.
    """
    from heterofed.tabular.ids import IdRecipe, joining_note, read_ids

    parsed = IdRecipe.parse(recipe) if recipe else IdRecipe.of_columns(len(ids))
    said = [joining_note(len(ids))] if not recipe and len(ids) > 1 else []
    in_doubt, parts = False, []
    for key, columns in enumerate(parsed.by_key(ids)):
        found = read_ids(source, ids, parsed, duplicates=duplicates, key=key)
        dropped = f", {found.dropped} rows repeat one and are left out" if found.dropped else ""
        said += [f"ids of {' and '.join(columns)}: {len(found)}{dropped}", *found.notes]
        in_doubt |= found.in_doubt
        parts.append(found.better)
    better = parsed.improved(parts)
    return said, in_doubt, None if better is None else str(better)


def _of_missing(missing: dict[str, int]) -> Iterator[str]:
    """Yield how many cells have no value, and what stands in them."""
    if missing:
        shown = [
            f"{text!r}: {count}" if text else f"empty: {count}"
            for text, count in list(missing.items())[:_MOST_SPELLINGS]
        ]
        more = len(missing) - len(shown)
        others = f", and {more} more spellings" if more else ""
        yield f"cells that count as missing: {sum(missing.values())} ({', '.join(shown)}{others})"


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
    def said(text: str) -> None:
        click.echo(wrapped(translated(text), sys.stdout))

    sampled = f" ({found['sampled']} looked at)" if found["sampled"] < found["rows"] else ""
    width = len(found["columns"])
    said(f"{found['table']}: {found['rows']} rows{sampled}, {width} columns")
    rows = [("column", "holds", "missing", "values", "becomes", "to know")]
    for each in found["columns"][:_MOST_SHOWN]:
        counts = f"{each['missing']}", f"{each['distinct']}"
        notes = translated("; ").join(map(translated, each["notes"]))
        rows.append((each["name"], each["kind"], *counts, each["use"], notes))
    head, *cells = [(name, *map(translated, others)) for name, *others in rows]
    shown = [(translated(head[0]), *head[1:]), *cells]
    click.echo("\n".join(in_rows(shown, sys.stdout, right=(2, 3))))
    if width > _MOST_SHOWN:
        said(f"... and {width - _MOST_SHOWN} more columns (--json shows all)")
    for note in found["notes"]:
        said(f"note: {note}")
    for problem in found["problems"]:
        said(f"error: {problem}")
    if not found["problems"]:
        said(_verdict(found["ids_in_doubt"], found["id_recipe"]) if found["ids"] else _NO_IDS)


def _verdict(in_doubt: bool, better: str | None) -> str:
    """Return what stands in the way of training, as the last line."""
    if better is not None:
        return (
            "the ids may stand in the way: an id that another party writes in another form is lost"
            f" without an error. Try --id-recipe {better}: here, and then at the Host, whose recipe"
            " holds for all; `heterofed table overlap` counts what is common before you train"
        )
    if in_doubt:
        return (
            "the ids may stand in the way: see the notes on them; `heterofed table overlap` counts"
            " what is common before you train"
        )
    return "nothing is in the way of training on this table"


_NO_IDS = "the columns can be trained on; name the ids with --id, so that they are looked at, too"
_MOST_SHOWN = 200
_MOST_SPELLINGS = 8
