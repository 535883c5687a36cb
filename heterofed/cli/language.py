"""Says what an error means in the language of the user, which the environment names.

A message names parties, files and numbers, and is in English, as logs are. What the class of an
error means, and what to do, is the docstring of the class; it is translated in `locale/`, by
gettext. Where there is no translation nothing is added.
"""

from __future__ import annotations

import gettext
from pathlib import Path

DOMAIN = "heterofed"
LOCALE = Path(__file__).parent / "locale"


def meaning(kind: type[BaseException]) -> str:
    """Return what a class says of itself, on one line: the text that is translated."""
    return " ".join((vars(kind).get("__doc__") or "").split())


def explanation(error: BaseException) -> str | None:
    """Return what the error means and what to do, or None where no translation is there.

    LANGUAGE, LC_ALL, LC_MESSAGES and LANG choose the language, in this order.
    """
    catalogue = gettext.translation(DOMAIN, LOCALE, fallback=True)
    for text in filter(None, map(meaning, type(error).__mro__)):
        if (translated := catalogue.gettext(text)) != text:
            return translated
    return None
