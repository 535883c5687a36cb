"""Serves a model of `heterofed table` at this party, with a table and some options."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from heterofed.cli.table_tasks import given_in, opened
from heterofed.tabular import TabularCollaborator, TabularHost

OF_SOURCE = ("table", "query", "delimiter", "encoding", "header")


def serve_host(
    *,
    task: str,
    location: str,
    party: str | None,
    results: Path,
    ids: Sequence[str],
    max_age: float,
    address: str,
    port: int,
    token_file: Path | None,
    deadline: float,
    missing_party: str,
    **given: Any,
) -> None:
    """Serve at the Host.

    Raises:
        ConfigError: an option, the table or the trained model is wrong.
    """
    from heterofed.serving.extra import check_installed
    from heterofed.serving.server import serve, token_of

    check_installed()
    name = party or "host"
    common = _common(location, task, name, results, ids, given)
    folder = results.absolute() / task / name / "serving"
    serve(
        TabularHost(name, label=None, **common),
        task,
        token=token_of(folder, token_file),
        address=address,
        port=port,
        deadline=deadline,
        say=lambda url: click.echo(f"serve: {url} (token: {token_file or folder / 'token'})"),
        models="best",
        missing_party=missing_party,
        max_age=max_age,
    )


def serve_collaborator(
    *,
    task: str,
    location: str,
    party: str | None,
    results: Path,
    ids: Sequence[str],
    max_age: float,
    max_rows_per_day: int,
    max_rows_per_minute: int | None,
    **given: Any,
) -> None:
    """Serve at a Collaborator.

    Raises:
        ConfigError: an option, the table or the trained model is wrong.
    """
    name = party or "collaborator"
    scheduler = TabularCollaborator(name, **_common(location, task, name, results, ids, given))
    with contextlib.suppress(KeyboardInterrupt):
        scheduler.serve_rows(
            task,
            max_rows_per_day=max_rows_per_day,
            max_rows_per_minute=max_rows_per_minute,
            max_age=max_age,
        )


def _common(
    location: str, task: str, name: str, results: Path, ids: Sequence[str], given: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of both roles' schedulers."""
    source = opened(location, **{each: given[each] for each in OF_SOURCE})
    kept = given_in(results.absolute() / task / name)
    return {
        "table": source,
        "ids": list(ids) or kept.ids,
        "id_recipe": kept.id_recipe,
        "duplicates": kept.duplicates,
        "results_dir": results,
        "join_timeout": 0,
    }
