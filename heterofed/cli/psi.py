"""`heterofed psi`: intersects the ids of a file with other parties' and writes the matching rows.

This module knows files and the PSI schedulers; `own_ids` opens the file with the ids. Rows are
streamed, so that a file may be larger than memory.
"""

from __future__ import annotations

import csv
import io
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, TypeVar

import psi
from heterofed.cli.own_ids import IdSource, file_of_ids, opened_ids, read_ids
from heterofed.cli.own_party import name_in
from heterofed.errors import ConfigError, IdError
from heterofed.files import make_folder, new_file, whole_folder, writing
from heterofed.hetero_nn.psi import (
    PSIScheduler,
    RSAPSICollaboratorScheduler,
    RSAPSIInitiatorScheduler,
    ask_stored,
    write_by,
)
from heterofed.protocol.plan import PSIParties, PSIProtocol
from heterofed.reporting.results import TaskResult, check_writable, write_whole
from heterofed.runs.run import Run
from psi.sources import csv_rows, delimiter_of, partitions

Role = Literal["initiator", "collaborator"]
SCHEDULERS: dict[Role, Callable[..., PSIScheduler]] = {
    "initiator": RSAPSIInitiatorScheduler,
    "collaborator": RSAPSICollaboratorScheduler,
}
Row = TypeVar("Row")
Marked = Iterator[tuple[str, int]]
"""A party's own ids, each with a count that is nonzero if all parties have it."""


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
    _check_out(file_of_ids(ids), out)
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
    write_by(scheduler, partial(_copy, _Table(source.path, source.column, out)))
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


def _check_out(ids: Path | None, out: Path) -> None:
    """Check that the result can be written, and replaces no file or folder with ids.

    Raises:
        ConfigError: it cannot, or does.
    """
    check_writable(out.parent)
    if ids is not None and ids.is_dir():
        _check_folder(ids, out)
    elif out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give a file")
    elif ids is not None and ids.exists() and out.exists() and out.samefile(ids):
        raise ConfigError(f"--out {out} is the file with the ids; give another file")


def _check_folder(ids: Path, out: Path) -> None:
    """Refuse a place for the result of a folder that holds something, or is within that folder."""
    if out.resolve().is_relative_to(ids.resolve()):
        raise ConfigError(f"--out {out} is in the folder with the ids; give another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"--out {out} is there already, and a folder of ids gives a folder; give a new one"
        )


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


def _copy(table: _Table, _run: Run, ids: psi.OwnIds, common: array[int]) -> None:
    """Write this party's matching rows in place of a list of ids."""
    table.copy(ids, common)


class _Lines:
    """A text to which a CSV writer writes, with line feeds at the ends of its lines.

    The writer quotes a carriage return within a cell only if the ends of its lines have one, too.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def write(self, line: str) -> None:
        self._text.write(line.removesuffix("\r\n") + "\n")


class _Table:
    """A file whose rows have ids; some of its rows are copied to another file."""

    def __init__(self, source: Path, id_column: str | None, out: Path) -> None:
        self._source, self._id_column, self._out = source, id_column, out

    def copy(self, ids: psi.OwnIds, common: array[int]) -> None:
        """Write the rows at the positions `common`, in their order and in the source's format."""
        marks = bytearray(len(ids))
        for position in common:
            marks[position] = 1
        marked = zip(ids, marks, strict=True)
        if self._source.is_dir():
            self._copy_folder(marked)
            return

        def write(target: BinaryIO) -> None:
            try:
                if self._source.suffix.lower() == ".parquet":
                    self._copy_parquet(self._source, marked, target)
                elif self._id_column is None:
                    self._copy_text(marked, target)
                else:
                    self._copy_csv(self._id_column, marked, target)
            except psi.IdsError:  # the file changed, because it could be read before
                self._changed()
            if next(marked, None) is not None:
                self._changed()

        write_whole(self._out, write, anywhere=True)

    def _copy_text(self, marked: Marked, target: BinaryIO) -> None:
        text = io.TextIOWrapper(target, encoding="utf-8", newline="")
        lines = psi.column(self._source)
        text.writelines(f"{line}\n" for line in self._chosen(lines, lambda line: line, marked))
        text.detach()  # flushes without closing the target

    def _copy_csv(self, id_column: str, marked: Marked, target: BinaryIO) -> None:
        text = io.TextIOWrapper(target, encoding="utf-8", newline="")
        rows = csv_rows(self._source)
        header = next(rows, [])
        if header.count(id_column) != 1:
            self._changed()
        place = header.index(id_column)
        copy = csv.writer(_Lines(text), delimiter=delimiter_of(self._source), lineterminator="\r\n")
        copy.writerow(header)
        chosen = self._chosen(rows, lambda row: "".join(row[place : place + 1]), marked)
        copy.writerows(chosen)
        text.detach()

    def _copy_folder(self, marked: Marked) -> None:
        """Write a folder with a file for each of the source, which appears whole or not at all."""
        with writing(self._out), whole_folder(self._out) as draft:
            for path in self._partitions():
                place = draft / path.relative_to(self._source)
                make_folder(place.parent)
                with new_file(place) as target:
                    self._copy_parquet(path, marked, target)
            if next(marked, None) is not None:
                self._changed()

    def _partitions(self) -> list[Path]:
        try:
            return partitions(self._source)
        except psi.IdsError:  # there were some before
            self._changed()

    def _copy_parquet(self, source: Path, marked: Marked, target: BinaryIO) -> None:
        from pyarrow import ArrowInvalid, parquet

        try:
            opened = parquet.ParquetFile(source)
        except (OSError, ArrowInvalid):  # it could be read before
            self._changed()
        with (
            opened as file,
            parquet.ParquetWriter(target, file.schema_arrow) as writer,
        ):
            place = file.schema_arrow.names.index(self._id_column)
            for batch in file.iter_batches():
                rows: Iterator[tuple[int, str]] = enumerate(batch.column(place).to_pylist())
                chosen = [at for at, _ in self._chosen(rows, lambda row: row[1], marked)]
                if chosen:
                    writer.write_batch(batch.take(chosen))

    def _chosen(
        self, rows: Iterable[Row], id_of: Callable[[Row], str], marked: Marked
    ) -> Iterator[Row]:
        """Yield the marked rows; the rows must still have the ids that were read."""
        for row in rows:
            own, wanted = next(marked, (None, 0))
            if id_of(row) != own:
                self._changed()
            if wanted:
                yield row

    def _changed(self) -> NoReturn:
        raise IdError(f"{self._source} was changed while the task ran; run it again")
