"""What MkDocs calls while it builds the site in two languages; `mkdocs.yml` names this file.

A page of which there is a translation links to it below its title, and back. Pages in Chinese say
so in their HTML: browsers choose the shapes of signs, and screen readers their voice, by that.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

HEADING = re.compile(r"^# .*\n", re.MULTILINE)
FOLDER = "zh/"


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: object) -> str:
    """Add the link to the same page in the other language, where there is one."""
    here = page.file.src_uri
    chinese = here.startswith(FOLDER)
    there = here.removeprefix(FOLDER) if chinese else FOLDER + here
    link = os.path.relpath(there, PurePosixPath(here).parent)
    line = f"[{'English' if chinese else '简体中文'}]({link})"
    if files.get_file_from_path(there) is None or line in markdown:
        return markdown
    return HEADING.sub(lambda title: f"{title[0]}\n{line}\n", markdown, count=1)


def on_post_page(output: str, *, page: Page, **_: object) -> str:
    """Name the language of a page in Chinese."""
    if not page.file.src_uri.startswith(FOLDER):
        return output
    return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1)
