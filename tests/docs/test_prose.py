"""The prose of the pages: what proselint finds in it.

Its own words for things are checked in `test_words`, spelling by codespell.
"""

from __future__ import annotations

import itertools
import re

import pytest
from proselint.checks import __register__
from proselint.config import DEFAULT, Config
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

from tests.docs.test_words import PAGES
from tests.e2e.processes import ROOT

PROSE = [path for path in PAGES if "zh" not in path.relative_to(ROOT).as_posix()]

CheckRegistry().register_many(__register__)

CONFIG: Config = {
    **DEFAULT,
    # Curly quotes are for typesetters, a resume here has no accents, `a.m.` is no time but the end
    # of a sentence, and `oversized` is what readers of protocols know.
    "checks": {
        **DEFAULT["checks"],
        "typography": False,
        "dates_times": False,
        "needless_variants": False,
    },
}

CODE = re.compile(
    r"""
      ^[ ]*(?P<fence>```|~~~).*?^[ ]*(?P=fence)[^\n]*$  # fenced blocks
    | `[^`]+`                                          # code within a line
    | <!--.*?-->                                       # comments
    | \]\([^)]*\)                                      # targets of links
    | ^(?:\||\#)[^\n]*$                                # rows of tables, headings
    | ^[0-9]+\.                                         # numbers of steps
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
"""What is no prose."""


def prose(text: str) -> str:
    """The text of a page without its code; lines stay where they are."""
    blocks = itertools.count()
    return CODE.sub(lambda found: f"code{next(blocks)}" + "\n" * found[0].count("\n"), text)


def findings(text: str) -> list[str]:
    """What proselint says of the prose of a page."""
    found = LintFile("page.md", prose(text)).lint(CONFIG)
    return [f"line {each.pos[0]}: {each.check_result.message}" for each in found]


@pytest.mark.slow
def test_pages_read_well() -> None:
    found = {path.relative_to(ROOT).as_posix(): findings(path.read_text("utf-8")) for path in PROSE}
    assert {page: each for page, each in found.items() if each} == {}


def test_the_check_sees_prose_alone() -> None:
    assert findings("It is very unique, and the the table is `very very unique`.") != []
    assert findings("It is `very unique`.\n\n```\nthe the\n```\n") == []
