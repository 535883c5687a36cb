"""Keeps the predictions of a long table on disk, part by part, until all of them make one file.

A part appears whole or not at all, and its name says of which ids it is. So a run that was killed
at any point goes on with the first part that is missing, and its file has the same bytes as that of
a run that was not.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from heterofed.errors import ConfigError, needing
from heterofed.files import make_folder, put_in_place, rename_folder, writing
from heterofed.reporting.results import write_whole
from heterofed.tabular.written import csv_of

if TYPE_CHECKING:
    import pandas as pd

PLAN = "plan.json"


class Plan(msgspec.Struct):
    """The facts that are the same for all parts.

    Attributes:
        task: the id of the task.
        rows_at_once: the most rows of a part.
        version: the version of the model, 64 hexadecimal digits.
        columns: the columns of the predictions.
    """

    task: str
    rows_at_once: int
    version: str
    columns: list[str]


class Parts:
    """The parts of one output file, in the folder `<file>.parts` beside it.

    Args:
        out: the file, as CSV, or as Parquet if its name ends in `.parquet`.
        task: the id of the task.
        rows_at_once: the most rows of a part.
        fresh: whether to forget the parts of a run before.

    Raises:
        ConfigError: the parts are of another task, or a library is missing.
    """

    def __init__(self, out: Path, task: str, rows_at_once: int, *, fresh: bool = False) -> None:
        self._out, self._task, self._at_once = out, task, rows_at_once
        self.is_parquet = out.suffix.lower() == ".parquet"
        if self.is_parquet:
            with needing("parquet", "writing Parquet files"):
                import pyarrow.parquet  # noqa: F401
        self._folder = out.with_name(f"{out.name}.parts")
        self._done = out.with_name(f"{out.name}.done")
        shutil.rmtree(self._done, ignore_errors=True)
        if fresh:
            shutil.rmtree(self._folder, ignore_errors=True)
        with writing(self._folder):
            make_folder(self._folder)
        self._plan = self._read()
        if self._plan is not None and (self._plan.task, self._plan.rows_at_once) != (
            task,
            rows_at_once,
        ):
            raise ConfigError(
                f"{self._folder} has parts of the task {self._plan.task!r}; give another --out, or"
                " --fresh to begin anew"
            )

    def rows_of(self, number: int, ids: Sequence[str]) -> int | None:
        """Return the number of predictions of a part; None if it is not there.

        Raises:
            ConfigError: there is one with this number, of other ids.
        """
        found = self._part(number)
        if found is None:
            return None
        _, digest, rows = found.name.split("-")
        if digest != digest_of(ids):
            raise ConfigError(
                f"{found} is of other ids: the table has changed since the scoring began; give"
                " --fresh to begin anew"
            )
        return int(rows)

    def keep(self, number: int, ids: Sequence[str], frame: pd.DataFrame, version: bytes) -> None:
        """Keep the predictions of some ids.

        Args:
            number: the number of the part, from 0.
            ids: all ids that were asked for.
            frame: the predictions of those that are served, in their order; it may have no row.
            version: the version of the model.

        Raises:
            ConfigError: they are of another version, or have other columns, than the parts before.
            ResultsError: they cannot be written.
        """
        if len(frame):
            self._check(Plan(self._task, self._at_once, version.hex(), list(map(str, frame))))
        path = self._folder / f"{number:08}-{digest_of(ids)}-{len(frame)}"
        self._put(path, functools.partial(self._write, frame))

    def finish(self, count: int) -> None:
        """Join so many parts to the file.

        Raises:
            ResultsError: it cannot be written.
        """
        paths = [each for number in range(count) if (each := self._part(number)) is not None]
        join = self._join_parquet if self.is_parquet else self._join_csv
        write_whole(self._out, functools.partial(join, paths), anywhere=True)
        rename_folder(self._folder, self._done)  # so that half of them are never taken for all
        shutil.rmtree(self._done, ignore_errors=True)

    # -- within ------------------------------------------------------------------------------

    def _read(self) -> Plan | None:
        try:
            return msgspec.json.decode((self._folder / PLAN).read_bytes(), type=Plan)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError):
            raise ConfigError(
                f"{self._folder / PLAN} cannot be read; give --fresh to begin anew"
            ) from None

    def _check(self, plan: Plan) -> None:
        """Check that a part is like those before it, or note what all are to be like."""
        if self._plan is None:
            content = msgspec.json.encode(plan)
            self._put(self._folder / PLAN, lambda file: file.write(content))
            self._plan = plan
        if plan.columns != self._plan.columns:
            raise ConfigError(
                f"the parts in {self._folder} have other columns: {_listed(self._plan.columns)},"
                f" and now {_listed(plan.columns)}; name the same columns of ids (--id), or give"
                " --fresh to begin anew"
            )
        if plan != self._plan:
            raise ConfigError(
                f"the parts in {self._folder} are of version {self._plan.version[:12]} of the"
                f" model, and {plan.version[:12]} is served now; use that version again, or give"
                " --fresh to begin anew"
            )

    def _part(self, number: int) -> Path | None:
        return next(iter(self._folder.glob(f"{number:08}-*")), None)

    def _put(self, path: Path, write: Any) -> None:
        with writing(path):
            put_in_place(path, write, anywhere=True)

    def _write(self, frame: pd.DataFrame, file: BinaryIO) -> None:
        if not len(frame):
            return
        if self.is_parquet:
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(
                pyarrow.Table.from_pandas(frame, preserve_index=False), file
            )
        else:
            file.write(csv_of(frame, header=False))

    def _filled(self, paths: Sequence[Path]) -> Iterator[Path]:
        return (each for each in paths if each.stat().st_size)

    def _join_csv(self, paths: Sequence[Path], file: BinaryIO) -> None:
        import pandas

        columns = [] if self._plan is None else self._plan.columns
        file.write(csv_of(pandas.DataFrame(columns=columns)))
        for each in self._filled(paths):
            with each.open("rb") as part:
                shutil.copyfileobj(part, file)

    def _join_parquet(self, paths: Sequence[Path], file: BinaryIO) -> None:
        import pyarrow
        import pyarrow.parquet

        filled = list(self._filled(paths))
        schema = pyarrow.parquet.read_schema(filled[0]) if filled else pyarrow.schema([])
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for each in filled:
                writer.write_table(pyarrow.parquet.read_table(each))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def digest_of(ids: Sequence[str]) -> str:
    """Return a digest by which a part knows its ids."""
    return hashlib.sha256(msgspec.msgpack.encode(list(ids))).hexdigest()[:32]
