"""Makes the reference page of the `heterofed` command from its help texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from docs.generator.docstrings import doc
from docs.generator.markdown import WHOLE_FILE, table
from heterofed.cli import app


def cli_page() -> str:
    """`docs/reference/cli.md`."""
    lines = [WHOLE_FILE, "", "# The `heterofed` command", "", doc(app.cli.callback), ""]
    codes = re.search(r"Exit codes: (.*?)\.$", doc(app), re.MULTILINE | re.DOTALL)
    if codes is None:
        raise ValueError("the docstring of heterofed.cli.app says nothing of exit codes")
    lines += [
        "## Exit codes",
        "",
        table(
            ["code", "meaning"],
            (each.split(" ", 1) for each in " ".join(codes[1].split()).split("; ")),
        ),
        "",
        *_options(app.cli),
    ]
    for name, command in _commands("heterofed", app.cli):
        lines += [f"## {name}", "", doc(command.callback), "", *_options(command)]
    return "\n".join(lines).rstrip() + "\n"


def _commands(path: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """The commands of a group and of the groups in it, with their arguments."""
    for name, command in sorted(group.commands.items()):
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        shown = [each.make_metavar(click.Context(command)) for each in arguments]
        yield " ".join([path, name, *shown]), command
        if isinstance(command, click.Group):
            yield from _commands(f"{path} {name}", command)


def _options(command: click.Command) -> list[str]:
    rows = []
    for option in command.params:
        if isinstance(option, click.Option):
            value = "" if option.is_flag else f" {option.make_metavar(click.Context(command))}"
            names = ", ".join(option.opts)
            default = option.default if isinstance(option.default, str | int | Path) else None
            shown = "" if option.is_flag or default is None else f"`{default}`"
            rows.append([f"`{names}{value}`", shown, option.help or ""])
    return [table(["option", "default", "what"], iter(rows)), ""] if rows else []
