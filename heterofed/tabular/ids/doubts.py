"""Finds signs that ids are not what they seem: zeros, exponents, spaces, case.

Phone numbers, e-mail addresses and dates are such signs too, because there is more than one form of
them. Each cell could still be an id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from heterofed.errors import IdError
from heterofed.tabular.ids.recipe import Part
from heterofed.tabular.ids.writing import EXPONENT

_FRACTION = re.compile(r"[-+]?\d+\.0+")
_PADDED = re.compile(r"0\d+")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")
_PHONE = re.compile(r"[+(\d][\d\s().\-/]{5,28}\d")
_EMAIL = re.compile(r"(mailto:)?[^@\s]+@[^@\s]+\.[^@\s]+", re.IGNORECASE)


class Doubts:
    """Counts the signs in the cells of the ids.

    Args:
        name: the name of the table.
        columns: the columns that hold the ids.
        parts: the types of their values.
    """

    def __init__(self, name: str, columns: Sequence[str], parts: Sequence[Part]) -> None:
        self._name, self._columns = name, columns
        self._as_text = [part.type == "text" for part in parts]
        self._exponent: tuple[int, int] | None = None
        self._exponents = self._fractions = self._padded = 0
        self._spaces = self._upper = self._lower = self._numbers = 0
        self._phones = self._emails = self._dates = 0

    def look(self, row: int, at: int, cell: str) -> None:
        """Count the signs in one cell."""
        if not self._as_text[at]:
            return
        if cell[:1].isdigit() or cell[:1] in "+-":
            self._numbers += 1
            if EXPONENT.fullmatch(cell):
                self._exponents += 1
                self._exponent = self._exponent or (row, at)
            elif _FRACTION.fullmatch(cell):
                self._fractions += 1
            elif _PADDED.fullmatch(cell):
                self._padded += 1
        self._look_at_form(cell.strip())
        self._spaces += cell != cell.strip()
        self._upper += cell != cell.lower()
        self._lower += cell != cell.upper()

    def _look_at_form(self, cell: str) -> None:
        """Count a text that has one of several forms; plain digits may be anything."""
        if cell.isdigit() or cell.isalpha():
            return
        if "@" in cell:
            self._emails += _EMAIL.fullmatch(cell) is not None
        elif _DATE.fullmatch(cell):
            self._dates += 1
        elif _PHONE.fullmatch(cell):
            digits = sum(map(str.isdigit, cell))
            self._phones += 7 <= digits <= 15 and (cell[0] in "+(" or digits >= 10)

    def check(self, rows: int) -> None:
        """Refuse ids that have lost digits.

        Raises:
            IdError: some of the ids are numbers, and some of these are written like 1.0E+05.
        """
        if self._exponent and self._exponents + self._fractions > 0.5 * rows:
            self._refuse()
        if self._exponent and self._numbers >= rows:
            self._refuse()
        if self._fractions and self._fractions >= 0.5 * rows:
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

    def notes(self) -> tuple[str, ...]:
        """Return remarks for the user, with the recipe that would help, without ids and names of
        columns.
        """
        found = []
        if self._exponents:
            found.append(
                f"{self._exponents} ids are written like 1.0E+05: a spreadsheet may have dropped"
                " their last digits; export that column as text"
            )
        if self._fractions:
            found.append(
                f"{self._fractions} ids are written like 123.0: whole numbers that were read as"
                " fractions; the recipe integer drops the .0"
            )
        if self._padded:
            found.append(
                f"{self._padded} ids have zeros in front (00123): a party that keeps them as"
                " numbers writes 123, and misses; the recipe integer makes both the same"
            )
        if self._spaces:
            found.append(f"{self._spaces} ids have spaces around them; the recipe text drops them")
        found += [
            f"{count} ids look like {what}; the recipe {recipe} makes all forms of one the same"
            for count, what, recipe in (
                (self._phones, "phone numbers", "phone:CN (with your country)"),
                (self._emails, "e-mail addresses", "email"),
                (self._dates, "dates", "date (or date:dmy, date:mdy)"),
            )
            if count
        ]
        if self._upper and self._lower and not self._emails:
            found.append("ids have upper and lower case: where case means nothing, use text:lower")
        return tuple(found)
