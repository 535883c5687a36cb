"""The steps that suit a table's columns, where nobody has chosen any."""

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
    """A column as a look at its table found it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def kind(self) -> Kind:
        """What it holds."""


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
    """Steps for columns, by their kinds; those that hold one value, or ids, are left out.

    Args:
        columns: with `name` and `kind`, as `heterofed.tabular.inspect` finds them.
        linear: for a model that adds up its inputs: categories then get a number each instead of an
            embedding.
    """
    kinds = {each.kind for each in columns}
    steps = [step for kind, steps in STEPS.items() if kind in kinds for step in steps]
    if "tags" in kinds:  # few different tags are so many numbers
        steps = [SpreadTags, *(each for each in steps if each not in _NUMBERS), *_NUMBERS]
    return [OneHot() if linear and step is Embed else step() for step in steps]
