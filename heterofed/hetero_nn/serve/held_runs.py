"""Finds the finished runs whose models a party holds, and keeps which of them is to be served.

A new training renames the folder of the run before it to `<folder>.1`, `.2` and so on, so that a
party holds its runs side by side. A run is named by the 16 bytes that are equal at all its parties.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from heterofed.errors import ConfigError
from heterofed.files import own_folder, put_in_place, read, rename_folder, writing
from heterofed.reporting.results import SERVING
from heterofed.runs.artifacts import Trained, Which, read_trained

S = TypeVar("S", bound=msgspec.Struct)

WANTED, SERVED = "wanted.json", "version.json"
"""The names of files in the folder `serving`: of the run to serve, and of what is served."""


class Wanted(msgspec.Struct):
    """The run whose models are to be served; without this file it is the newest.

    Attributes:
        run: the run, 32 hexadecimal digits.
        turn: a number that differs whenever the file is written anew.
    """

    run: str
    turn: int = 0


class Served(msgspec.Struct):
    """The state of a server, which a file tells its operator.

    Attributes:
        run: the run whose models are served, 32 hexadecimal digits.
        version: the version that answers have, 64 hexadecimal digits.
        turn: the number of the last wish that was granted or refused.
        refused: the reason why the wish was refused; empty if it was granted.
    """

    run: str
    version: str
    turn: int = 0
    refused: str = ""


class HeldRuns:
    """The finished runs of one party, and the folder in which its wish is kept.

    Args:
        folder: the results folder of the party.
        which: whether the last or the best models are served.
    """

    def __init__(self, folder: Path, which: Which = "last") -> None:
        self._folder, self._which = folder, which

    def all(self) -> list[Trained]:
        """Return the runs, the newest first.

        Raises:
            ConfigError: a folder is a link or belongs to another user, who could replace the model.
        """
        found = []
        for each in folders_of(self._folder):
            own_folder(each)
            with contextlib.suppress(ConfigError):  # it holds no run that has ended well
                found.append(read_trained(each, self._which))
        return found

    def first(self, before: bytes = b"") -> Trained:
        """Return the run to begin a session with: the one that is wanted, or the newest.

        Args:
            before: the run that this process has served before, if nothing is wanted.

        Raises:
            ConfigError: it is not here, or there is none.
        """
        wish, held = self.wanted(), self.all()
        if wish is not None:
            found = next((each for each in held if each.run.hex() == wish.run), None)
            if found is None:
                raise ConfigError(
                    f"{self._folder} holds no run {wish.run}, which is to be served; bring it"
                    " back, or choose another by `heterofed models use`"
                )
            return found
        held.sort(key=lambda each: each.run != before)  # keeps the order of the others
        return held[0] if held else read_trained(self._folder, self._which)

    def find(self, run: bytes, which: Which | None = None) -> Trained | None:
        """Return a run, if it is here."""
        found = next((each for each in self.all() if each.run == run), None)
        if found is None or which is None or which == found.which:
            return found
        return read_trained(found.folder, which)

    def wanted(self) -> Wanted | None:
        """Return the wish, if there is one."""
        return self._read(WANTED, Wanted)

    def want(self, run: Trained) -> Wanted:
        """Keep the wish that a run be served from now on, and return it.

        Raises:
            ResultsError: it cannot be written.
        """
        before, served = self.wanted(), self.served()
        turn = 1 + max(before.turn if before else 0, served.turn if served else 0)
        wish = Wanted(run.run.hex(), turn)
        self._write(WANTED, wish)
        return wish

    def withdraw(self, wish: Wanted, run: str) -> None:
        """Replace a wish that was refused, so that a server that is started anew begins with `run`.

        Raises:
            ResultsError: it cannot be written.
        """
        if self.wanted() == wish:
            self._write(WANTED, Wanted(run, wish.turn))

    def served(self) -> Served | None:
        """Return what is served, or was when serving ended."""
        return self._read(SERVED, Served)

    def tell(self, served: Served) -> None:
        """Tell the operator what is served.

        Raises:
            ResultsError: it cannot be written.
        """
        self._write(SERVED, served)

    def add(self, folder: Path) -> Trained:
        """Copy the models of a finished run to the runs of this party, and return the copy.

        Raises:
            ConfigError: no run has ended well there, or this party holds it already.
        """
        given = read_trained(folder, self._which)
        if self.find(given.run) is not None:
            raise ConfigError(f"the run {given.run.hex()} of {folder} is here already; use it")
        draft = self._folder.with_name(f".{self._folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        with writing(draft):
            own_folder(draft)
            for each in sorted(folder.iterdir()):
                if each.is_file() and not each.is_symlink():
                    put_in_place(draft / each.name, functools.partial(_copy, each))
            rename_folder(draft, self._next())
        return next(each for each in self.all() if each.run == given.run)

    def _next(self) -> Path:
        numbers = [0, *(number_of(each) for each in folders_of(self._folder))]
        return self._folder.with_name(f"{self._folder.name}.{1 + max(numbers)}")

    def _read(self, name: str, kind: type[S]) -> S | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(read(self._folder / SERVING / name), type=kind)
        return None

    def _write(self, name: str, what: msgspec.Struct) -> None:
        path = self._folder / SERVING / name
        with writing(path):
            own_folder(path.parent)
            put_in_place(path, lambda file: file.write(msgspec.json.encode(what)))


def _copy(path: Path, file: BinaryIO) -> None:
    with path.open("rb") as source:
        shutil.copyfileobj(source, file)


def folders_of(folder: Path) -> Sequence[Path]:
    """Return the folders of a party's runs that exist, the newest first."""
    named = re.compile(re.escape(folder.name) + r"\.[0-9]{1,9}")
    with contextlib.suppress(OSError):
        beside = [each for each in folder.parent.iterdir() if named.fullmatch(each.name)]
        return [each for each in [folder, *sorted(beside, key=number_of)[::-1]] if each.is_dir()]
    return []


def number_of(folder: Path) -> int:
    """Return the number at the end of a folder's name; 0 for the newest run's."""
    last = folder.suffix[1:]
    return int(last) if last.isdigit() else 0
