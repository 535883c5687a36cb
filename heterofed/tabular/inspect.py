"""Determines the kinds of a table's columns from their cells, and reports before anything is sent.

It uses sources and kinds, and knows no models, parties or network. Of a table of many rows it looks
at a sample. The kinds are then checked again, cell by cell, when the columns are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from heterofed.errors import ColumnError
from heterofed.reporting import markup
from heterofed.tabular.column_counts import Counts, count_cells, count_missing
from heterofed.tabular.kinds import DATE_FORMATS, THOUSANDS, Column, Kind, as_date, is_numeric
from heterofed.tabular.sources import Source

SAMPLE_ROWS = 100_000
"""The most rows from which kinds are determined; of a larger table every k-th row is taken."""

MANY_CATEGORIES = 1000
SHOWN = ("column", "holds", "missing", "values", "to know")

_MOSTLY = 0.8
"""The share of numbers, or dates, above which the other cells of a column are considered
mistakes.
"""

_LABEL_LIKE = re.compile(
    r"y(_true)?|class(es)?|diagnos[ei]s|ground_?truth|response|survived"
    r"|(\w+[_. ]|is_?)?(labels?|targets?|outcomes?|default(ed)?|churn(ed)?|fraud)([_. ].+)?"
    r"|(是否)?(已)?(违约|逾期|流失|欺诈|坏账)|.*标签",
    re.IGNORECASE,
)
_ID_LIKE = re.compile(
    r"(\w+[_. ])?(id|uid|uuid|guid|key|no|nr|number|ssn|passport|phone|mobile|e?mail|account)"
    r"|.*(编号|号码|证号|卡号|账号|单号|序号|学号|工号|手机号|身份证)"
    r"|\w+(Id|ID|No)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnReport(Column):
    """The description of one column.

    Attributes:
        name, kind, format: the same as in `Column`; columns of the kinds "id" and "constant" are no
            features.
        type: the type of the cells in their source, as DuckDB calls it; VARCHAR for a text file.
        missing: the number of rows without a value.
        share_missing: their share of all rows that were looked at.
        distinct: the number of different values.
        least, greatest: the extremes of a column of numbers.
        notes: remarks about the column for the user.
        problem: why the column cannot be used as it is, and what to do; empty if it can.
    """

    type: str = "VARCHAR"
    missing: int = 0
    share_missing: float = 0.0
    distinct: int = 0
    least: float | None = None
    greatest: float | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def is_feature(self) -> bool:
        """Whether the column would be used as a feature."""
        return self.kind not in ("id", "constant")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """The description of a table.

    Attributes:
        name: the name of the table, for messages.
        rows: the number of rows in the table.
        sampled: the number of rows from which kinds were determined, which is less than `rows` in a
            large table.
        ids: the names of the columns that hold the ids.
        labels: the names of the columns of labels.
        columns: the descriptions of all columns, including ids and labels.
        notes: what was detected in the file.
    """

    name: str
    rows: int
    sampled: int
    ids: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    columns: tuple[ColumnReport, ...] = field(default=())
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ColumnReport:
        return next(each for each in self.columns if each.name == name)

    @property
    def features(self) -> tuple[ColumnReport, ...]:
        """The columns that would be used as features, in their order."""
        beside = {*self.ids, *self.labels}
        return tuple(each for each in self.columns if each.is_feature and each.name not in beside)

    @property
    def problems(self) -> tuple[str, ...]:
        """All problems that prevent the use of the table, one line each."""
        beside = set(self.ids)
        found = [each.problem for each in self.columns if each.problem and each.name not in beside]
        if not self.features and not self.labels and not found:
            found.append(f"{self.name} has no column to learn from beside its ids")
        return tuple(found)

    def _repr_html_(self) -> str:
        """Return the columns and what stands in the way of them for a notebook."""
        rows = [
            (
                each.name,
                each.kind,
                f"{each.share_missing:.0%}",
                each.distinct,
                "; ".join(each.notes),
            )
            for each in self.columns
        ]
        return markup.card(
            self.name,
            f"{self.rows:,} rows, {len(self.columns)} columns",
            markup.table(SHOWN, rows, words=(0, 1, 4)),
            markup.listed([*self.problems, *self.notes]),
        )

    def check(self) -> None:
        """Refuse a table that cannot be used as it is.

        Raises:
            ColumnError: there is a problem; the message has the first one.
        """
        if found := self.problems:
            more = f" (and {len(found) - 1} more: heterofed table check)" if len(found) > 1 else ""
            raise ColumnError(found[0] + more)


def inspect(
    source: Source, *, ids: Sequence[str] | str = (), label: Sequence[str] | str | None = None
) -> TableReport:
    """Look at every column of a table.

    Args:
        source: the table, with its original cells (not `typed`).
        ids: the columns that hold the ids.
        label: the column of labels, or several, at the party that holds them.

    Raises:
        ColumnError: there is no such column.
    """
    ids, labels = ((each,) if isinstance(each, str) else tuple(each or ()) for each in (ids, label))
    source.must_have([*ids, *labels])
    look = _Look(source)
    columns = tuple(look.column(name, is_id=name in ids, labels=labels) for name in source.columns)
    return TableReport(
        name=source.name,
        rows=source.rows,
        sampled=look.rows,
        ids=ids,
        labels=labels,
        columns=columns,
        notes=source.notes,
    )


def missing_cells(source: Source, *, ids: Sequence[str] = ()) -> dict[str, int]:
    """Return how many cells are missing, by what stands in them, in the rows that are looked at.

    Args:
        source: the table, with its original cells (not `typed`).
        ids: the columns that hold the ids, in which every text is an id.
    """
    sample, rows = _sample(source)
    return count_missing(source, [each for each in source.columns if each not in ids], sample, rows)


def _sample(source: Source) -> tuple[str, int]:
    """Return an SQL clause that chooses the rows to look at, and their number."""
    step = -(-source.rows // SAMPLE_ROWS)
    return source.every(step), -(-source.rows // step)


class _Look:
    """Judges the columns of a table by the counts of their cells, with a few further queries."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sample, self.rows = _sample(source)
        self._counts = count_cells(source, self._sample, self.rows)

    def column(self, name: str, *, is_id: bool, labels: Sequence[str]) -> ColumnReport:
        source, counts = self._source, self._counts.get(name, Counts())
        type_ = source.type_of(name)
        missing = self.rows - counts.present
        kind, format_, notes, problem = self._judged(name, type_, counts)
        if is_id:
            kind, format_, notes, problem = "id", "", [], ""
        elif name in labels:
            notes, problem = [], _label_problem(source.name, name, counts, missing)
        else:
            notes += list(self._suspicions(name, counts, labels))
            if missing and kind != "constant":
                notes.append(f"missing in {missing / self.rows:.1%} of rows")
        return ColumnReport(
            name=name,
            kind=kind,
            format=format_,
            type=type_,
            missing=missing,
            share_missing=missing / self.rows,
            distinct=counts.distinct,
            least=counts.least if kind == "numeric" else None,
            greatest=counts.greatest if kind == "numeric" else None,
            notes=tuple(notes),
            problem=problem,
        )

    def _judged(self, name: str, type_: str, counts: Counts) -> tuple[Kind, str, list[str], str]:
        """Kind, format, notes and problem."""
        present = counts.present
        if not present:
            return "constant", "", ["holds no value; it is left out"], ""
        if counts.distinct == 1:
            return "constant", "", ["holds one value only; it is left out"], ""
        if type_ == "BOOLEAN" or counts.booleans == present:
            return "boolean", "", [], ""
        if type_.startswith(("DATE", "TIMESTAMP")):
            return "date", "", [], ""
        if counts.endless is not None:
            row = counts.endless + 1
            return (
                "numeric",
                "",
                [],
                (
                    f"{self._source.name}, row {row}, column {name!r}: infinity is no value to"
                    " train on; correct the cell, or empty it where the value is missing"
                ),
            )
        if counts.numbers == present and (is_numeric(type_) or not counts.padded):
            return self._number(name, counts)
        if (written := _written_number(counts, self._source)) is not None:
            return "numeric", *written, ""
        if counts.dates >= _MOSTLY * present:
            return self._date(name, counts)
        if problem := self._mixed(name, counts):
            return "category", "", [], problem
        return self._words(counts)

    def _mixed(self, name: str, counts: Counts) -> str:
        """Return what is wrong with numbers that have text among them, or several writings."""
        present, numbers = counts.present, counts.numbers
        row = counts.not_number if _MOSTLY * present <= numbers else counts.not_written
        if row is None or counts.written < _MOSTLY * present:
            row = counts.not_number
            if counts.written < present or row is None or counts.padded:
                return ""
            return (
                f"{self._source.name}, row {row + 1}, column {name!r}: the numbers of the column"
                " are written in several ways; write all of them in one way, best as 1234.5"
            )
        return (
            f"{self._source.name}, row {row + 1}, column {name!r}: text in a"
            f" column where {counts.written} of {present} cells are numbers; correct such"
            " cells, or empty them where the value is missing (in Python: missing=...)"
        )

    def _number(self, name: str, counts: Counts) -> tuple[Kind, str, list[str], str]:
        serial = counts.distinct == counts.present == counts.whole and counts.present >= 20
        spread = (counts.greatest or 0) - (counts.least or 0) + 1
        if serial and (spread == counts.present or _ID_LIKE.fullmatch(name)):
            return "id", "", ["numbers each row like an id; it is left out"], ""
        notes = []
        if counts.whole == counts.present and counts.distinct <= 20 < counts.present:
            notes.append(f"whole numbers with {counts.distinct} values: codes, or amounts?")
        return "numeric", "", notes, ""

    def _date(self, name: str, counts: Counts) -> tuple[Kind, str, list[str], str]:
        source = self._source
        text = source.text(name)
        formats = ["", *DATE_FORMATS]
        tried = ", ".join(f"count(TRY({as_date(text, text, 'VARCHAR', each)}))" for each in formats)
        (found,) = source.query(
            "SELECT {tried} FROM {table} {sample}", tried=tried, sample=self._sample
        )
        fit = [each for each, times in zip(formats, found, strict=True) if times == counts.present]
        if fit:
            # Where ISO fits, no other order of day and month is meant.
            twofold = [] if fit[0] == "" or len(fit) == 1 else ["day and month could be either way"]
            return "date", fit[0], twofold, ""
        best = max(range(len(formats)), key=lambda at: found[at])
        column = as_date(text, text, "VARCHAR", formats[best])
        ((row,),) = source.query(
            "SELECT min({row}) FROM {table} WHERE {text} IS NOT NULL AND TRY({column}) IS NULL",
            text=text,
            column=column,
        )
        return (
            "date",
            formats[best],
            [],
            (
                f"{source.name}, row {row + 1}, column {name!r}: a date written in another way than"
                f" the {found[best]} others like {formats[best] or 'ISO 8601'}, or none; write all"
                " of them in one way, best as 2024-12-31"
            ),
        )

    def _words(self, counts: Counts) -> tuple[Kind, str, list[str], str]:
        present, distinct = counts.present, counts.distinct
        if counts.tags == present or counts.lists >= _MOSTLY * present:
            return "tags", "", [], ""
        unique = distinct == present
        if unique and present >= 20 and counts.words < 1.5:
            return "id", "", ["differs in every row like an id; it is left out"], ""
        if distinct > present / 2 and (counts.words >= 3 or counts.length >= 50) and present >= 10:
            return "text", "", [], ""
        notes = []
        if counts.padded:
            notes.append("digits with zeros in front: kept as text")
        if distinct > MANY_CATEGORIES:
            notes.append(f"{distinct} categories: the rare ones are taken together")
        return "category", "", notes, ""

    def _suspicions(self, name: str, counts: Counts, labels: Sequence[str]) -> Iterator[str]:
        if _LABEL_LIKE.fullmatch(name):
            yield "is called like a label; leave it out unless it is known before the outcome"
        for label in labels:
            if 1 < counts.distinct <= 50 and self._tells(name, label):
                yield f"tells {label!r} without fail: was it known before the outcome?"

    def _tells(self, name: str, label: str) -> bool:
        """Whether each value of a column comes with one label only."""
        labels = self._counts.get(label, Counts()).distinct
        if not 1 < labels <= 50:
            return False
        ((most, values),) = self._source.query(
            "SELECT max(n), count(*) FROM (SELECT count(DISTINCT {label}) AS n FROM {table}"
            " {sample} GROUP BY {name} HAVING {name} IS NOT NULL)",
            sample=self._sample,
            label=self._source.text(label),
            name=self._source.text(name),
        )
        return bool(most == 1 and values < self.rows / 2)


def _written_number(counts: Counts, source: Source) -> tuple[str, list[str]] | None:
    """Return the format of numbers that are not written plainly, and notes on it.

    A comma before three digits in every cell stands between thousands, except in files whose fields
    are parted by semicolons, because these leave the comma to decimals.
    """
    present = counts.present
    if present in (counts.percents, counts.marked_percents):
        format_ = "%" if present == counts.percents else ",%"
        return format_, ["percentages, as numbers"]
    in_groups = counts.grouped and counts.grouped + counts.numbers == present and not counts.large
    if in_groups and (counts.surely_grouped or source.delimiter != ";"):
        return THOUSANDS, ["commas between thousands (1,234 is 1234)"]
    if counts.marked and counts.marked + counts.whole == present:
        return ",", ["numbers with a decimal comma"]
    return None


def _label_problem(table: str, name: str, counts: Counts, missing: int) -> str:
    if missing:
        return (
            f"{table}, column {name!r}: the label is missing in {missing} rows; fill in those"
            " labels, or take these rows out"
        )
    if counts.distinct < 2:
        return f"{table}, column {name!r}: every row has the same label; there is nothing to learn"
    return ""
