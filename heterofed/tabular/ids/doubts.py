"""Finds signs that ids are not what they seem: zeros, exponents, spaces, case.

Phone numbers, e-mail addresses and dates are such signs too, because there is more than one form of
them. Each cell could still be an id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from heterofed.errors import IdError
from heterofed.tabular.ids.recipe import Part
from heterofed.tabular.ids.writing import EXPONENT

_FRACTION = re.compile(r"[-+]?\d+\.0+")
_PADDED = re.compile(r"0\d+")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")
_GROUPED = re.compile(r"\d+([\s\-./]+(\d+[Xx]?|[Xx])){2,}")
_PHONE = re.compile(r"[+(\d][\d\s().\-/]{5,28}\d")
_EMAIL = re.compile(r"(mailto:)?[^@\s]+@[^@\s]+\.[^@\s]+", re.IGNORECASE)


@dataclass(slots=True)
class _Signs:
    """The numbers of cells with each sign in one column of ids that are read as text."""

    cells: int = 0
    numbers: int = 0
    digits: int = 0
    exponents: int = 0
    fractions: int = 0
    padded: int = 0
    spaces: int = 0
    upper: int = 0
    lower: int = 0
    phones: int = 0
    emails: int = 0
    dates: int = 0
    grouped: int = 0
    """Digits in three groups or more, with spaces or signs between them."""
    parted: int = 0
    """Other cells with digits and spaces between their characters."""

    def look(self, cell: str) -> bool:
        """Count the signs in one cell; return whether it is a number with an exponent."""
        self.cells += 1
        exponent = False
        if cell[:1].isdigit() or cell[:1] in "+-":
            self.numbers += 1
            if EXPONENT.fullmatch(cell):
                exponent = True
                self.exponents += 1
            elif _FRACTION.fullmatch(cell):
                self.fractions += 1
            elif _PADDED.fullmatch(cell):
                self.padded += 1
        stripped = cell.strip()
        self._look_at_form(stripped)
        self.spaces += cell != stripped
        self.upper += cell != cell.lower()
        self.lower += cell != cell.upper()
        return exponent

    def _look_at_form(self, cell: str) -> None:
        """Count a text that has one of several forms; plain digits may be anything."""
        if cell.isdigit():
            self.digits += 1
        elif cell.isalpha():
            pass
        elif "@" in cell:
            self.emails += _EMAIL.fullmatch(cell) is not None
        elif _DATE.fullmatch(cell):
            self.dates += 1
        elif self._is_phone(cell):
            self.phones += 1
        elif _GROUPED.fullmatch(cell):
            self.grouped += 1
        elif any(map(str.isdigit, cell)):
            self.parted += len(cell.split()) > 1

    def _is_phone(self, cell: str) -> bool:
        digits = sum(map(str.isdigit, cell)) if _PHONE.fullmatch(cell) else 0
        return 7 <= digits <= 15 and (cell[0] in "+(" or digits >= 10)

    def add(self, other: _Signs) -> None:
        """Add the counts of another column."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def has_two_cases(self) -> bool:
        """Whether upper and lower case could mean the same; addresses have a form of their own."""
        return bool(self.upper and self.lower and not self.emails)

    def better(self, part: Part) -> Part:
        """Return the part of a recipe that makes the forms of such cells one; `part` if it does,
        or if nothing else could read all of them.
        """
        for fitting, found in (
            (self.phones, Part("phone", "CN")),
            (self.emails, Part("email")),
            (self.dates, Part("date")),
        ):
            if self.cells and fitting == self.cells:
                return found
        if (self.padded or self.fractions) and self.digits + self.fractions == self.cells:
            return Part("integer")
        if self.grouped and part.option != "alnum":
            return Part("text", "alnum")
        if self.parted and part.option in _KEEPING_SPACES:
            return Part("text", "nospace")
        if self.has_two_cases and part.option in _KEEPING_CASE:
            return Part("text", "lower")
        if self.spaces and part.option == "exact":
            return Part("text")
        return part


_KEEPING_CASE = ("", "exact")
"""The options of text for which upper and lower case differ."""

_KEEPING_SPACES = (*_KEEPING_CASE, "lower")
_KEEPING_SIGNS = (*_KEEPING_SPACES, "nospace")
"""The options of text that keep single spaces inside, and hyphens, dots and slashes."""


