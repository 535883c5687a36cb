"""The results folder of a run: its names, and how files get into it.

Everything is written inside the folder, and a file appears whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from heterofed.errors import ConfigError
from heterofed.files import (
    make_folder,
    move_aside,
    own_folder,
    put_in_place,
    read,
    rename_folder,
    try_folder,
    writing,
)
from heterofed.protocol.plan import PartyName
from heterofed.reporting.costs import COLUMNS, Account
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.egress import Egress
from heterofed.reporting.task_result import TaskResult

SUMMARY, STATUS = "summary.json", "status.json"

SERVING = "serving"
"""The subfolder of a server of the models: its token, counts and agreed rows."""


def check_name(name: object, what: str) -> str:
    """Check that a name can be the name of a folder.

    Raises:
        ConfigError: the name is no string, is empty, has over 128 characters, or has characters
            that a folder's name may not have.
    """
    try:
        return msgspec.convert(name, PartyName)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{what} {name!r}: use 1 to 128 letters, digits, '_', '-', '.' or spaces, starting and"
            " ending with a letter, digit or '_' (it names a folder)"
        ) from None


def check_writable(folder: Path) -> None:
    """Check that a folder can be made and written, and leave everything unchanged.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        try_folder(nearest)
    except OSError as error:
        raise ConfigError(
            f"the results folder {folder} cannot be written ({nearest}: {error.strerror}); give"
            " another results_dir"
        ) from None


def fresh_folder(folder: Path) -> None:
    """Make a run's folder; an older run's folder is renamed to `<folder>.1`, `.2` and so on.

    What belongs to a server of the models stays, because it goes on with the runs that are there.

    Raises:
        ConfigError: the folder cannot be made.
    """
    try:
        (folder / STATUS).unlink(missing_ok=True)  # it belongs to this launch and is written again
        aside = move_aside(folder)
        own_folder(folder)
        if aside is not None and (aside / SERVING).is_dir():
            rename_folder(aside / SERVING, folder / SERVING)
    except OSError as error:
        raise ConfigError(
            f"the results folder {folder} cannot be made ({error.strerror}); give another"
            " results_dir"
        ) from error


def write_whole(path: Path, write: Callable[[BinaryIO], object], *, anywhere: bool = False) -> Path:
    """Write a file so that it appears whole or not at all, and return its path.

    Args:
        path: the path of the file. An existing file is replaced.
        write: called with the open file to write the content.
        anywhere: whether the user chose the folder, so that it may be a link or another user's. It
            is made if it does not exist.

    Raises:
        ResultsError: the file cannot be written.
        ConfigError: its folder is a link or belongs to another user.
    """
    with writing(path):
        if anywhere:
            make_folder(path.parent)
        return put_in_place(path, write, anywhere=anywhere)


def write_costs(result: TaskResult, account: Account) -> Path:
    """Write `comm.csv` into the results folder: messages, bytes and milliseconds by phase, party
    and direction.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(account.table())
    raw = text.getvalue().encode()
    return write_whole(result.folder / "comm.csv", lambda file: file.write(raw))


def write_egress(result: TaskResult, egress: Egress) -> Path:
    """Write `outbound.csv` into the results folder: what this party sent to each other party."""
    path = result.folder / "outbound.csv"
    with writing(path):
        table = egress.table(path)
    return write_whole(path, lambda file: file.write(table))


def write_summary(result: TaskResult) -> Path:
    """Write `summary.json` into the results folder."""
    text = ""
    with Harmless()("the costs in summary.json"):
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
    raw = (text or json.dumps(result.core(), indent=2)).encode()
    return write_whole(result.folder / SUMMARY, lambda file: file.write(raw))


class _Ended(msgspec.Struct):
    run: str = ""


def ended_run(folder: Path) -> bytes | None:
    """Return the id of the run that was completed in a results folder, or None if none was."""
    try:
        return bytes.fromhex(msgspec.json.decode(read(folder / SUMMARY), type=_Ended).run)
    except (OSError, ValueError):
        return None
