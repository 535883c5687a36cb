"""Chooses steps that suit a table's columns, if the user has chosen none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from heterofed.tabular.kinds import Kind
from heterofed.tabular.prepare.categories import Embed, OneHot
from heterofed.tabular.prepare.numbers import Impute, Scale
from heterofed.tabular.prepare.preparation import Step
from heterofed.tabular.prepare.spread import SpreadTags
from heterofed.tabular.prepare.tokens import HashText, Tags
from heterofed.tabular.prepare.truths import Booleans, Dates


class Described(Protocol):
    """A column as it was found in its table."""

    @property
    def name(self) -> str:
        """The name of the column."""

    @property
    def kind(self) -> Kind:
        """The kind of its values."""


_NUMBERS: tuple[type[Step], ...] = (Impute, Scale)

STEPS: dict[Kind, tuple[type[Step], ...]] = {
    "numeric": _NUMBERS,
    "boolean": (Booleans,),
    "category": (Embed,),
    "date": (Dates,),
    "text": (HashText,),
    "tags": (Tags,),
}


def choose(columns: Iterable[Described], *, linear: bool = False) -> list[Step]:
    """Return steps for columns by their kinds; columns with one value or with ids are left out.

    Args:
        columns: the columns with `name` and `kind`, as `heterofed.tabular.inspect` finds them.
        linear: whether the model adds up its inputs; then each category gets a number instead of an
            embedding.
    """
    kinds = {each.kind for each in columns}
    steps = [step for kind, steps in STEPS.items() if kind in kinds for step in steps]
    if "tags" in kinds:  # a few different tags become that many numbers
        steps = [SpreadTags, *(each for each in steps if each not in _NUMBERS), *_NUMBERS]
    return [OneHot() if linear and step is Embed else step() for step in steps]