class Doubts:
    """Counts the signs in the cells of the ids.

    Args:
        name: the name of the table.
        columns: the columns that hold the ids.
        parts: the types of their values.
    """

    def __init__(self, name: str, columns: Sequence[str], parts: Sequence[Part]) -> None:
        self._name, self._columns, self._parts = name, columns, parts
        self._signs = [_Signs() if part.type == "text" else None for part in parts]
        self._exponent: tuple[int, int] | None = None

    def look(self, row: int, at: int, cell: str) -> None:
        """Count the signs in one cell."""
        signs = self._signs[at]
        if signs is not None and signs.look(cell):
            self._exponent = self._exponent or (row, at)

    def check(self, rows: int) -> None:
        """Refuse ids that have lost digits.

        Raises:
            IdError: some of the ids are numbers, and some of these are written like 1.0E+05.
        """
        found = self._total()
        if self._exponent and found.exponents + found.fractions > 0.5 * rows:
            self._refuse()
        if self._exponent and found.numbers >= rows:
            self._refuse()
        if found.fractions and found.fractions >= 0.5 * rows:
            raise IdError(
                f"{self._name}, column {self._columns[0]!r}: ids are written like 123.0, as whole"
                " numbers that were read as fractions; use the id recipe integer"
            )

    def _refuse(self) -> None:
        row, at = self._exponent or (0, 0)
        raise IdError(
            f"{self._name}, row {row + 1}, column {self._columns[at]!r}: the id is written like"
            " 1.0E+05: a spreadsheet has turned ids into numbers and dropped digits; export the"
            " table again with that column as text"
        )

    def _total(self, *options: str) -> _Signs:
        """Return the counts of all columns, or of those of text with one of these options."""
        total = _Signs()
        for part, signs in zip(self._parts, self._signs, strict=True):
            if signs is not None and (not options or part.option in options):
                total.add(signs)
        return total

    def better(self) -> tuple[Part, ...]:
        """Return the parts of a recipe that suits these ids better, or their own parts."""
        return tuple(
            part if signs is None else signs.better(part)
            for part, signs in zip(self._parts, self._signs, strict=True)
        )

    @property
    def remain(self) -> bool:
        """Whether another party could write the same ids in a form that does not match."""
        all_, exact, kept = self._total(), self._total("exact"), self._total(*_KEEPING_CASE)
        forms = all_.exponents + all_.fractions + all_.padded + all_.phones + all_.dates
        inside = self._total(*_KEEPING_SIGNS).grouped + self._total(*_KEEPING_SPACES).parted
        return bool(forms + inside + exact.spaces + kept.emails) or kept.has_two_cases

    def notes(self) -> tuple[str, ...]:
        """Return remarks for the user, with the recipe that would help, without ids and names of
        columns.
        """
        total, kept, found = self._total(), self._total(*_KEEPING_CASE), []
        if total.exponents:
            found.append(
                f"{total.exponents} ids are written like 1.0E+05: a spreadsheet may have dropped"
                " their last digits; export that column as text"
            )
        if total.fractions:
            found.append(
                f"{total.fractions} ids are written like 123.0: whole numbers that were read as"
                " fractions; the recipe integer drops the .0"
            )
        if total.padded:
            found.append(
                f"{total.padded} ids have zeros in front (00123): a party that keeps them as"
                " numbers writes 123, and misses; the recipe integer makes both the same"
            )
        if spaces := self._total("exact").spaces:
            found.append(f"{spaces} ids have spaces around them; the recipe text drops them")
        if grouped := self._total(*_KEEPING_SIGNS).grouped:
            found.append(
                f"{grouped} ids have spaces or signs between their digits (12-34-56): a party that"
                " writes none misses them; the recipe text:alnum makes both the same"
            )
        if parted := self._total(*_KEEPING_SPACES).parted:
            found.append(
                f"{parted} ids have spaces inside: a party that writes none misses them; the recipe"
                " text:nospace makes both the same"
            )
        found += [
            f"{count} ids look like {what}; the recipe {recipe} makes all forms of one the same"
            for count, what, recipe in (
                (total.phones, "phone numbers", "phone:CN (with your country)"),
                (kept.emails, "e-mail addresses", "email"),
                (total.dates, "dates", "date (or date:dmy, date:mdy)"),
            )
            if count
        ]
        if kept.has_two_cases:
            found.append(
                f"{kept.upper} ids have upper case and {kept.lower} lower case: where case means"
                " nothing, use text:lower"
            )
        return tuple(found)
