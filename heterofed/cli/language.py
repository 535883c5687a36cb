"""Speaks the language of the user, which the environment names; English where there is no other.

Translated are the help of the command, with what click itself says, the sentences that the command
prints (see `sentences`), and what an error means: the docstring of its class, which is printed
after a message that has no translation. Logs stay in English. gettext reads the translations in
`locale/`. Where one is missing, the text stays as it is.

HETEROFED_LANG chooses the language; without it LANGUAGE, LC_ALL, LC_MESSAGES and LANG do, in this
order.
"""

from __future__ import annotations

import gettext
import inspect
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from heterofed.reporting.wrapping import broken, columns_in

DOMAIN = "heterofed"
LOCALE = Path(__file__).parent / "locale"
VARIABLE = "HETEROFED_LANG"

CLICK = (
    "Aborted!",
    "Choose from:\n\t{choices}",
    "Commands",
    "Do you want to continue?",
    "Error: {message}",
    "Invalid value for {param_hint}: {message}",
    "Missing argument",
    "Missing command.",
    "Missing option",
    "No such command {name!r}.",
    "No such option {name!r}.",
    "Options",
    "Show the version and exit.",
    "Show this message and exit.",
    "Try '{command} {option}' for help.",
    "Usage:",
    "default: {default}",
    "directory",
    "file",
    "path",
    "required",
    "{name} {filename!r} does not exist.",
    "{name} {filename!r} is a directory.",
    "{name} {filename!r} is a file.",
    "{value!r} is not a valid {number_type}.",
    "{value} is not in the range {range}.",
)
"""Texts of click that users of the command see most; click looks them up in our catalogue too."""

CLICK_SUGGESTS = ("Did you mean {possibility}?", "(Did you mean one of: {possibilities}?)")
"""The same of one name, and of several."""


class WideFormatter(click.HelpFormatter):
    """Lays out help whose characters take two columns and have no spaces between words."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the line that shows how the command is called."""
        first = f"{gettext.gettext('Usage:') if prefix is None else prefix.strip()} {prog} "
        self._write(args, self.current_indent, columns_in(first), first)

    def write_heading(self, heading: str) -> None:
        """Write a heading."""
        self.write(f"{'':{self.current_indent}}{heading}：\n")

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        for number, paragraph in enumerate(text.split("\n\n")):
            self.write("\n" if number else "")
            self._write(" ".join(paragraph.split()), self.current_indent)

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write names in a column on the left, and what each of them means at the right."""
        rows = list(rows)
        room = min(max(columns_in(name) for name, _ in rows), col_max) + col_spacing
        for name, meaning in rows:
            fits = columns_in(name) <= room - col_spacing
            if not fits:
                self.write(f"{'':{self.current_indent}}{name}\n")
            self._write(meaning, self.current_indent, room, name if fits else "")

    def _write(self, text: str, indent: int, hanging: int = 0, first: str = "") -> None:
        """Write a paragraph; `first` stands before its first line, in `hanging` columns."""
        lines = broken(text, self.width - indent - hanging) or [""]
        margin = " " * (hanging - columns_in(first))
        self.write(f"{'':{indent}}{first}{margin}{lines[0]}".rstrip() + "\n")
        for line in lines[1:]:
            self.write(f"{'':{indent + hanging}}{line}\n")


class WideContext(click.Context):
    """Shows help by `WideFormatter`."""

    formatter_class = WideFormatter


def meaning(kind: type[BaseException]) -> str:
    """Return what a class says of itself, on one line: the text that is translated."""
    return " ".join((vars(kind).get("__doc__") or "").split())


def explanation(error: BaseException) -> str | None:
    """Return what the error means and what to do, or None where no translation is there."""
    catalogue = gettext.translation(DOMAIN, LOCALE, fallback=True)
    for text in filter(None, map(meaning, type(error).__mro__)):
        if (translated := catalogue.gettext(text)) != text:
            return translated
    return None


def parts(command: click.Command) -> Iterator[Any]:
    """Yield a command, its options, and the same of all commands in it."""
    yield command
    # With `--help`, which click makes when it is first asked for.
    options = command.get_params(click.Context(command))
    yield from (each for each in options if isinstance(each, click.Option))
    for each in getattr(command, "commands", {}).values():
        yield from parts(each)


def help_text(part: Any) -> str:
    """Return the help of a command or an option as it is translated: one line for a paragraph."""
    paragraphs = inspect.cleandoc(part.help or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


@contextmanager
def users_language(command: click.Command) -> Iterator[None]:
    """Give a command its help in the language of the user, within this block."""
    translatable = list(parts(command))  # in English: click says some of it by gettext itself
    domain = gettext.textdomain()
    gettext.bindtextdomain(DOMAIN, LOCALE)
    gettext.textdomain(DOMAIN)
    with ExitStack() as before:
        before.callback(gettext.textdomain, domain)
        if chosen := os.environ.get(VARIABLE):
            before.callback(_set_language, os.environ.get("LANGUAGE"))
            _set_language(chosen)  # also for the processes that the command starts
        for each in translatable:
            text = help_text(each)
            if text and isinstance(each, click.Command) and not each.short_help:
                # click would cut a sentence that is longer than the line; so given, it wraps
                before.callback(setattr, each, "short_help", each.short_help)
                each.short_help = text.partition("\n\n")[0].partition(". ")[0].removesuffix(".")
            if text and (translated := gettext.gettext(text)) != text:
                for name, value in _shown(each, translated).items():
                    before.callback(setattr, each, name, getattr(each, name))
                    setattr(each, name, value)
        yield


def _set_language(chosen: str | None) -> None:
    if chosen is None:
        os.environ.pop("LANGUAGE", None)
    else:
        os.environ["LANGUAGE"] = chosen


def _shown(part: Any, text: str) -> dict[str, Any]:
    """Return the attributes by which click shows a text."""
    if isinstance(part, click.Option):
        return {"help": text}
    first = text.partition("\n\n")[0].partition("。")[0]
    return {"help": text, "short_help": first, "context_class": WideContext}
