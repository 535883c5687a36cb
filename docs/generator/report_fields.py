"""Describes the report's files: the fields of `report.json` and of `evaluation.json`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec

from docs.generator.docstrings import doc, entries, sections
from docs.generator.markdown import table
from heterofed.report import evaluation, model

STRUCTS: list[type[msgspec.Struct]] = [
    *(
        each
        for each in vars(model).values()
        if isinstance(each, type) and each.__module__ == model.__name__
    ),
    evaluation.Evaluation,
    evaluation.Interval,
    evaluation.Drawn,
    evaluation.Cells,
]


def field_table(struct: type[msgspec.Struct]) -> str:
    """The fields of a struct that files hold, as its annotations and docstring have them."""
    told: dict[str, str] = {}
    for names, what in entries(sections(doc(struct)).get("Attributes", "")):
        told |= dict.fromkeys(names.split(", "), what)
    columns = 3 if told else 2
    rows = (
        [f"`{name}`", f"`{kind}`", told.get(name, "")][:columns]
        for name, kind in struct.__annotations__.items()
    )
    return table(["field", "type", "meaning"][:columns], rows)


def pieces() -> dict[str, Callable[[], str]]:
    """A table for each struct, by the name of its piece."""
    return {
        f"report-{struct.__name__.lower()}": functools.partial(field_table, struct)
        for struct in STRUCTS
    }
