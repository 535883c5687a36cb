"""Copies sections of the README into pages of the site, where its links must differ."""

from __future__ import annotations

import re

from docs.generator.markdown import ROOT

README_LINK = re.compile(r"\]\(([^)\s]+)\)")
# Where the site has the README's sections; nothing outside docs/ can be linked to from there.
README_ON_SITE = {
    "what-is-not-there-yet": "index.md",
    "a-task-of-your-own": "how-to/index.md",
    "who-learns-what": "explanation/threat-model.md",
    "what-is-not-protected-yet": "explanation/threat-model.md",
}


def readme_section(head: str, page: str) -> str:
    """A section of the README for a page of the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = text.partition(f"## {head}\n")[2]
    if not body:
        raise ValueError(f"the README has no section {head!r}")
    found = re.split(r"^## ", body, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return README_LINK.sub(lambda link: f"]({_on_site(link[1], page)})", found)


def _on_site(link: str, page: str) -> str:
    """A link of the README, as the page has to write it."""
    if link.startswith("https://"):
        return link
    path, _, anchor = link.partition("#")
    target = path.removeprefix("docs/") if path else README_ON_SITE[anchor]
    up = "../" * page.count("/")
    shown = "" if target == page else up + target
    return shown + (f"#{anchor}" if anchor else "")
