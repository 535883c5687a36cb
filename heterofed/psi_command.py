"""`heterofed psi`: the ids of a file intersected with another party's; own matching rows come out.

Knows files and the PSI schedulers; reading ids from a column is `psi.column`'s work.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Set
from pathlib import Path
from typing import Any, BinaryIO, Literal

from heterofed.alignment import check_ids
from heterofed.errors import ConfigError, IdError
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.plan import PSIProtocol
from heterofed.results import check_writable, write_whole
from psi import IdsError, column

Role = Literal["initiator", "collaborator"]


def run_psi(
    *,
    task: str,
    role: Role,
    party: str | None,
    parties: int,
    ids: Path,
    id_column: str | None,
    protocol: PSIProtocol,
    out: Path,
    join_timeout: float,
) -> dict[str, Any]:
    """Run one party of a PSI task over files.

    Args:
        task: task id, the same at every party.
        role: the initiator asks and sets the protocol; collaborators answer.
        party: this party's key; the role by default.
        parties: at the initiator, how many collaborators to wait for.
        ids: CSV or Parquet file (with `id_column`), or text file, one id a line.
        id_column: the column that holds the ids; None for a text file.
        protocol: at the initiator, how to intersect.
        out: gets this party's own rows whose id all parties have, in their order.
        join_timeout: seconds to wait for the others.

    Returns:
        task, party, protocol (None at a collaborator), ids, matched, seconds, psi_seconds,
        ids_per_second, bytes_sent, bytes_received, out.

    Raises:
        ConfigError: a file cannot be read or written; nothing was done.
        TaskFailed: the task could not go on.
    """
    out = out.absolute()
    check_writable(out.parent)
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give a file")
    if id_column is None and ids.suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise ConfigError(f"{ids} looks like a table: say with --column where the ids are")
    try:
        own = check_ids(column(ids, id_column))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{ids} cannot be read ({type(error).__name__})") from None
    except (IdError, IdsError) as error:
        raise ConfigError(f"the ids in {ids} cannot be used: {error}") from None
    with tempfile.TemporaryDirectory(prefix="heterofed-") as folder:
        scheduler: RSAPSIInitiatorScheduler | RSAPSICollaboratorScheduler
        if role == "initiator":
            scheduler = RSAPSIInitiatorScheduler(
                party or role,
                ids=own,
                collaborators=parties,
                psi_protocol=protocol,
                join_timeout=join_timeout,
                results_dir=folder,
            )
        else:
            scheduler = RSAPSICollaboratorScheduler(
                party or role, ids=own, join_timeout=join_timeout, results_dir=folder
            )
        common = set(scheduler.launch_task(task))
        result = scheduler.result
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, lambda file: _copy_rows(ids, id_column, common, file))
    seconds = result.phases["psi"].seconds
    return {
        "task": task,
        "party": result.party,
        "protocol": protocol if role == "initiator" else None,
        "ids": len(own),
        "matched": len(common),
        "seconds": round(result.seconds, 3),
        "psi_seconds": round(seconds, 3),
        "ids_per_second": round(len(own) / seconds) if seconds else None,
        "bytes_sent": result.bytes_sent,
        "bytes_received": result.bytes_received,
        "out": str(out),
    }


def _copy_rows(source: Path, id_column: str | None, wanted: Set[str], target: BinaryIO) -> None:
    """Write the source's rows whose id is wanted, in their order and in the source's format."""
    if source.suffix.lower() == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(source)
        ids = table.column(id_column or 0)
        parquet.write_table(table.filter([each in wanted for each in ids.to_pylist()]), target)
        return
    text = io.TextIOWrapper(target, encoding="utf-8", newline="")
    if id_column is None:
        text.writelines(f"{each}\n" for each in column(source) if each in wanted)
    else:
        _copy_csv(source, id_column, wanted, text)
    text.detach()  # flushes; whoever opened the target closes it


def _copy_csv(source: Path, id_column: str, wanted: Set[str], text: io.TextIOWrapper) -> None:
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = next(rows)
        place = header.index(id_column)
        copy = csv.writer(text, lineterminator="\n")
        copy.writerow(header)
        copy.writerows(row for row in rows if row and row[place] in wanted)
