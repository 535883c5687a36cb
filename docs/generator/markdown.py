"""Writes Markdown tables, and numbers for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m docs.generate"
WHOLE_FILE = f"<!-- generated: this whole page, by `{COMMAND}`; edits here are lost -->"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def number(value: float) -> str:
    """A limit for people: 2^40 rather than thirteen digits."""
    whole = int(value)
    if whole == value and whole > 9999:
        for base in (2, 10):
            power = round(len(bin(whole)) - 3) if base == 2 else len(str(whole)) - 1
            if base**power == whole:
                return f"{base}^{power}"
            if base**power * base - 1 == whole:
                return f"{base}^{power + 1}-1"
    return f"{value:,.10g}"
