"""Converts one cell to a part of an id: text, whole numbers, phone numbers, e-mail, dates.

Each function takes the original cell and returns its form, or raises `UnfitError` with the reason;
reasons never contain the cell.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import datetime

from heterofed.errors import ConfigError, needing

TYPES = ("text", "integer", "phone", "email", "date")

TEXT_OPTIONS = ("exact", "lower", "nospace", "alnum")
DATE_OPTIONS = ("dmy", "mdy", "ymd")

Writer = Callable[[str], str]

EXPONENT = re.compile(r"[-+]?\d+([.,]\d*)?[eE][-+]?\d+")
_FRACTION = re.compile(r"[-+]?\d+\.0+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_NUMBERS = re.compile(r"\d+")


class UnfitError(ValueError):
    """A cell is no id of this type; the text gives the reason without the cell."""


def writer_of(type_: str, option: str) -> Writer:
    """Return the function for one type and its option, such as "phone" and "CN"; "" for no option.

    Raises:
        ConfigError: there is no such type or option, or a package is missing.
    """
    if type_ == "phone":
        return _phone(option)
    if type_ == "text" and option in ("", *TEXT_OPTIONS):
        return {"": tidy, "exact": _exact, "lower": _lower, "nospace": _nospace, "alnum": _alnum}[
            option
        ]
    if type_ == "date" and option in ("", *DATE_OPTIONS):
        return lambda cell: _date(cell, option or "")
    if type_ in ("integer", "email") and not option:
        return {"integer": _integer, "email": _email}[type_]
    raise ConfigError(
        f"id recipe: there is no {type_}{':' + option if option else ''}; give text[:lower|nospace|"
        "alnum|exact], integer, phone[:COUNTRY], email or date[:dmy|mdy]"
    )


def tidy(cell: str) -> str:
    """Return text in one Unicode form (NFKC: full-width letters become letters), without outer
    spaces.
    """
    return " ".join(unicodedata.normalize("NFKC", cell).split())


def _exact(cell: str) -> str:
    return cell


def _lower(cell: str) -> str:
    return unicodedata.normalize("NFKC", tidy(cell).casefold())


def _nospace(cell: str) -> str:
    return "".join(_lower(cell).split())


def _alnum(cell: str) -> str:
    return "".join(filter(str.isalnum, _lower(cell)))


def _integer(cell: str) -> str:
    text = tidy(cell)
    if EXPONENT.fullmatch(text):
        raise UnfitError("a number like 1.0E+05, whose last digits a spreadsheet has dropped")
    if _FRACTION.fullmatch(text):
        text = text.partition(".")[0]
    if not re.fullmatch(r"[-+]?\d+", text):
        raise UnfitError("not a whole number")
    sign = "-" if text.startswith("-") else ""
    digits = "".join(str(unicodedata.digit(each)) for each in text.lstrip("+-")).lstrip("0") or "0"
    return sign + digits if digits != "0" else "0"


def _email(cell: str) -> str:
    text = _lower(cell).removeprefix("mailto:")
    if not _EMAIL.fullmatch(text):
        raise UnfitError("not an e-mail address")
    return text


def _phone(country: str) -> Writer:
    with needing("phone", "an id that is a phone number"):
        import phonenumbers
    if country and country.upper() not in phonenumbers.SUPPORTED_REGIONS:
        raise ConfigError(f"id recipe: there is no country {country!r}; give two letters (CN, US)")

    def written(cell: str) -> str:
        try:
            number = phonenumbers.parse(tidy(cell), country.upper() or None)
        except phonenumbers.NumberParseException:
            hint = "" if country else " with its country (+86 ...); or say phone:CN, phone:US, ..."
            raise UnfitError(f"not a phone number{hint}") from None
        if not phonenumbers.is_possible_number(number):
            raise UnfitError("not a phone number: too short or too long")
        return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))

    return written


def _date(cell: str, order: str) -> str:
    text = tidy(cell).partition("T")[0].partition(" ")[0]
    if re.fullmatch(r"\d{8}", text):
        text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
    parts = _NUMBERS.findall(text)
    if len(parts) != 3:
        raise UnfitError("not a date")
    if len(parts[0]) == 4:
        order = "ymd"
    elif not order:
        raise UnfitError("a date that could be read in two ways; say date:dmy or date:mdy")
    year, month, day = (int(parts[order.index(each)]) for each in "ymd")
    if year < 100:
        raise UnfitError("a date whose year has two digits")
    try:
        return datetime(year, month, day).date().isoformat()
    except ValueError:
        raise UnfitError("not a date of the calendar") from None
