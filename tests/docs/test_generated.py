"""The documentation is up to date, its links lead somewhere, and nothing is left out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import heterofed
import heterofed.errors
import heterofed.tabular
from docs import generate
from docs.generator import drawings, pages
from heterofed.protocol.messages import MESSAGE_TYPES
from tests.e2e.processes import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def test_generated_parts_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- generated: dtypes -->\nold\n<!-- /generated -->\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", {})
    assert generate.main(["--check"]) == 1
    assert "README.md" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert "float32" in page.read_text()
    assert generate.main(["--check"]) == 0


def test_a_changed_diagram_is_named_and_its_old_drawing_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs/page.md"
    folder = tmp_path / "docs" / drawings.FOLDER
    folder.mkdir(parents=True)
    page.write_text("```mermaid\nflowchart LR\n    a --> b\n```\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", {})
    monkeypatch.setattr(drawings, "draw", lambda source: f"<svg>{source}</svg>")
    assert generate.main([]) == 0
    (old,) = folder.iterdir()
    assert "a --> b" in old.read_text()
    assert generate.main(["--check"]) == 0
    page.write_text(page.read_text().replace("b", "c"))
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err.count("make diagrams") == 2
    assert generate.main([]) == 0
    assert [each.name for each in folder.iterdir()] != [old.name]
    assert generate.main(["--check"]) == 0


def test_drawings_load_nothing_and_say_their_size() -> None:
    for path in (ROOT / "docs/images").rglob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(href=|url\(|@import)\s*['\"]?https?:|<script|<foreignObject", text)
    svg = '<svg width="100%" viewBox="-8 -8 640.4 99.6"></svg>'
    assert drawings.sized(svg).startswith('<svg width="640" height="100" ')


API = re.compile(r"^::: (\S+)$", re.MULTILINE)


def documented() -> set[str]:
    """What the pages of the API name: modules, classes and functions."""
    api = (ROOT / "docs/reference/api").glob("*.md")
    return {name for page in api for name in API.findall(page.read_text(encoding="utf-8"))}


def test_public_names_are_in_the_api() -> None:
    shown = documented()
    public = {*heterofed.__all__, *heterofed.tabular.__all__} - {"__version__", "logger"}
    errors = {name for name in public if hasattr(heterofed.errors, name)}  # have their own page
    assert public - errors <= {name.rpartition(".")[2] for name in shown}
    modules = {path.stem for path in (ROOT / "heterofed/privacy").glob("*.py")} - {"__init__"}
    assert {f"heterofed.privacy.{name}" for name in modules} <= shown


def test_unknown_arguments_are_refused() -> None:
    assert generate.main(["--chek"]) == 2


def test_every_piece_stands_in_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(pages.PIECES) == {name for _, name, _ in pages.PIECE.findall(text)}


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[<>=\[ ]", each)[0] for each in project["dependencies"]}
    text = (ROOT / "docs/explanation/dependencies.md").read_text(encoding="utf-8")
    table, _, _ = text.partition("Optional:")
    assert set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) - {"package"} == named


@pytest.mark.parametrize("name", ["protocol.md", "threat-model.md"])
def test_every_message_is_told_of_in_prose(name: str) -> None:
    page = ROOT / "docs/explanation" / name
    prose = pages.PIECE.sub("", page.read_text(encoding="utf-8"))
    assert not {kind.__name__ for kind in MESSAGE_TYPES if f"`{kind.__name__}`" not in prose}
