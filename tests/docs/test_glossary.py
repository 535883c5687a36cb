"""The glossary is in order, and says each term once."""

from __future__ import annotations

import re

from tests.e2e.processes import ROOT

PAGE = ROOT / "docs/reference/glossary.md"


def test_terms_are_sorted_unique_and_explained_by_sentences() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[2:]
    terms = [term for term, _ in rows]
    assert len(terms) >= 40
    assert [each.lower() for each in terms] == sorted({each.lower() for each in terms})
    assert [term for term, text in rows if not text.endswith(".")] == []
