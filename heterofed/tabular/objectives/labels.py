"""Reads a column of labels: it determines the kind of task and the classes, and says what it
assumed.

The reading is determined once, from all labels that the Host has, and is kept with the model, so
that labels of other files are read in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.objectives.values import (
    Class,
    Form,
    as_number,
    as_series,
    codes_of,
    form_of,
    in_form,
    numbers_of,
    refuse_rows,
)

Kind = Literal["binary", "multiclass", "multilabel", "regression", "counts"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FEW = 20
"""The most distinct values with which whole numbers are read as classes."""

MOST_CLASSES = 1000
SEPARATORS = ("|", ";", ",")


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """A reading of labels; `msgspec.to_builtins` converts it to plain data to be kept with a model.

    Attributes:
        kind: the kind of the task.
        column: the name of the label, for messages.
        said: a sentence that says how the labels were read.
        classes: the values for the codes 0, 1, ...; of a binary task (negative, positive); of a
            multi-label task the names of the labels; empty for numbers.
        form: the form of the values.
        parts: the readings of each column of a multi-label task over several columns.
        separator: the text between the labels of a row, in a multi-label task over one column.
    """

    kind: Kind
    column: str
    said: str
    classes: tuple[Class, ...] = ()
    form: Form = "numbers"
    parts: tuple[Labels, ...] = ()
    separator: str = ""

    def encode(self, values: Any) -> Tensor:
        """Return labels in the form that the loss takes.

        Args:
            values: the labels as a Series, array, tensor or list; in a multi-label task over
                several columns as a DataFrame or a two-dimensional array.

        Returns:
            Binary: [rows] float32 of 0 and 1. Multi-class: [rows] int64. Multi-label: [rows,
            labels] float32. Regression and counts: [rows] float32.

        Raises:
            ColumnError: a row has no value, a value that is none of the classes, or no number; the
                message has the first such row but not its value.
        """
        if self.kind == "multilabel":
            return self._encode_several(values)
        series = as_series(values, self.column)
        if not self.classes:
            numbers = numbers_of(series, self.column)
            if self.kind == "counts":
                _refuse_no_counts(numbers, self.column)
            return torch.tensor(numbers, dtype=torch.float32)
        codes = torch.from_numpy(self._codes(series))
        return codes.float() if self.kind == "binary" else codes

    def decode(self, codes: Any) -> list[Class]:
        """Return the classes of codes, such as predicted ones."""
        return [self.classes[int(each)] for each in codes]

    def _codes(self, series: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
        codes = codes_of(series, self.form, {name: at for at, name in enumerate(self.classes)})
        refuse_rows(codes < 0, self.column, "hold none of the classes that the model was made for")
        return codes

    def _encode_several(self, values: Any) -> Tensor:
        if self.separator:
            return _tags(values, self.column, self.separator, self.classes)
        columns = _columns(values)
        if len(columns) != len(self.parts):
            raise ColumnError(
                f"{len(columns)} columns of labels, where there were {len(self.parts)}"
            )
        parts = zip(self.parts, columns.values(), strict=True)
        return torch.stack([part.encode(column) for part, column in parts], dim=1)


def read_labels(
    values: Any,
    *,
    kind: Kind | Literal["auto"] = "auto",
    positive: Class | None = None,
    column: str = "label",
) -> Labels:
    """Determine how labels are read.

    Two distinct values are a binary task: -1 and 1, 0 and 1, true and false, yes and no, or any two
    words. Whole numbers with at most 20 distinct values, and words, are classes. Other numbers are
    a regression. Several columns are a multi-label task.

    Args:
        values: all labels: a Series, array, tensor or list; a DataFrame or a two-dimensional array
            of several labels.
        kind: the kind of the task; "auto" determines it.
        positive: the class of a binary task whose probability is predicted; None for yes, true, the
            larger number, or the later word in alphabetical order.
        column: the name of the label, for messages.

    Raises:
        ColumnError: rows have no value, there is only one value, values do not fit the kind, or
            words differ in nearly every row.
        ConfigError: there is no such kind or class.
    """
    if kind != "auto" and kind not in KINDS:
        raise ConfigError(f"kind={kind!r}: give one of {', '.join(KINDS)}, or auto")
    if _is_table(values):
        if kind not in ("auto", "multilabel"):
            raise ConfigError(f"several label columns are a multilabel task, not kind={kind!r}")
        return _read_several(values, column)
    series = as_series(values, column)
    if kind == "multilabel":
        return _read_tags(series, column)
    distinct = list(pd.unique(series))
    form = form_of(distinct)
    if kind in ("regression", "counts"):
        return _read_numbers(series, kind, column)
    known = {in_form(each, form) for each in distinct}
    if None in known:
        numbers_of(series, column)  # the message names the row
    classes = sorted((each for each in known if each is not None), key=_in_order)
    if len(classes) < 2:
        raise ColumnError(
            f"column {column!r} holds one value only, so there is nothing to learn; give rows of"
            " another one too"
        )
    if kind == "binary" or (kind == "auto" and len(classes) == 2):
        return _read_binary(classes, form, positive, column)
    if kind == "auto" and form == "numbers" and not _are_classes(classes):
        return _read_numbers(series, "regression", column)
    return _read_classes(classes, form, column, rows=len(series), asked=kind != "auto")


def _in_order(value: Class) -> tuple[bool, float, str]:
    number = as_number(value)
    return number is None, number or 0.0, str(value)


def _are_classes(numbers: Sequence[Class]) -> bool:
    return len(numbers) <= FEW and all(isinstance(each, int) for each in numbers)


def _shown(classes: Sequence[Class]) -> str:
    few = ", ".join(repr(each) for each in classes[:10])
    return few if len(classes) <= 10 else f"{few} and {len(classes) - 10} more"


def _read_binary(
    classes: Sequence[Class], form: Form, positive: Class | None, column: str
) -> Labels:
    if len(classes) != 2:
        raise ColumnError(
            f"column {column!r} has {len(classes)} classes, and a binary task has two; give"
            " kind='multiclass', or make two of them"
        )
    yes = classes[1] if positive is None else in_form(positive, form)
    if yes is None or yes not in classes:
        raise ConfigError(f"positive={positive!r}: column {column!r} has {_shown(classes)}")
    no = classes[0] if classes[1] == yes else classes[1]
    guessed = form == "text" and positive is None
    other = ", the later in the alphabet; give positive=... (--positive) for the other one"
    hint = other if guessed else ""
    if form == "words":
        said = f"binary: yes, true, 1 and the like are read as {yes}, the others as {no}"
        if not yes:
            said = "binary: no, false, 0 and the like are the positive class"
    else:
        said = f"binary: the positive class is {yes!r} (1), the other one is {no!r} (0){hint}"
    return Labels(kind="binary", column=column, said=said, classes=(no, yes), form=form)


def _read_classes(
    classes: Sequence[Class], form: Form, column: str, *, rows: int, asked: bool
) -> Labels:
    if len(classes) > MOST_CLASSES or (not asked and len(classes) > max(FEW, rows / 2)):
        raise ColumnError(
            f"column {column!r} has {len(classes)} distinct values in {rows} rows: that looks like"
            " ids or free text; name the column that holds the label"
        )
    said = f"multiclass: {len(classes)} classes: {_shown(classes)}"
    if form == "numbers" and not asked:
        said += " (give kind='regression' or kind='counts' if these are amounts)"
    return Labels(kind="multiclass", column=column, said=said, classes=tuple(classes), form=form)


def _read_numbers(series: pd.Series[Any], kind: Kind, column: str) -> Labels:
    numbers = numbers_of(series, column)
    if (numbers == numbers[0]).all():
        raise ColumnError(f"column {column!r} holds one value only, so there is nothing to learn")
    if kind == "counts":
        _refuse_no_counts(numbers, column)
        said = "counts: whole numbers from 0, by a Poisson model"
    else:
        said = f"regression: numbers from {numbers.min():.6g} to {numbers.max():.6g}"
    return Labels(kind=kind, column=column, said=said)


def _refuse_no_counts(numbers: np.ndarray[Any, np.dtype[np.float64]], column: str) -> None:
    refuse_rows(
        (numbers < 0) | (numbers != np.round(numbers)),
        column,
        "are no counts (whole numbers from 0); give kind='regression'",
    )


# -- several labels of one row ---------------------------------------------------------------


def _is_table(values: Any) -> bool:
    return getattr(values, "ndim", 1) == 2


def _columns(values: Any) -> dict[str, pd.Series[Any]]:
    if not isinstance(values, pd.DataFrame):
        array = values.detach().cpu().numpy() if hasattr(values, "detach") else values
        values = pd.DataFrame(array).rename(columns=lambda at: f"label {at + 1}")
    return {str(name): values.iloc[:, at] for at, name in enumerate(values.columns)}


def _read_several(values: Any, column: str) -> Labels:
    columns = _columns(values)
    if len(columns) < 2:
        raise ColumnError(f"column {column!r}: give one column as a Series, or at least two")
    parts = tuple(read_labels(each, kind="binary", column=name) for name, each in columns.items())
    names = tuple(columns)
    said = f"multilabel: {len(names)} labels: {_shown(names)}"
    return Labels(kind="multilabel", column=column, said=said, classes=names, parts=parts)


def _read_tags(series: pd.Series[Any], column: str) -> Labels:
    text = series.astype(str)
    separator = next(
        (each for each in SEPARATORS if text.str.contains(each, regex=False).any()), ""
    )
    if not separator:
        raise ColumnError(
            f"column {column!r}: no row has several labels; separate them by"
            f" {' or '.join(SEPARATORS)}"
        )
    found = {tag.strip() for each in pd.unique(text) for tag in each.split(separator)} - {""}
    if len(found) > MOST_CLASSES:
        raise ColumnError(
            f"column {column!r} has {len(found)} distinct labels; name another column"
        )
    names = tuple(sorted(found))
    said = f"multilabel: labels between {separator!r}, {len(names)} of them: {_shown(names)}"
    return Labels(
        kind="multilabel", column=column, said=said, classes=names, form="text", separator=separator
    )


def _tags(values: Any, column: str, separator: str, names: Sequence[Class]) -> Tensor:
    from sklearn.preprocessing import MultiLabelBinarizer

    rows = [
        {tag.strip() for tag in each.split(separator)} - {""}
        for each in as_series(values, column).astype(str)
    ]
    known = set(names)
    refuse_rows([not row <= known for row in rows], column, "hold a label that is not known")
    return torch.from_numpy(MultiLabelBinarizer(classes=list(names)).fit_transform(rows)).float()
