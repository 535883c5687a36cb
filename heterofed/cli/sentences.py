"""Says a finished sentence in the language of the user, although it has names and numbers in it.

Messages are written in English where something goes wrong, by code that knows no language. Their
templates, such as `{0} has no column {1}`, are collected from the code into `sentences.txt` and
translated in the catalogue. Here the template of a finished sentence is found, and what stands in
its places is put into the translation. A sentence without one stays as it is.
"""

from __future__ import annotations

import functools
import gettext
import re

from heterofed.cli.language import DOMAIN, LOCALE

TEMPLATES = LOCALE / "sentences.txt"
"""One template in each line."""

_PLACE = re.compile(r"\{\d+\}")
_DEEPEST = 3
"""The depth to which a place may hold a sentence itself."""


def translated(text: str) -> str:
    """Return a text in the language of the user, line by line; unchanged if that is English."""
    catalogue = gettext.translation(DOMAIN, LOCALE, fallback=True)
    if not isinstance(catalogue, gettext.GNUTranslations):
        return text
    return "\n".join(_said(line, catalogue, _DEEPEST) for line in text.split("\n"))


def _said(text: str, catalogue: gettext.NullTranslations, deep: int) -> str:
    if not deep or (deep < _DEEPEST and " " not in text.strip()):
        return text  # a word in a place may be a name
    if text.startswith(": "):
        return f"：{_said(text[2:], catalogue, deep)}"
    label, is_labelled, rest = text.partition(": ")
    if is_labelled and label in _LABELS:
        return catalogue.gettext(f"{label}: {{0}}").format(_said(rest, catalogue, deep))
    for template, pieces in _templates():
        places = _places(text, pieces)
        if places is not None and (said := catalogue.gettext(template)) != template:
            return said.format(*(_said(each, catalogue, deep - 1) for each in places))
    for found in _ADDED.finditer(text, 1):
        rest, front = text[found.start() :], text[: found.start()]
        if (said := _said(rest, catalogue, 1)) != rest:
            return _said(front, catalogue, deep - 1) + said
        rest = text[found.end() :]
        if found[0] == "; " and (said := _said(rest, catalogue, 1)) != rest:
            return f"{_said(front, catalogue, deep - 1)}；{said}"
    return text


_LABELS = ("note", "warning")
"""The words before a whole sentence, which are no part of what its first place holds."""

_ADDED = re.compile(r"; |, | \(")
"""The beginnings of a part that stands behind a sentence."""


@functools.cache
def _templates() -> list[tuple[str, list[str]]]:
    """Return all templates with the text between their places, those with most text first."""
    lines = TEMPLATES.read_text(encoding="utf-8").splitlines()
    found = [(each, list(map(_plain, _PLACE.split(each)))) for each in lines]
    return sorted(found, key=lambda each: -sum(map(len, each[1])))


def _plain(piece: str) -> str:
    return piece.replace("{{", "{").replace("}}", "}")


def _places(text: str, pieces: list[str]) -> list[str] | None:
    """Return what stands in the places of a template; None if the text is not of this form.

    Of places side by side, the first has all that stands there.
    """
    first, *rest = pieces
    if not rest:
        return [] if text == first else None
    if not text.startswith(first):
        return None
    places, at = list[str](), len(first)
    behind = 0
    for piece in rest[:-1]:
        if not piece:
            behind += 1
            continue
        found = text.find(piece, at)
        if found < 0:
            return None
        places += [text[at:found], *[""] * behind]
        at, behind = found + len(piece), 0
    end = len(text) - len(rest[-1])
    if end < at or not text.endswith(rest[-1]):
        return None
    return [*places, text[at:end], *[""] * behind]
