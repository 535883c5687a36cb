"""Serves models of `heterofed table` at this party, each with a table, and some options."""

from __future__ import annotations

import contextlib
import functools
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from heterofed.cli.own_party import name_in
from heterofed.cli.table_tasks import given_in, opened
from heterofed.messaging.aborts import SIGTERM_EXIT
from heterofed.rendezvous.address import check_free
from heterofed.tabular import TabularCollaborator, TabularHost

OF_SOURCE = ("table", "query", "delimiter", "encoding", "header")

LEAVE_SECONDS = 5.0
"""The longest time in seconds in which links say goodbye when this process ends."""

T = TypeVar("T", TabularHost, TabularCollaborator)


def serve_host(
    *,
    tasks: Mapping[str, str],
    party: str | None,
    results: Path,
    ids: Sequence[str],
    max_age: float,
    address: str,
    port: int,
    token_file: Path | None,
    deadline: float,
    missing_party: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    **given: Any,
) -> None:
    """Serve at the Host.

    Raises:
        ConfigError: an option, a table or a trained model is wrong.
    """
    from heterofed.serving.extra import check_installed
    from heterofed.serving.server import ServedTask, Server, token_of
    from heterofed.serving.tls import Tls

    check_installed()
    check_free(*tasks)
    tls = Tls(tls_cert, tls_key, client_ca) if tls_cert and tls_key else None
    has_token = client_ca is None or token_file is not None
    served = []
    tokens: dict[str, Path] = {}
    for task, location in tasks.items():
        name = name_in(task, party, "host", is_host=True)
        make = _maker(TabularHost, location, task, name, results, ids, given, label=None)
        folder = results.absolute() / task / name / "serving"
        scheduler, tokens[task] = make(), token_file or folder / "token"
        settings = {"models": "best", "missing_party": missing_party, "max_age": max_age}
        served.append(
            ServedTask(
                scheduler=scheduler,
                task_id=task,
                token=token_of(folder, token_file) if has_token else "",
                settings={**settings, "fresh": make},
            )
        )
    server = Server(served, address=address, port=port, deadline=deadline, tls=tls)
    for task, token in tokens.items():
        needed = f"token: {token}" if has_token else f"callers' certificates: {client_ca}"
        click.echo(f"serve: {server.url(task)} ({needed})")
    server.run()


def serve_collaborator(
    *,
    tasks: Mapping[str, str],
    limits: Mapping[str, tuple[int, int | None]],
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
        ConfigError: an option, a table or a trained model is wrong.
    """
    links = []
    for task, location in tasks.items():
        name = name_in(task, party, "collaborator", is_host=False)
        make = _maker(TabularCollaborator, location, task, name, results, ids, given)
        day, minute = limits.get(task, (max_rows_per_day, max_rows_per_minute))
        links.append(
            functools.partial(
                make().serve_rows,
                task,
                max_rows_per_day=day,
                max_rows_per_minute=minute,
                max_age=max_age,
                fresh=make,
            )
        )
    with contextlib.suppress(KeyboardInterrupt):
        links[0]() if len(links) == 1 else side_by_side(links)


def side_by_side(links: Sequence[Callable[..., object]]) -> None:
    """Run the links of several tasks, each in a thread, until one fails or a signal comes.

    Raises:
        SystemExit: SIGTERM has come.
        Exception: a link has ended by this error.
    """
    leave, ends = threading.Event(), queue.SimpleQueue[BaseException | None]()

    def run(link: Callable[..., object]) -> None:
        try:
            link(leave=leave)
            ends.put(None)
        except BaseException as error:
            ends.put(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in links]
    before = signal.signal(signal.SIGTERM, lambda *_: ends.put(SystemExit(SIGTERM_EXIT)))
    try:
        for each in threads:
            each.start()
        if (error := ends.get()) is not None:
            raise error
    finally:
        leave.set()
        last = time.monotonic() + LEAVE_SECONDS
        for each in threads:
            each.join(max(0.0, last - time.monotonic()))
        signal.signal(signal.SIGTERM, before)


def _maker(
    kind: type[T],
    location: str,
    task: str,
    name: str,
    results: Path,
    ids: Sequence[str],
    given: dict[str, Any],
    **more: Any,
) -> Callable[[], T]:
    """Return what makes schedulers of one task, which share their table."""
    source = opened(location, **{each: given[each] for each in OF_SOURCE}, streams=True)
    kept = given_in(results.absolute() / task / name)
    return functools.partial(
        kind,
        name,
        source,
        **kept.reading(ids),
        results_dir=results,
        join_timeout=0,
        **more,
    )
