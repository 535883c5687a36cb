"""Keeps the keys of records in `$HETEROFED_HOME/records`, and deletes records by their age.

Each launch has a key of its own. A key is deleted with the newest file that it opens, wherever that
was moved or copied to: without the key nobody can read it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from pathlib import Path

import msgspec

from heterofed.errors import RecordError
from heterofed.files import private_folder, put_in_place, read
from heterofed.runs.records.sealed import key_name_in, name_of
from heterofed.runs.settings import MOST_DAYS

logger = logging.getLogger("heterofed")

FOLDER = "records"
DAY = 86_400.0


class RecordKey(msgspec.Struct, frozen=True):
    """The key of the records of one launch.

    Attributes:
        key: the 32 secret bytes.
        days: the days after which a file is deleted.
        folder: the folder of the record.
    """

    key: bytes
    days: float
    folder: str


def make_key(home: Path, folder: Path, days: float) -> RecordKey:
    """Make the key of a launch.

    Raises:
        ConfigError: the folder of keys is not private.
        RecordError: the key cannot be written.
    """
    made = RecordKey(secrets.token_bytes(32), days, os.fspath(folder))
    path = _path(home, name_of(made.key), make=True)
    try:
        put_in_place(path, lambda file: file.write(msgspec.json.encode(made)))
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}); make room there, or leave out record="
        ) from None
    return made


def note_use(home: Path, key: RecordKey) -> None:
    """Note that another file is written with a key, which is kept for as long as that one."""
    with contextlib.suppress(OSError):
        os.utime(_path(home, name_of(key.key)))


def key_for(home: Path, path: Path) -> RecordKey:
    """Return the key of a file of a record.

    Raises:
        RecordError: the key is not there, or is another one.
    """
    name = key_name_in(path)
    place = _path(home, name)
    found = _read(place)
    if found is None:
        raise RecordError(
            f"the key of {path} is not in {place.parent}: it was deleted by its age, or"
            " HETEROFED_HOME is not the one of the run; set that, or record another run"
        )
    if name_of(found.key) != name:
        raise RecordError(f"{place} holds another key than its name says; bring back the one of it")
    return found


def delete_old(home: Path, now: float | None = None) -> None:
    """Delete all files of records, and all keys, that are older than their users want.

    What cannot be read or deleted is left, so that it does not keep others from being deleted. A
    damaged key opens nothing, and is deleted after `MOST_DAYS`.
    """
    now = time.time() if now is None else now
    places = list[Path]()
    with contextlib.suppress(OSError):
        places = sorted((home / FOLDER).glob("*.json"))
    for place in places:
        with contextlib.suppress(OSError):
            try:
                key = _read(place)
            except RecordError as error:
                logger.warning("%s", error)
                key = RecordKey(b"", MOST_DAYS, "")
            if key is not None:
                _delete_old_of(key, place, now - key.days * DAY)


def _delete_old_of(key: RecordKey, place: Path, before: float) -> None:
    for path in sorted(Path(key.folder).glob("*.record")) if key.folder else ():
        with contextlib.suppress(OSError):
            if _is_older(path, before) and _is_of(path, key):
                path.unlink(missing_ok=True)
    if _is_older(place, before):
        place.unlink(missing_ok=True)


def _read(place: Path) -> RecordKey | None:
    try:
        return msgspec.json.decode(read(place), type=RecordKey)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise RecordError(f"{place} is no key of a record; bring back the one of it") from error


def _is_older(path: Path, than: float) -> bool:
    return path.stat().st_mtime < than


def _is_of(path: Path, key: RecordKey) -> bool:
    try:
        return key_name_in(path) == name_of(key.key)
    except RecordError:
        return False


def _path(home: Path, name: bytes, *, make: bool = False) -> Path:
    return private_folder(home, FOLDER, make=make) / f"{name.hex()}.json"
