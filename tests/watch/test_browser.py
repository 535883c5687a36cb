"""The live page in a real browser: Debian's Chromium, driven by Playwright.

Where there is none these tests are skipped: `apt-get install chromium`, or name another one by
HETEROFED_CHROMIUM.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heterofed import simulate
from tests.e2e.processes import PartyProcess
from tests.e2e.processes import parties as started_parties
from tests.e2e.tiny import TinyCollaborator, TinyHost

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("HETEROFED_CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

LOST_WITHIN = 15_000
"""Milliseconds until a party that was killed has to appear as lost."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test where it says an error, or asks another server for anything."""
    context = browser.new_context()
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on(
        "request",
        lambda asked: None if "//127.0.0.1:" in asked.url else wrong.append(asked.url),
    )
    yield page
    context.close()
    assert not wrong


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that have ended."""
    results = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(tmp_path_factory.mktemp("home")))
        for seed in (1, 2):
            host = TinyHost(results, max_rounds=2 + seed, psi_protocol="ecdh", seed=seed)
            simulate(host, [TinyCollaborator(results)], task_id=f"loans-{seed}")
    return results


@pytest.fixture(scope="module")
def address(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of the runs that have ended."""
    folder = tmp_path_factory.mktemp("server")
    with started_parties(folder, folder) as started:
        server = started.start("-m", "heterofed", "watch", "--results", str(trained), cold=True)
        yield address_of(server)


def address_of(server: PartyProcess) -> str:
    server.wait_for("/\n")
    found = re.search(r"watch: (http://127\.0\.0\.1:\d+/[\w-]+/)\n", server.output)
    assert found is not None
    return found[1]


def test_rounds_arrive_and_a_killed_party_is_lost(parties: Any, page: Any, tmp_path: Path) -> None:
    server = parties.start("-m", "heterofed", "watch", "--results", str(tmp_path), cold=True)
    host = parties.start("-m", "tests.e2e.tiny", "host", "tiny", str(tmp_path), "slow", "ecdh")
    other = parties.start("-m", "tests.e2e.tiny", "collaborator", "tiny", str(tmp_path))
    page.goto(address_of(server))
    page.get_by_role("link", name="tiny, as seen by alice").click(timeout=60_000)
    expect = playwright.expect
    opened = page.evaluate("performance.timeOrigin")
    rounds = page.locator("#top .headlines div", has_text="Rounds trained")
    expect(rounds).to_contain_text(re.compile(r"trained\s*[2-9]"), timeout=60_000)
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.locator("#learning svg").first).to_be_visible()
    expect(page.locator("#said")).to_contain_text("Round", timeout=20_000)
    expect(page.locator("#parties")).to_contain_text("connected")
    expect(page.locator("#batch")).to_contain_text("bob computes, as it reports")
    assert page.evaluate("performance.timeOrigin") == opened  # nothing was loaded again
    shown = page.locator("#learning tbody").inner_text()
    page.reload()
    assert set(re.findall(r"\w+", shown)) & {"loss", "accuracy"}
    expect(page.locator("#learning")).to_contain_text("loss")
    expect(page.locator("#link")).to_have_text("Live")
    other.kill()
    row = page.locator("#parties tr", has_text="bob")
    expect(row).to_contain_text("lost", timeout=LOST_WITHIN)
    page.goto(f"{address_of(server)}run/tiny/bob")
    expect(page.locator("#top")).to_contain_text("Stopped without a word")
    host.wait()
    page.goto(f"{address_of(server)}run/tiny/alice")
    callout = page.locator("#top .callout")
    expect(callout).to_contain_text("PeerLostError")
    expect(callout.locator(".remedy")).to_contain_text("start all parties again", ignore_case=True)
    server.interrupt()
    expect(page.locator("#link")).to_contain_text("server has ended", timeout=10_000)
    assert server.wait() == 0


@pytest.mark.long
def test_the_demo_is_watched_from_its_first_phase_to_its_end(
    parties: Any, page: Any, mnist: Path, tmp_path: Path
) -> None:
    demo = parties.start(
        "-m", "heterofed", "demo", "--watch", "--rounds", "2", "--limit", "3840", "640",
        "--data", str(mnist), "--results", str(tmp_path),
        cold=True,
    )  # fmt: skip
    page.goto(address_of(demo))
    page.get_by_role("link", name="as seen by demo_host").click(timeout=60_000)
    expect = playwright.expect
    expect(page.locator("#top")).to_contain_text("Running", timeout=60_000)
    expect(page.locator("#learning svg").first).to_be_visible(timeout=120_000)
    rounds = page.locator("#top .headlines div", has_text="Rounds trained")
    expect(rounds).to_contain_text(re.compile(r"trained\s*2"), timeout=120_000)
    expect(page.locator("#top")).to_contain_text("Finished", timeout=60_000)
    expect(page.locator("#link")).to_contain_text("server has ended", timeout=60_000)
    assert demo.wait() == 0, demo.output


def test_two_runs_are_compared_by_keyboard(page: Any, address: str) -> None:
    page.goto(address)
    page.get_by_label("This run").select_option(label="loans-1, alice")
    page.get_by_label("with this one").select_option(label="loans-2, alice")
    page.get_by_role("button", name="Compare").focus()
    page.keyboard.press("Enter")
    expect = playwright.expect
    expect(page.get_by_role("heading", level=1)).to_have_text("loans-1 and loans-2")
    loss = page.locator("#curves figure", has_text="loss").first
    expect(loss.locator("path.curve")).to_have_count(2 + 2)  # and two in the legend
    row = page.locator("#differences tr", has_text="Rounds trained")
    expect(row.locator("td")).to_have_text(["3", "4", "+1"])


def test_focus_is_seen_and_stays_when_parts_are_replaced(page: Any, address: str) -> None:
    page.goto(f"{address}run/loans-1/alice")
    playwright.expect(page.locator("#link")).to_have_text("Live")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="To the content")
    playwright.expect(skip).to_be_focused()
    assert skip.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    region = page.get_by_role("region", name="Last values")
    region.focus()
    page.reload()
    region.focus()
    page.wait_for_timeout(2500)  # two looks of the server
    playwright.expect(region).to_be_focused()


@pytest.mark.parametrize(
    "path", ["", "run/loans-1/alice", "compare?one=loans-1/alice&other=loans-2/alice"]
)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser: Any, address: str, path: str, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    # axe is evaluated in the page, which the page's policy forbids to everybody else.
    context = browser.new_context(color_scheme=theme, bypass_csp=True)
    page = context.new_page()
    page.goto(address + path)
    playwright.expect(page.locator("#link")).to_have_text("Live")
    found = axe.Axe().run(page).response["violations"]
    context.close()
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], each["nodes"][0]["html"]) for each in serious]


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_the_page_fits(browser: Any, address: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    for path in ("", "run/loans-1/alice", "compare?one=loans-1/alice&other=loans-2/alice"):
        page.goto(address + path)
        playwright.expect(page.locator("#link")).to_have_text("Live")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if width == 1440:
            assert (
                page.locator(".scroll").evaluate_all(
                    "all => all.filter(each => each.scrollWidth > each.clientWidth).length"
                )
                == 0
            )
    context.close()
