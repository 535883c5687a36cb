"""`heterofed psi`: intersects the ids of a file with other parties' and writes the matching rows.

This module knows the PSI schedulers; `own_ids` opens the file with the ids, and
`intersection.matching_rows` copies the matching rows.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psi
from heterofed.cli.own_ids import IdSource, file_of_ids, opened_ids, read_ids
from heterofed.cli.own_party import name_in
from heterofed.hetero_nn.psi import (
    PSIScheduler,
    RSAPSICollaboratorScheduler,
    RSAPSIInitiatorScheduler,
    ask_stored,
    write_by,
)
from heterofed.intersection.matching_rows import MatchingRows, check_out
from heterofed.protocol.plan import PSIParties, PSIProtocol
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.run import Run

Role = Literal["initiator", "collaborator"]
SCHEDULERS: dict[Role, Callable[..., PSIScheduler]] = {
    "initiator": RSAPSIInitiatorScheduler,
    "collaborator": RSAPSICollaboratorScheduler,
}


def run_psi(
    *,
    ids: Path | str,
    id_column: str | None,
    out: Path,
    table: str | None = None,
    query: str | None = None,
    **task: Any,
) -> dict[str, Any]:
    """Run one party of a PSI task over files or a database, or ask a stored set.

    Args:
        ids: a CSV, TSV or Parquet file or a folder of Parquet files (with `id_column`), or a text
            file with one id per line; or, as a string, the address of a database (with `id_column`
            and a table or query).
        id_column: the column that holds the ids; None for a text file.
        out: the file for this party's own rows whose ids all parties have, in their order; for a
            folder of ids, a new folder with the rows of each file.
        table: the table of a database, whose matching rows are written as CSV.
        query: the query of a database, in place of a table.
        **task: the other arguments of `_intersect`.

    Returns:
        The dict of `_account`.

    Raises:
        ConfigError: a file cannot be read or written; nothing was done.
        TaskFailed: the task could not go on.
    """
    out = out.absolute()
    check_out(file_of_ids(ids), out)
    with opened_ids(ids, id_column, table=table, query=query) as source:
        return _intersect(source, out, **task)


def _intersect(
    source: IdSource,
    out: Path,
    *,
    task: str,
    role: Role,
    party: str | None,
    parties: int,
    protocol: PSIProtocol,
    max_peer_ids: int,
    join_timeout: float,
    fresh: bool,
    psi_parties: PSIParties = "pairwise",
    executor: str | None = None,
    key_leaves: bool = False,
    stored: str | None = None,
) -> dict[str, Any]:
    """Take part in the task with the ids of an open source.

    The state for resuming an interrupted run is kept in a hidden folder beside `out`.

    Args:
        source: the rows with this party's ids.
        out: the place of the matching rows.
        task: the task id, which is the same at every party.
        role: "initiator" for the party that requests and sets the protocol, else "collaborator".
        party: this party's feature key, or None to use the role.
        parties: at the initiator, the number of collaborators to wait for.
        protocol: at the initiator, the protocol of the intersection.
        max_peer_ids: at the initiator, the most ids of any party; at a collaborator, the most ids
            that the initiator may intersect in all runs of the task together.
        join_timeout: the longest time in seconds to wait for the other parties.
        fresh: whether to start anew even if an interrupted run could be resumed.
        psi_parties: at the initiator, "joint" if nobody may learn what only some parties share.
        executor: the address of an executor, such as "processes:8", or None.
        key_leaves: whether a collaborator's secret key may be sent to an executor elsewhere.
        stored: at the initiator, the name of the collaborator's stored set, which is asked.
    """
    own = read_ids(source)
    folder = out.with_name(f".{out.name}.heterofed")
    given: dict[str, Any] = {"ids": own, "join_timeout": join_timeout, "results_dir": folder}
    given |= {"max_peer_ids": max_peer_ids, "psi_executor": executor}
    lead = {"collaborators": parties, "psi_protocol": protocol, "psi_parties": psi_parties}
    given |= lead if role == "initiator" else {"psi_key_leaves": key_leaves}
    scheduler = SCHEDULERS[role](name_in(task, party, role, is_host=role == "initiator"), **given)
    write_by(scheduler, partial(_copy, MatchingRows(source.path, source.column, out)))
    _launch(scheduler, task, folder, fresh=fresh, stored=stored)
    return _account(task, scheduler.result, len(own), out)


def _launch(
    scheduler: PSIScheduler, task: str, folder: Path, *, fresh: bool, stored: str | None
) -> None:
    with _kept_to_resume(folder):
        if stored is not None and isinstance(scheduler, RSAPSIInitiatorScheduler):
            ask_stored(scheduler, task, stored)
        else:
            scheduler.launch_task(task, resume="never" if fresh else "auto")


@contextmanager
def _kept_to_resume(folder: Path) -> Iterator[None]:
    """Remove the state of a run after it, unless it failed and can be resumed."""
    try:
        yield
    except BaseException:
        if not any(folder.glob("*/*/resume")):  # there is nothing to resume
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


def _account(task: str, result: TaskResult, ids: int, out: Path) -> dict[str, Any]:
    """Return what the command prints: task, party, protocol, backend (which computed this party's
    part), ids, matched, seconds, psi_seconds, ids_per_second, bytes_sent, bytes_received and out.
    """
    seconds = result.phases["psi"].seconds
    return {
        "task": task,
        "party": result.party,
        **result.psi,
        "ids": ids,
        "matched": result.ids,
        "seconds": round(result.seconds, 3),
        "psi_seconds": round(seconds, 3),
        "ids_per_second": round(ids / seconds) if seconds else None,
        "bytes_sent": result.bytes_sent,
        "bytes_received": result.bytes_received,
        "out": str(out),
    }


def _copy(rows: MatchingRows, _run: Run, ids: psi.OwnIds, common: array[int]) -> None:
    """Write this party's matching rows in place of a list of ids."""
    rows.copy(ids, common)
