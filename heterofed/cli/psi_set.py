"""Defines the commands `heterofed psi-set`, by which the owner of a large set keeps it for
requests.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heterofed.cli import options
from heterofed.cli.said import say_error
from heterofed.cli.ways import PSI_COMMAND
from heterofed.errors import ConfigError, JoinTimeoutError, TaskFailed
from heterofed.messaging.aborts import cause
from heterofed.protocol.plan import MAX_PEER_IDS
from heterofed.rendezvous.ways import started_by

if TYPE_CHECKING:
    import psi
    from heterofed.cli.own_matches import OwnMatches

PAUSE_SECONDS = 1.0
"""The time after a request that failed, so that a peer cannot make the owner fail all the time."""

FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


@click.group("psi-set")
def psi_set() -> None:
    """Keep a large set of ids, computed once, for requests by parties with few ids."""


@psi_set.command()
@FOLDER
@click.option(
    "--name",
    required=True,
    help="Bind the set to this name, which is the same at all who ask (--stored).",
)
@options.IDS
@options.EXECUTOR
@options.key_leaves("Let the secret key of the set be sent to an executor on other machines.")
@click.option(
    "--fresh", is_flag=True, help="Do not go on with an interrupted creation, but start anew."
)
@options.AS_JSON
def create(
    folder: Path,
    name: str,
    ids: Path | str,
    column: str | None,
    table: str | None,
    query: str | None,
    executor: str | None,
    key_leaves: bool,
    fresh: bool,
    as_json: bool,
) -> None:
    """Compute the set of all ids in FOLDER, or replace the one that is there.

    It gets a new key, so those who ask fetch its filter again. Whoever was allowed to ask still is.
    If the command is interrupted, the next one with the same ids goes on where it was.
    """
    import psi
    from heterofed.cli.own_ids import opened_ids, read_ids
    from heterofed.intersection.stored import set_domain
    from heterofed.runs.psi_executor import chosen_executor

    choice = chosen_executor(executor, key_leaves)
    choice.check(has_key=True)
    with opened_ids(ids, column, table=table, query=query) as source:
        own = read_ids(source)
    with _usable(), _bar(len(own)) as progress:
        stored = psi.StoredSet.create(
            folder,
            own,
            domain=set_domain(name),
            executor=choice.executor,
            key_leaves=choice.key_leaves,
            progress=progress,
            fresh=fresh,
        )
    _show(_described(stored), as_json=as_json)


@psi_set.command()
@FOLDER
@click.argument("party")
@click.argument("max_ids", type=click.IntRange(min=0, max=MAX_PEER_IDS))
def allow(folder: Path, party: str, max_ids: int) -> None:
    """Let PARTY ask for MAX_IDS in the set in FOLDER, over all its requests; 0 forbids it.

    Ids for which it has asked already count, also those of an interrupted request.
    """
    with _usable():
        _open(folder).allow(party, max_ids)


@psi_set.command()
@FOLDER
@options.AS_JSON
def show(folder: Path, as_json: bool) -> None:
    """Show the set in FOLDER, who may ask, and for how many ids they have asked."""
    with _usable():
        _show(_described(_open(folder)), as_json=as_json)


@psi_set.command()
@FOLDER
@options.TASK
@options.PARTY
@click.option(
    "--requests",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Answer this many requests, one after the other; 0 means without limit.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write your rows whose ids the other party has, too, to this file: the rows of --ids, or"
    " without it only their numbers, from 0, in the order in which the set was created. With"
    " --requests each request gets a file of its own, with the other party and the time (UTC) in"
    " its name.",
)
@options.ids(
    "Write rows of this source, with which the set was created, to --out: in its format, or to a"
    " new folder if it is one. It must have the ids of the set in their order.",
    required=False,
)
@options.JOIN_TIMEOUT
@options.LOG_FORMAT
@options.AS_JSON
def serve(
    folder: Path,
    requests: int,
    out: Path | None,
    ids: Path | str | None,
    column: str | None,
    table: str | None,
    query: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Answer requests to the set in FOLDER, which `heterofed psi --stored` makes.

    A request that fails is reported, and the next one is answered. The command ends with the last
    request, or if nobody asks for as long as --join-timeout says.
    """
    from heterofed.cli.own_matches import own_matches

    if ids is None and (column, table, query) != (None, None, None):
        raise click.UsageError("--column, --table, --query: name the source of the rows by --ids")
    if ids is not None and out is None:
        raise click.UsageError("--ids: say by --out where its matching rows go")
    with ExitStack() as opened:
        with _usable():
            stored = _open(folder)
            matches = opened.enter_context(
                own_matches(
                    stored, out, ids, column, table=table, query=query, is_for_all=requests != 1
                )
            )
        _answer_all(stored, folder, requests, matches, as_json=as_json, **given)


