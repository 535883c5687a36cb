"""Finds translated pages whose English source has changed since, and marks them.

A translated page begins with front matter: the page that it translates, and a digest of that page's
text. A page whose source has another digest by now is outdated: that is said, to whoever builds the
documentation and to whoever reads the page, and it is no error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

FRONT = re.compile(r"\A---\nsource: (\S+)\nsource_sha256: ([0-9a-f]+)\n---\n")
HEADING = re.compile(r"^# .*\n", re.MULTILINE)
NOTE = "> **译文可能已过时**：翻译之后，[英文原文]({})有改动；如有出入，以英文为准。\n"
NOTED = re.compile(r"\n> \*\*译文可能已过时\*\*.*\n")


def source_hash(text: str) -> str:
    """The digest of a page's words: lines may be wrapped anew without a change of it."""
    return sha256(" ".join(text.split()).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Translation:
    """A translated page, the page that it translates, and the digest of what it translates."""

    page: Path
    source: Path
    digest: str

    @property
    def text(self) -> str:
        """The translated page as it lies on the disk."""
        return self.page.read_text(encoding="utf-8")

    @property
    def outdated(self) -> bool:
        """Whether the source has changed, or gone, since it was translated."""
        return not self.source.is_file() or self._current() != self.digest

    def marked(self) -> str:
        """The page with a note below its title where it is outdated, and without one elsewhere."""
        text = NOTED.sub("", self.text)
        if not self.outdated:
            return text
        note = NOTE.format(os.path.relpath(self.source, self.page.parent))
        return HEADING.sub(lambda title: f"{title[0]}\n{note}", text, count=1)

    def renewed(self) -> str:
        """The page, said to translate the source as it is now."""
        text = NOTED.sub("", self.text)
        return text.replace(self.digest, self._current(), 1)

    def _current(self) -> str:
        return source_hash(self.source.read_text(encoding="utf-8"))


def translations(root: Path) -> Iterator[Translation]:
    """Every page of a repository that says in its front matter what it translates."""
    for page in [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]:
        if front := FRONT.match(page.read_text(encoding="utf-8")):
            yield Translation(page, root / front[1], front[2])
