"""Pieces of HTML for notebooks: tables, facts, bars and curves, with every text escaped.

Front ends of notebooks remove style sheets and scripts, so each element has its own style, and the
colours can be read on a light page and on a dark one.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence

from heterofed.reporting.units import value_shown
from heterofed.reporting.visible import visible

Point = tuple[float, float]

MOST_POINTS = 200
WIDTH, HEIGHT = 220, 80
"""The size of a curve in pixels."""

ACCENT = "#1d8fa3"
SOFT = "opacity:.7"
_CELL = "padding:2px 14px 2px 0;border:0;background:none"


def text(value: object, most: int = 300) -> str:
    """Return a value as escaped text on one line, of at most `most` characters."""
    line = visible(" ".join(str(value)[: 4 * most].split()))
    return html.escape(line if len(line) <= most else f"{line[: most - 1]}\u2026")


def card(title: str, note: str, *parts: str) -> str:
    """Return parts of HTML under a title; title and note are escaped here."""
    head = f'<b>{text(title)}</b> <span style="{SOFT}">{text(note)}</span>'
    return f'<div style="margin:4px 0 10px;line-height:1.5">{head}{"".join(parts)}</div>'


def soft(words: str) -> str:
    """Return a line of text that stands back; empty if there is no text."""
    return f'<div style="{SOFT}">{text(words, 1000)}</div>' if words else ""


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, words: Collection[int] = (0,)
) -> str:
    """Return a table.

    Args:
        columns: the title of each column.
        rows: the cells of each row.
        words: the positions of the columns that hold words; all others are at the right.
    """

    def line(tag: str, cells: Sequence[object]) -> str:
        return "".join(_cell(tag, each, at in words) for at, each in enumerate(cells))

    head = line("th", columns)
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    style = "border-collapse:collapse;margin:6px 0;font-variant-numeric:tabular-nums"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(tag: str, value: object, is_word: bool) -> str:
    faded = f";{SOFT};font-weight:normal" if tag == "th" else ""
    style = f"{_CELL};text-align:{'left' if is_word else 'right'}{faded}"
    return f'<{tag} style="{style}">{text(value)}</{tag}>'


def listed(items: Iterable[str]) -> str:
    """Return a list of texts; empty if there is none."""
    found = "".join(f"<li>{text(each)}</li>" for each in items)
    return f'<ul style="margin:4px 0 4px 18px;padding:0">{found}</ul>' if found else ""


def folded(title: str, inner: str) -> str:
    """Return HTML that is shown when its title is clicked; only the title is escaped here."""
    head = f'<summary style="cursor:pointer;{SOFT}">{text(title)}</summary>'
    return f"<details>{head}{inner}</details>"


def lines(some: Iterable[str]) -> str:
    """Return log lines as they are in a terminal."""
    shown = "\n".join(html.escape(visible(each)) for each in some)
    style = "margin:4px 0;max-height:240px;overflow:auto;white-space:pre-wrap;font-size:12px"
    return f'<pre style="{style}">{shown}</pre>'


def bar(share: float | None, label: str) -> str:
    """Return a bar that is filled up to `share`, 0 to 1, with its label; None for an empty one."""
    width = round(100 * min(1.0, max(0.0, share or 0.0)), 1)
    track = "display:inline-block;width:200px;height:8px;border-radius:4px"
    filled = f"width:{width}%;height:8px;border-radius:4px;background:{ACCENT}"
    return (
        f'<div><span style="{track};background:rgba(128,128,128,.3);margin-right:12px">'
        f'<span style="display:block;{filled}"></span></span>{text(label)}</div>'
    )


def curve(name: str, points: Sequence[Point]) -> str:
    """Return values by round as a line, with its lowest, highest and last value as text.

    Args:
        name: what is drawn.
        points: the round and the value of each point, by round; at least one.
    """
    low, high = (pick(value for _, value in points) for pick in (min, max))
    first, last = points[0][0], points[-1][0]
    kept = thinned(points)
    places = [
        (
            4 + (WIDTH - 8) * ((at - first) / (last - first) if last > first else 0.5),
            HEIGHT - 6 - (HEIGHT - 12) * ((value - low) / (high - low) if high > low else 0.5),
        )
        for at, value in kept
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    said = f"{name}: {value_shown(points[-1][1])} in round {last:.0f}"
    return (
        '<div style="display:inline-block;margin:6px 22px 6px 0;vertical-align:top">'
        f"<div>{text(name)} <b>{text(value_shown(points[-1][1]))}</b></div>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{text(said)}"><rect x="0" y="0" width="{WIDTH}" height="{HEIGHT}"'
        ' fill="rgba(128,128,128,.08)" rx="3"/>'
        f'<polyline points="{path}" fill="none" stroke="{ACCENT}" stroke-width="2"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{ACCENT}"/></svg>'
        f'<div style="{SOFT};font-size:11px">{text(value_shown(low))} to {text(value_shown(high))},'
        f" rounds {first:.0f} to {last:.0f}</div></div>"
    )


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most about `MOST_POINTS` of the points, with the last one."""
    step = max(1, len(points) // MOST_POINTS)
    return [*points[:-1:step], points[-1]]
