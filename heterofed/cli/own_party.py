"""Finds out which party of a task this machine is, from its keys and its task files."""

from __future__ import annotations

from collections.abc import Sequence

from heterofed.errors import ConfigError
from heterofed.files import heterofed_home
from heterofed.identity.keys import key_path
from heterofed.identity.task_file import known_task
from heterofed.identity.task_terms import TaskFile
from heterofed.protocol.plan import Plan
from heterofed.reporting.results import check_name


def name_in(task: str, party: str | None, role: str, *, is_host: bool) -> str:
    """Return the name under which this party takes part in a task.

    Args:
        task: the id of the task.
        party: the name that was given, or None to find it out.
        role: the name in a task without a task file.
        is_host: whether this party takes part as the Host.

    Raises:
        ConfigError: the task id cannot be one; or the task file has several parties of this role,
            and this machine has the key of none of them, or of several.
    """
    check_name(task, "task id")
    if party is not None:
        return party
    found = known_task(task, heterofed_home())
    if found is None:
        return role
    if is_host:
        return found.host.party
    return _here(found, [each.party for each in found.collaborators])


def terms_of(task: str) -> Plan | None:
    """Return the terms of a task's file, or None if there is no file.

    Raises:
        ConfigError: the file cannot be read.
    """
    found = known_task(check_name(task, "task id"), heterofed_home())
    return found.make_plan() if found else None


def own_party(task: TaskFile) -> str:
    """Return the party of a task whose key is on this machine.

    Raises:
        ConfigError: this machine has the key of no party, or of several.
    """
    return _here(task, [each.party for each in task.members])


def _here(task: TaskFile, names: Sequence[str]) -> str:
    home = heterofed_home()
    mine = [each for each in names if key_path(each, home).exists()]
    if len(mine) == 1 or len(names) == 1:
        return (mine or names)[0]
    why = f"there are several here ({', '.join(mine)})" if mine else "there is none here"
    raise ConfigError(
        f"which party of task {task.task!r} is this? Of the keys of {', '.join(names)} {why}; say"
        " it with --party, or make a key with `heterofed keys new`"
    )
