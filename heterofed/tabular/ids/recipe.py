"""Defines id recipes: one short line, used by all parties, that says how ids are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from heterofed.errors import ConfigError
from heterofed.tabular.ids.writing import Writer, writer_of

MAX_KEYS, MAX_PARTS, MAX_REPEATS = 4, 8, 1000

_PART = re.compile(r"([a-z]+)(?::([A-Za-z]+))?")
_JOINED = "\x1f"
_NTH = "\x1e"


@dataclass(frozen=True, slots=True)
class Part:
    """The type of one column of an id, and an option such as a phone number's country."""

    type: str
    option: str = ""

    def __str__(self) -> str:
        return f"{self.type}:{self.option}" if self.option else self.type

    @property
    def writer(self) -> Writer:
        """Return the function that converts a cell to its form."""
        return writer_of(self.type, self.option)


@dataclass(frozen=True, slots=True)
class IdRecipe:
    """The form of the ids of a task; `IdRecipe.parse` reads a recipe, and `str` writes it.

    A recipe is a line such as `text`, `integer`, `phone:CN`, `text:lower+date` (an id of two
    columns), or `phone:CN;email` (two keys: rows that no phone number matches are matched by
    e-mail). With `*3` at the end, up to three rows of the Host's table may have the same id.

    | part | form |
    | --- | --- |
    | `text` | Unicode NFKC without outer spaces and with single inner spaces; case is kept |
    | `text:lower` | the same in lower case |
    | `text:nospace` | the same without any space |
    | `text:alnum` | the same with only letters and digits |
    | `text:exact` | the cell unchanged |
    | `integer` | digits without leading zeros: `00123` becomes `123` |
    | `phone:CN` | international (E.164); numbers without a country are of this country |
    | `email` | lower case |
    | `date:dmy` | `2024-12-31`; `dmy` is for `31.12.2024` (not needed if years come first) |

    Attributes:
        keys: the parts of each key, in the order in which keys are tried.
        repeats: the number of rows of the Host's table that may have the same id.
    """

    keys: tuple[tuple[Part, ...], ...] = ((Part("text"),),)
    repeats: int = 1

    @classmethod
    def parse(cls, line: str) -> IdRecipe:
        """Read a recipe; also one that another party has sent.

        Raises:
            ConfigError: it is none.
        """
        if len(line) > 300 or not line.isprintable():
            raise ConfigError("id recipe: more than 300 letters, or no plain text")
        body, _, times = line.replace(" ", "").partition("*")
        repeats = int(times) if re.fullmatch(r"[0-9]{1,4}", times) else int(not times)
        if not 1 <= repeats <= MAX_REPEATS:
            raise ConfigError(f"id recipe: after * stands a number from 1 to {MAX_REPEATS}")
        keys = tuple(tuple(map(_part, key.split("+"))) for key in body.split(";"))
        if len(keys) > MAX_KEYS or any(len(key) > MAX_PARTS for key in keys):
            raise ConfigError(f"id recipe: at most {MAX_KEYS} keys of {MAX_PARTS} columns each")
        if len(keys) > 1 and repeats > 1:
            raise ConfigError(
                "id recipe: several keys match each row once; *n, many rows of one id, goes with"
                " one key"
            )
        return cls(keys, repeats)

    @classmethod
    def of_columns(cls, count: int) -> IdRecipe:
        """Return the recipe that is used if none is given: text, in so many columns."""
        return cls(((Part("text"),) * count,))

    def __str__(self) -> str:
        keys = ";".join("+".join(map(str, key)) for key in self.keys)
        return f"{keys}*{self.repeats}" if self.repeats > 1 else keys

    @property
    def columns(self) -> int:
        """The number of columns that hold ids, over all keys."""
        return sum(map(len, self.keys))

    def read_as(self, own: IdRecipe | None) -> IdRecipe:
        """Return this recipe with the party's own options for reading phone numbers and dates.

        Args:
            own: this party's recipe; None to use all options of this one.

        Raises:
            ConfigError: the two recipes would write ids differently.
        """
        if own is None:
            return self
        if self._written() != own._written():
            raise ConfigError(
                f"the Host writes ids by the recipe {str(self)!r}, and this party by"
                f" {str(own)!r}; agree on one"
            )
        return IdRecipe(own.keys, self.repeats)

    def improved(self, keys: Sequence[tuple[Part, ...]]) -> IdRecipe | None:
        """Return this recipe with other parts; None if they are the same."""
        found = IdRecipe(tuple(keys), self.repeats)
        return None if found == self else found

    def by_key(self, columns: Sequence[str]) -> list[list[str]]:
        """Return the names of columns by the key to whose parts they belong.

        Raises:
            ConfigError: the number of columns is not that of the recipe's parts.
        """
        if len(columns) != self.columns:
            raise ConfigError(
                f"the id recipe {str(self)!r} needs {self.columns} column(s) of ids, and"
                f" {len(columns)} are named"
            )
        found, start = [], 0
        for key in self.keys:
            found.append(list(columns[start : start + len(key)]))
            start += len(key)
        return found

    def _written(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Return what affects the form of ids; countries and orders of days affect only reading."""
        return tuple(
            tuple((part.type, part.option if part.type == "text" else "") for part in key)
            for key in self.keys
        )


def joined(parts: Sequence[str]) -> str:
    """Return one id from the parts in several columns."""
    return _JOINED.join(parts)


def cells_of(id_: str) -> tuple[list[str], str]:
    """Return the parts of an id in several columns, and what `nth` has appended."""
    body, mark, number = id_.partition(_NTH)
    return body.split(_JOINED), mark + number


def nth(id_: str, number: int) -> str:
    """Return the id of the `number`-th row (from 0) with the same id."""
    return f"{id_}{_NTH}{number + 1}" if number else id_


def plain_id(id_: str) -> str:
    """Return the id without the number of its row."""
    return id_.partition(_NTH)[0]


def _part(text: str) -> Part:
    found = _PART.fullmatch(text)
    if not found:
        raise ConfigError(f"id recipe: {text!r} is no type of an id, such as text or phone:CN")
    part = Part(found[1], found[2] or "")
    if part.type != "phone":
        writer_of(part.type, part.option)
    return part
