"""Makes the first page of the site in Chinese from the README in Chinese."""

from __future__ import annotations

import re

from docs.generator.markdown import ROOT, WHOLE_FILE
from docs.generator.readme import README_LINK
from docs.generator.translations import FRONT

DIAGRAM = re.compile(r"^```mermaid\n.*?^```\n\n", re.MULTILINE | re.DOTALL)
REPOSITORY = "https://github.com/heterofed/heterofed/blob/main/"


def chinese_home() -> str:
    """`docs/zh/index.md`: the README without its diagram, which GitHub alone draws."""
    text = DIAGRAM.sub("", FRONT.sub("", (ROOT / "README.zh.md").read_text(encoding="utf-8")))
    return f"{WHOLE_FILE}\n\n" + README_LINK.sub(lambda link: f"]({_on_site(link[1])})", text)


def _on_site(link: str) -> str:
    if link.startswith(("#", "https://")):
        return link
    if link == "README.md":
        return "../index.md"
    if link.startswith("docs/zh/"):
        return link.removeprefix("docs/zh/")
    return "../" + link.removeprefix("docs/") if link.startswith("docs/") else REPOSITORY + link
