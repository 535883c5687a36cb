"""The site builds without a warning and without a network, and loads nothing from elsewhere."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pytest

from docs.generator import drawings
from tests.docs.samples import blocks
from tests.e2e.processes import ROOT

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **proxies, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


WIDE = [
    "index",
    "explanation/architecture",
    "explanation/compare",
    "explanation/protocol",
    "reference/api/schedulers",
    "reference/cli",
    "reference/hooks",
]
"""Pages with wide tables, diagrams or signatures."""

CUT = """() => [...document.querySelectorAll("table, img")].filter(each => {
    const reaches = each.getBoundingClientRect().right > document.documentElement.clientWidth
    for (let box = each; reaches && box; box = box.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return false
    return reaches
}).length"""
"""How many tables and pictures reach beyond the window, with no box around them that scrolls."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("HETEROFED_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.long
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_cut(site: Path, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    for name in WIDE:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(CUT) == 0, name
    page.close()


def test_copied_commands_have_no_prompt(site: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto((site / "install.html").as_uri())
    page.evaluate("document.execCommand = () => { copied = document.activeElement.value }")
    page.locator(".md-code__button").first.click()
    assert page.evaluate("copied") == blocks(ROOT / "docs/install.md", "console")[0].replace(
        "$ ", ""
    ).rstrip("\n")
    page.close()


class Loaded(HTMLParser):
    """Addresses that a browser fetches by itself when it opens a page, links, and their targets."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []
        self.targets: set[str] = {"", "__comments"}
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.classes.update((given.get("class") or "").split())
        self.targets.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        address = given.get("href") if tag == "link" else given.get("src")
        if address and given.get("rel") != "canonical":
            self.found.append(address)


def pages(site: Path) -> Iterator[tuple[str, Loaded]]:
    for path in sorted(site.rglob("*.html")):
        page = Loaded()
        page.feed(path.read_text(encoding="utf-8"))
        yield str(path.relative_to(site)), page


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for name, page in pages(site):
        away = [each for each in page.found if "//" in each and not each.startswith("data:")]
        assert page.found
        assert not away, f"{name} loads {away}"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", text), sheet.name


def test_links_lead_to_something_on_the_site(site: Path) -> None:
    found = dict(pages(site))
    dead = []
    for name, page in found.items():
        for link in page.links:
            path, _, anchor = link.partition("#")
            if "//" in path or path.startswith(("mailto:", "/")):  # 404.html has absolute ones
                continue
            target = os.path.normpath(PurePosixPath(name).parent / path) if path else name
            known = found[target].targets if target in found else {""}
            if not (site / target).is_file() or unquote(anchor) not in known:
                dead.append(f"{name}: {link}")
    assert not dead
    assert sum(len(page.links) for page in found.values()) > 1000


def test_nothing_makes_the_theme_load_mermaid(site: Path) -> None:
    # Material fetches it from a CDN where a page has an element of this class; see mkdocs.yml.
    assert not [name for name, page in pages(site) if "mermaid" in page.classes]


def test_diagrams_are_drawings(site: Path) -> None:
    shown = 0
    for path in (ROOT / "docs").rglob("*.md"):
        page = path.relative_to(ROOT / "docs").with_suffix(".html")
        text = (site / page).read_text(encoding="utf-8")
        drawn = re.findall(r'<img [^>]*class="diagram"[^>]*src="([^"]+)"', text)
        assert len(drawn) == len(drawings.FENCE.findall(path.read_text(encoding="utf-8")))
        assert all((site / page.parent / each).is_file() for each in drawn)
        shown += len(drawn)
    assert shown > 3


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    wanted = {
        str(path.relative_to(ROOT / "docs").with_suffix(".html"))
        for path in (ROOT / "docs").rglob("*.md")
    }
    assert wanted <= {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert not list(site.rglob("*.py"))


def test_reference_is_made_from_docstrings(site: Path) -> None:
    page = (site / "reference/api/schedulers.html").read_text(encoding="utf-8")
    for words in ("HeteroNNHostScheduler", "make_infer_model", "load_local_ids", "join_timeout"):
        assert words in page
    signature = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert "join_timeout: float = 3600" in signature


def test_reference_has_all_of_privacy(site: Path) -> None:
    text = "".join(
        page.read_text(encoding="utf-8") for page in (site / "reference/api").glob("*.html")
    )
    for path in (ROOT / "heterofed/privacy").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                assert f'id="heterofed.privacy.{path.stem}.{node.name}"' in text
    assert 'id="heterofed.runs.data_check.DataChecker"' in text


def test_pages_in_two_languages_link_to_each_other(site: Path) -> None:
    chinese = sorted((site / "zh").rglob("*.html"))
    assert len(chinese) >= 8
    for path in chinese:
        page, inside = path.read_text(encoding="utf-8"), path.relative_to(site / "zh")
        assert '<html lang="zh-Hans"' in page
        english = os.path.relpath(site / inside, path.parent)
        assert f'href="{english}">English' in page, inside
        other = (site / inside).read_text(encoding="utf-8")
        assert '<html lang="en"' in other
        back = os.path.relpath(path, (site / inside).parent)
        assert f'href="{back}">简体中文' in other, inside