def _answer_all(
    stored: psi.StoredSet,
    folder: Path,
    requests: int,
    matches: OwnMatches,
    *,
    as_json: bool,
    **given: Any,
) -> None:
    failed: TaskFailed | None = None
    served = 0
    while served < requests or not requests:
        served += 1
        try:
            with started_by(PSI_COMMAND):
                outcome = _answer(stored, folder, matches, **given)
        except JoinTimeoutError:
            raise
        except TaskFailed as error:
            if served == requests:
                raise
            failed = error
            say_error(cause(error), str(error))
            time.sleep(PAUSE_SECONDS)
            continue
        if as_json:
            click.echo(json.dumps(outcome))
        else:
            where = f": {outcome['out']}" if outcome["out"] else ""
            click.echo(f"{outcome['matched']} ids of {outcome['asker']} are in the set{where}")
    if failed is not None:
        raise failed


def _answer(
    stored: psi.StoredSet,
    folder: Path,
    matches: OwnMatches,
    *,
    task: str,
    party: str | None,
    join_timeout: float,
) -> dict[str, Any]:
    """Answer one request; return the keys task, party, asker, ids, matched, seconds, bytes and out
    (the file or folder with the matching rows).
    """
    from heterofed.cli.own_party import name_in
    from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, answer_stored

    matches.check()
    name = name_in(task, party, "collaborator", is_host=False)
    results = folder.absolute() / "requests"
    owner = RSAPSICollaboratorScheduler(name, join_timeout=join_timeout, results_dir=results)
    try:
        result, asker, matched = answer_stored(owner, task, stored, matches.ids)
    finally:
        shutil.rmtree(results / task, ignore_errors=True)
    out = matches.write(matched, asker)
    return {
        "task": task,
        "party": result.party,
        "asker": asker,
        "ids": stored.count,
        "matched": len(matched),
        "seconds": round(result.seconds, 3),
        "bytes_sent": result.bytes_sent,
        "bytes_received": result.bytes_received,
        "out": None if out is None else str(out),
    }


def _open(folder: Path) -> psi.StoredSet:
    import psi

    return psi.StoredSet(folder)


def _described(stored: psi.StoredSet) -> dict[str, Any]:
    return {
        "set": stored.name,
        "ids": stored.count,
        "filter_bytes": stored.filter_path.stat().st_size,
        "allowed": {
            party: {"max_ids": most, "asked": stored.budget(party).spent()}
            for party, most in stored.limits.items()
        },
    }


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"set {found['set']}: {found['ids']} ids, filter {found['filter_bytes']} bytes")
    for party, each in found["allowed"].items():
        click.echo(f"{party} has asked for {each['asked']} of {each['max_ids']} ids")
    if not found["allowed"]:
        click.echo("nobody may ask; `heterofed psi-set allow` lets a party")


@contextmanager
def _usable() -> Iterator[None]:
    """Turn errors of the set's files, ids and executor into a `ConfigError`."""
    import psi

    try:
        yield
    except psi.ExecutorError as error:
        raise ConfigError(f"--executor: {error}; correct it and run it again: it goes on") from None
    except psi.PSIError as error:
        raise ConfigError(f"{error}; or give another folder") from None
    except OSError as error:
        where, reason = error.filename or "the set", error.strerror or type(error).__name__
        raise ConfigError(f"{where}: {reason}; make it accessible, or make room") from None


@contextmanager
def _bar(ids: int) -> Iterator[Any]:
    """Show the progress of a set that is computed; yield what is told the number of ids."""
    from heterofed.events import PhaseBegan, PhaseEnded, Progressed
    from heterofed.reporting.console import attached

    with attached() as show:
        began = time.monotonic()
        show(PhaseBegan("psi", ids, "ids"))
        yield lambda done: show(Progressed(done, ids))
        show(PhaseEnded("psi", time.monotonic() - began, 0, 0))
