"""Reads docstrings: their sections, their entries, and the Markdown that a page shows of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator


def doc(thing: object) -> str:
    """The docstring without its indentation."""
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")


def sections(text: str) -> dict[str, str]:
    """A docstring by section; what stands outside of them under ''."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in text.splitlines():
        if line.removesuffix(":") in SECTIONS and line.endswith(":"):
            current = line.removesuffix(":")
        elif current and line and not line.startswith(" "):
            current = ""
        found.setdefault(current, []).append(line if line.rstrip(":") != current else "")
    return {name: inspect.cleandoc("\n".join(lines)).strip() for name, lines in found.items()}


def entries(section: str) -> Iterator[tuple[str, str]]:
    """`name: text` entries of a section, each on one line."""
    for entry in re.split(r"\n(?=\S)", section):
        if entry.strip():
            name, _, text = " ".join(entry.split()).partition(": ")
            yield name, text


def as_markdown(text: str) -> str:
    """A docstring for readers of a page."""
    parts = sections(text)
    shown = [re.sub(r"^Hook[^:]*: ", "", parts.pop(""))]
    shown[0] = shown[0][:1].upper() + shown[0][1:]
    for name, section in parts.items():
        if name in ("Returns", "Yields"):
            shown.append(f"{name}: {' '.join(section.split())}")
        else:
            title = "Arguments" if name == "Args" else name
            items = "\n".join(f"- `{each}`: {what}" for each, what in entries(section))
            shown.append(f"{title}:\n\n{items}")
    return "\n\n".join(shown)


def indented_blocks(text: str) -> list[str]:
    """The blocks of a docstring that are indented by four spaces."""
    blocks = re.findall(r"(?:^ {4}.*\n?(?:\n(?= {4}))?)+", text, re.MULTILINE)
    return [inspect.cleandoc("\n" + block) for block in blocks]
