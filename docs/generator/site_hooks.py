"""What MkDocs calls while it builds the site: a diagram's source gives way to its drawing."""

from __future__ import annotations

from mkdocs.structure.pages import Page

from docs.generator.drawings import with_drawings


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Show drawings instead of sources."""
    return with_drawings(markdown, page.file.src_uri, str(page.title))
