"""Renders a report as a page, as Markdown, as JSON, or as a model card.

Only this module uses Jinja. The page is one file without scripts that loads nothing: its
Content-Security-Policy allows one style sheet, by its hash. Jinja escapes every value in HTML, and
in Markdown each value passes through `quoted`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2
import msgspec
from markupsafe import Markup

from heterofed.errors import ConfigError
from heterofed.report import view
from heterofed.report.charts import chart
from heterofed.report.gather import gather
from heterofed.report.model import RunReport
from heterofed.reporting.results import write_whole
from heterofed.reporting.units import bytes_shown, delay_shown, seconds_shown, value_shown
from heterofed.reporting.visible import visible_lines

Format = Literal["html", "json", "md", "card"]

FILES: dict[Format, str] = {
    "html": "report.html",
    "json": "report.json",
    "md": "report.md",
    "card": "README.md",
}
"""The name of each kind in the results folder; a model card has the name that Hugging Face
expects.
"""


def write_report(folder: Path, kind: Format = "html", *, to: Path | None = None) -> Path:
    """Write the report of a results folder, and return its path.

    Args:
        folder: the folder `<results_dir>/<task_id>/<party>`.
        kind: "html", "json", "md" or "card".
        to: the file to write; None for a file in the results folder, such as `report.html`.

    Raises:
        ConfigError: there is no run, the kind is unknown, or the file's folder is not this user's.
        ResultsError: the file cannot be written.
    """
    raw = rendered(gather(folder), kind).encode()
    path = folder / FILES[kind] if to is None else to
    return write_whole(path, lambda file: file.write(raw), anywhere=to is not None)


def rendered(report: RunReport, kind: Format = "html") -> str:
    """Return a report as text of this kind.

    Raises:
        ConfigError: the kind is unknown.
    """
    if kind not in get_args(Format):
        raise ConfigError(f"a report as {kind!r}: give one of {', '.join(get_args(Format))}")
    if kind == "json":
        return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"
    if kind == "html":
        style = style_sheet()
        page = page_template("report.html.j2")
        return page.render(view.values(report), style=Markup(style), hash=_hash(style))  # noqa: S704 - our own file
    return _text(kind).render(view.values(report))


def quoted(value: object) -> str:
    """Return a value for Markdown; characters that Markdown or HTML would interpret are escaped."""
    if isinstance(value, _Plain) or not isinstance(value, str):
        return str(value)
    text = _ENTITIES.sub(lambda found: f"&#{ord(found[0])};", value)
    return _MARKUP.sub(r"\\\g<0>", text).replace("\n", " ")


_ENTITIES = re.compile(r"[&<>|$@]|(?<=www)\.|:(?=//)", re.IGNORECASE)
"""The characters that HTML interprets, that end a cell, or that some renderers turn into formulas
or links.
"""
_MARKUP = re.compile(r"[\\`*\[\]#~!{}]|(?<![^\W_])_|_(?![^\W_])")


class _Plain(str):
    """Return text of ours that a template inserts without escapes."""

    __slots__ = ()


def _as_json(value: object) -> _Plain:
    """Return a value as JSON, which YAML can read too, without characters that look like HTML."""
    text = json.dumps(value, ensure_ascii=False)
    return _Plain(re.sub(r"[<>&|]", lambda found: f"\\u{ord(found[0]):04x}", text))


FILTERS: dict[str, Callable[..., Any]] = {
    "bytes": bytes_shown,
    "seconds": seconds_shown,
    "delay": delay_shown,
    "value": value_shown,
    "chart": chart,
    "day": view.day,
    "moment": view.moment,
    "json": _as_json,
}


def page_template(name: str, package: str = "heterofed.report") -> jinja2.Template:
    """Return a template of a page, which escapes every value.

    Args:
        name: the name of the file in `templates` of the package.
        package: the package of the template, which may import parts of the report's templates.
    """
    return _pages(package).get_template(name)


def style_sheet(package: str = "heterofed.report", name: str = "style.css") -> str:
    """Return a style sheet of a package's templates, without comments and indentation."""
    text = (files(package) / "templates" / name).read_text(encoding="utf-8")
    without_comments = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", "\n", without_comments).strip()


@functools.cache
def _pages(package: str) -> jinja2.Environment:
    return _environment(package, autoescape=True, finalize=_visible)


def _visible(value: object) -> object:
    """Return a value of a page without characters that hide or reorder others; our markup stays."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible_lines(value)


def _environment(package: str = "heterofed.report", **settings: Any) -> jinja2.Environment:
    packages = dict.fromkeys([package, "heterofed.report"])
    made = jinja2.Environment(  # noqa: S701 - each caller says how it escapes
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in packages]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **settings,
    )
    made.filters |= FILTERS
    return made


@functools.cache
def _text(kind: Format) -> jinja2.Template:
    return _environment(finalize=quoted).get_template(f"{kind}.md.j2")


def _hash(style: str) -> str:
    """Return the source by which the page's policy allows its one style sheet."""
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
