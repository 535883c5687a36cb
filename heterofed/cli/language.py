"""Speaks the language of the user, which the environment names; English where there is no other.

Translated are the help of the command, with what click itself says, and what an error means. The
message of an error names parties, files and numbers, and stays in English, as logs do: the
docstring of its class, which says what it means and what to do, is translated and printed after it.
gettext reads the translations in `locale/`. Where one is missing, the text stays as it is.

HETEROFED_LANG chooses the language; without it LANGUAGE, LC_ALL, LC_MESSAGES and LANG do, in this
order.
"""

from __future__ import annotations

import gettext
import inspect
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

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

HELP_COLUMNS, OPTION_COLUMNS = 76, 46
"""The room that click has for the text of a command and of an option, in 80 columns."""


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


def _shown(part: Any, text: str) -> dict[str, str]:
    """Return the attributes by which click shows a text.

    click counts characters and breaks lines at spaces. Chinese characters take two columns, and
    there are no spaces between them, so lines are broken here.
    """
    if isinstance(part, click.Option):
        return {"help": _broken(text, OPTION_COLUMNS)}
    first = text.partition("\n\n")[0]
    return {"help": _broken(text, HELP_COLUMNS), "short_help": first.partition("。")[0]}


def _broken(text: str, columns: int) -> str:
    from heterofed.reporting.terminal import wrapped  # rich is slow to load

    # click leaves a paragraph as it is that begins with a backspace on a line of its own.
    return "\n\n".join("\n".join(["\b", *wrapped(each, columns)]) for each in text.split("\n\n"))
