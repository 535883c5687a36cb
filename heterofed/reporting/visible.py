"""Text of which every character can be seen, for whatever shows a text that somebody else chose."""

from __future__ import annotations

import unicodedata

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""The Unicode categories of controls, formats (also bidirectional overrides) and unassigned
codes.
"""


def visible(line: str) -> str:
    """Return the string with a sign in place of each character that hides or reorders others.

    A terminal obeys some of these characters, and a browser draws the rest of a line in another
    order after others.
    """
    if line.isascii() and line.isprintable():
        return line
    return "".join("\ufffd" if unicodedata.category(each) in HIDDEN else each for each in line)


def visible_lines(text: str) -> str:
    """Return the same for each line of a text; its line ends stay, and tabs become spaces."""
    return "\n".join(visible(line) for line in text.expandtabs().split("\n"))
