"""Makes folders that only this user can enter, and refuses those that others could replace."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from heterofed.errors import ConfigError
from heterofed.files.opened import OTHERS, OTHERS_WRITE, OWN_RESULTS, opened

UNMAPPED = 65534
"""The user id that a container shows for files of a user that it does not have."""

OWN_HOME = "set HETEROFED_HOME to a folder of your own"


def heterofed_home() -> Path:
    """Return `$HETEROFED_HOME` or, if it is not set, the platform's user configuration folder.

    Nothing is created.

    Raises:
        ConfigError: the variable is not set and this user has no home folder.
    """
    named = os.environ.get("HETEROFED_HOME")
    try:
        if named:
            return Path(named).expanduser()
        found = platformdirs.user_config_path("heterofed", appauthor=False)
    except (RuntimeError, KeyError):
        found = Path()
    if not found.is_absolute():
        raise ConfigError(f"this user has no home folder: {OWN_HOME}")
    return found


def private_folder(home: Path, *within: str, make: bool = True) -> Path:
    """Return a folder in `home` that only this user can enter. It is checked at each call.

    Args:
        home: `$HETEROFED_HOME`, or another folder of this user.
        within: the names of the folder and of its parents below `home`; empty for `home` itself.
        make: whether to make missing folders. If False, the path is returned without a check.

    Raises:
        ConfigError: the folder cannot be made, is a link, belongs to another user, or could be
            replaced by another user.
    """
    path = home.absolute()
    try:
        for name in ("", *within):
            path = path / name
            if make:
                make_folder(path)
            elif not os.path.lexists(path):
                return home.absolute().joinpath(*within)
            with opened(path, OWN_HOME, tighten=OTHERS if name else OTHERS_WRITE):
                pass
            if not name:
                _check_above(path)
    except OSError as error:
        raise ConfigError(f"cannot use {path} ({error.strerror}): {OWN_HOME}") from None
    return path


def own_folder(path: Path) -> Path:
    """Make a folder of results, or check that an existing one is this user's and no link.

    Raises:
        ConfigError: the folder is a link or belongs to another user.
        OSError: the folder cannot be made.
    """
    make_folder(path)
    with opened(path, OWN_RESULTS, tighten=OTHERS_WRITE):
        return path


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents; existing folders are not changed.

    Raises:
        OSError: a folder cannot be made.
    """
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process made it
            each.mkdir(mode=0o700)
            if stat.S_IMODE(each.lstat().st_mode) & 0o777 != 0o700:  # the umask took some
                each.chmod(0o700)


def move_aside(folder: Path) -> Path | None:
    """Rename a folder to `<folder>.1`, `.2` and so on; an empty folder is removed instead.

    Returns:
        Where the content is now; None if there was none.

    Raises:
        OSError: the folder cannot be renamed.
    """
    with contextlib.suppress(OSError):
        folder.rmdir()
    if os.path.lexists(folder):
        number = 1
        while os.path.lexists(aside := folder.with_name(f"{folder.name}.{number}")):
            number += 1
        return folder.rename(aside)
    return None


def rename_folder(folder: Path, to: Path) -> Path:
    """Rename a folder of heterofed, and return its new path.

    Raises:
        OSError: the folder cannot be renamed.
    """
    return folder.rename(to)


def try_folder(folder: Path) -> None:
    """Check that files can be made in a folder, and leave it unchanged.

    Raises:
        OSError: files cannot be made there.
    """
    Path(tempfile.mkdtemp(dir=folder, prefix=".heterofed-")).rmdir()


def _check_above(path: Path) -> None:
    """Refuse a path if another user could replace a part of it.

    Raises:
        ConfigError: another user could; the message names the folder that allows it.
    """
    if os.name != "posix":
        return
    for chain in {path, path.resolve()}:
        for folder in reversed(chain.parents):
            found = folder.stat()
            if found.st_uid not in (0, os.geteuid(), UNMAPPED) or _others_may_rename(found):
                raise ConfigError(
                    f"other users of this machine could replace {path}, because they may change"
                    f" {folder}: remove that permission (chmod go-w), or {OWN_HOME}"
                )
            if not found.st_mode & 0o011:
                break  # other users cannot enter the folders below


def _others_may_rename(folder: os.stat_result) -> bool:
    """Return whether others may replace files in a folder; in a sticky one like `/tmp` they may
    not.
    """
    if folder.st_mode & stat.S_ISVTX:
        return False
    by_group = folder.st_mode & 0o020 and not _is_of_one(folder.st_gid)
    return bool(folder.st_mode & 0o002 or by_group)


def _is_of_one(group: int) -> bool:
    """Return whether this user is the only member of a group, as of a user's private group."""
    import grp
    import pwd

    try:
        name, members = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return members.gr_name == name and set(members.gr_mem) <= {name}
