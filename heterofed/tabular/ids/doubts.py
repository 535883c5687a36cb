"""What looks wrong with ids, though each by itself could be one: zeros, exponents, spaces, case."""

from __future__ import annotations

import re
from collections.abc import Sequence

from heterofed.errors import IdError
from heterofed.tabular.ids.recipe import Part
from heterofed.tabular.ids.writing import EXPONENT

_FRACTION = re.compile(r"[-+]?\d+\.0+")
_PADDED = re.compile(r"0\d+")


class Doubts:
    """Counts what is seen in the cells of the ids.

    Args:
        name: of the table.
        columns: that hold the ids.
        parts: their types.
    """

    def __init__(self, name: str, columns: Sequence[str], parts: Sequence[Part]) -> None:
        self._name, self._columns = name, columns
        self._as_text = [part.type == "text" for part in parts]
        self._exponent: tuple[int, int] | None = None
        self._exponents = self._fractions = self._padded = 0
        self._spaces = self._wide = self._upper = self._lower = self._numbers = 0

    def look(self, row: int, at: int, cell: str) -> None:
        """Count one cell."""
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
        self._spaces += cell != cell.strip()
        self._wide += not cell.isascii()
        self._upper += cell != cell.lower()
        self._lower += cell != cell.upper()

    def check(self, rows: int) -> None:
        """Refuse ids that have lost digits.

        Raises:
            IdError: some, among ids that are numbers, are written like 1.0E+05.
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
        """What to tell a person, and the recipe that would help."""
        found = []
        if self._padded:
            found.append(
                f"{self._padded} ids have zeros in front (00123): a party that keeps them as"
                " numbers writes 123, and misses; the recipe integer makes both the same"
            )
        if self._spaces:
            found.append(f"{self._spaces} ids have spaces around them; the recipe text drops them")
        if self._upper and self._lower:
            found.append("ids have upper and lower case: where case means nothing, use text:lower")
        return tuple(found)
