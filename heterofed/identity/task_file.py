"""Reads, checks and writes task files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from heterofed.errors import ConfigError
from heterofed.identity.task_terms import (
    LIMITS,
    MAX_TERMS_BYTES,
    NOT_AGREED,
    Member,
    TaskFile,
    agreed_fields,
)
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.protocol.plan import Plan, wrong_with_sites
from heterofed.transport.zeromq.zap import check_key

MAX_FILE_BYTES = 1 << 18

_HOST = r"(?:[A-Za-z0-9_.\-]+|\[[0-9A-Fa-f:.%a-z]+\])"
_ADDRESS = re.compile(rf"tcp://{_HOST}:(\d{{1,5}})", re.ASCII)
_BIND = re.compile(rf"tcp://(?:\*|{_HOST}):(\d{{1,5}})", re.ASCII)


def task_path(task: str, home: Path) -> Path:
    """Return the path of a task's file, whether it exists or not."""
    return home / "tasks" / f"{task}.toml"


def known_tasks(home: Path) -> list[str]:
    """Return the ids of the tasks that have a file."""
    return sorted(path.stem for path in (home / "tasks").glob("*.toml"))


def known_task(task: str, home: Path) -> TaskFile | None:
    """Return the task with this id, or None if it has no file.

    Raises:
        ConfigError: the file cannot be used.
    """
    path = task_path(task, home)
    return load_task(path) if path.exists() else None


def load_task(path: Path) -> TaskFile:
    """Read and check a task file.

    Raises:
        ConfigError: the file cannot be read, or a field that the message names is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the task file {path} cannot be read ({error.strerror}): give a task id, or the path"
            " of a task file"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            f"the task file {path} is larger than {MAX_FILE_BYTES} bytes; give a file that"
            " `heterofed task new` has written"
        )
    try:
        raw = msgspec.toml.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"the task file {path} is not valid TOML: {error}; correct that line"
        ) from None
    return check_task(raw, str(path))


def check_task(raw: dict[str, Any], where: str) -> TaskFile:
    """Build a task file from the content of a TOML file.

    Raises:
        ConfigError: a field is wrong; the message names it and `where`.
    """
    for unknown, known, table in _unknown_fields(raw):
        near = difflib.get_close_matches(unknown, known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise ConfigError(f"{where}: unknown field {unknown!r} in {table}; {remedy}")
    try:
        task = msgspec.convert(raw, TaskFile)
        plan = task.make_plan()
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}; correct that field") from None
    if problem := wrong_with_sites(plan):
        raise ConfigError(f"{where}: {problem}; correct sites in [plan]")
    _check_members(task, where)
    _check_addresses(task, where)
    if len(task.terms()) > MAX_TERMS_BYTES:
        raise ConfigError(
            f"{where}: its terms are longer than {MAX_TERMS_BYTES} bytes; shorten names, or list"
            " fewer parties"
        )
    return task


def _unknown_fields(raw: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str]]:
    plan = [name for name in Plan.__struct_fields__ if name not in (*NOT_AGREED, LIMITS)]
    members = raw.get("collaborators")
    tables: list[tuple[str, object, list[str]]] = [
        ("the file", raw, list(TaskFile.__struct_fields__)),
        ("[host]", raw.get("host"), list(Member.__struct_fields__)),
        *(
            ("[[collaborators]]", each, list(Member.__struct_fields__))
            for each in (members if isinstance(members, list) else [])
        ),
        ("[plan]", raw.get("plan"), plan),
        ("[limits]", raw.get("limits"), list(LeakLimits.__struct_fields__)),
    ]
    for name, table, known in tables:
        if isinstance(table, dict):
            yield from ((each, known, name) for each in table if each not in known)


def _check_members(task: TaskFile, where: str) -> None:
    for what, values in (
        ("party", [each.party for each in task.members]),
        ("key", [each.key for each in task.members if each.key]),
        ("signing key", [each.signing for each in task.members if each.signing]),
    ):
        if len(set(values)) != len(values):
            raise ConfigError(f"{where}: two parties have the same {what}; give each its own")
    for each in task.members:
        if each.key is not None:
            check_key(each.key, f"{where}: the key of {each.party}")
        elif not task.is_keyless:
            raise ConfigError(
                f"{where}: {each.party} has no key; ask {each.party} for the first line of"
                f" `heterofed keys show {each.party}`"
            )

    _check_all_sign(task, where)


def _check_all_sign(task: TaskFile, where: str) -> None:
    silent = [each.party for each in task.members if each.signing is None]
    if 0 < len(silent) < len(task.members):
        raise ConfigError(
            f"{where}: some parties have a signing key, and {', '.join(silent)} has none; add what"
            f" `heterofed keys signing {silent[0]}` prints there, or remove the others'"
        )


def _check_addresses(task: TaskFile, where: str) -> None:
    forms = [("address", task.address, _ADDRESS, "tcp://bank.example:7300")]
    if task.bind is not None:
        forms.append(("bind", task.bind, _BIND, "tcp://*:7300"))
    for name, value, form, example in forms:
        found = form.fullmatch(value)
        if found is None or not 0 < int(found[1]) < 65536:
            raise ConfigError(
                f"{where}: {name} {value!r} is not an address such as {example}; correct it"
            )


def render(task: TaskFile) -> str:
    """Return the text of a task file, with all fields of the plan."""
    plan = agreed_fields(task.make_plan())
    limits = plan.pop(LIMITS, {})
    lines = [
        "# A task of heterofed: the terms that its parties agreed on. Nothing in it is secret.",
        *_rows(
            format=task.format,
            task=task.task,
            purpose=task.purpose,
            expires=task.expires,
        ),
        "",
        "# The address at which Collaborators reach the Host; `bind` is set if it listens"
        " elsewhere.",
        *_rows(address=task.address, bind=task.bind),
        "",
        "# Public keys that you no longer trust; a task that needs one of them does not start.",
        *_rows(revoked=list(task.revoked)),
        "",
        "[host]",
        *_rows(**msgspec.structs.asdict(task.host)),
        *(
            line
            for each in task.collaborators
            for line in ("", "[[collaborators]]", *_rows(**msgspec.structs.asdict(each)))
        ),
        "",
        "[plan]",
        *_rows(**plan),
        *(
            ["", "# What each party enforces before anything is sent.", "[limits]"]
            if limits
            else []
        ),
        *_rows(**limits),
    ]
    return "\n".join(lines) + "\n"


def _rows(**fields: Any) -> Iterable[str]:
    """Return fields as lines of TOML, without those that are None."""
    return [f"{name} = {_toml(value)}" for name, value in fields.items() if value is not None]


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            # TOML has the escapes of JSON.
            return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(_toml(each) for each in value)}]"
        case dict():
            return f"{{ {', '.join(f'{name} = {_toml(each)}' for name, each in value.items())} }}"
        case _:
            return str(value)
