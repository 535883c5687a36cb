"""The card of a run in a notebook: one place, no flood, and every text escaped."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from heterofed import simulate
from heterofed.events import (
    PartyLost,
    PhaseBegan,
    PhaseEnded,
    Progressed,
    RoundEnded,
    StillWaiting,
    TaskBegan,
    TaskEnded,
)
from heterofed.reporting import console, markup, notebook
from heterofed.reporting.notebook import DRAWN_EVERY, MOST_LINES, Card
from heterofed.reporting.task_result import TaskResult
from tests.e2e.tiny import TinyCollaborator, TinyHost
from tests.report.test_report import VOID, Page

SAY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e"
VOID |= {"polyline"}


def round_ended(number: int, **metrics: float) -> RoundEnded:
    return RoundEnded(number, 9, 1.0, 1 / number, {"round": number, **metrics})


def test_it_is_drawn_again_in_its_place_and_not_at_every_event() -> None:
    drawn: list[str] = []
    now = 0.0
    card = Card(drawn.append, lambda: now)
    card(PhaseBegan("train", 100, "batches", 1))
    for done in range(1, 51):
        now += DRAWN_EVERY / 10
        card(Progressed(done, 100))
    assert 3 <= len(drawn) <= 7
    assert "50 of 100 batches, 2.5 s left" in card.html()
    card(PhaseEnded("train", 5.0, 0, 0, 1))
    card(round_ended(1, auc=0.7))
    assert "<svg" not in card.html()
    card(round_ended(2, auc=0.8))
    assert card.html().count("<svg") == 2
    assert "round 2 of 9" in card.html()
    card(round_ended(2, auc=0.6))  # the run went back
    assert "auc <b>0.6</b>" in card.html()
    card(TaskEnded())
    card.close()
    assert "done" in drawn[-1]


def test_texts_of_others_never_become_markup() -> None:
    card = Card(lambda _html: None)
    card(TaskBegan(SAY, SAY, SAY, (SAY,), "run", Path()))
    card(PhaseBegan(SAY, 10, SAY))
    card(Progressed(1, 10))
    for number in (1, 2):
        card(RoundEnded(number, 9, 1.0, 0.5, {SAY: 0.5}))
    card.note(SAY, is_warning=True)
    for event in (StillWaiting((SAY,), 1.0), PartyLost(SAY, 1.0), TaskEnded(SAY)):
        card(event)
        page = Page(card.html())
        assert not page.open
        assert not page.all("script")
        assert not page.all("img")
        assert "<script>alert(1)" in page.text
        assert "\u202e" not in page.text
        assert not [key for _, found in page.elements for key in found if key.startswith("on")]


def test_a_long_run_stays_small() -> None:
    card = Card(lambda _html: None)
    for number in range(1, 3001):
        card(round_ended(number, auc=0.5 + number / 10_000))
        card.note("line " * 20, is_warning=True)
    assert len(card.html()) < 200 * MOST_LINES


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was drawn in each place of a notebook, where this process is a kernel."""
    places: list[list[str]] = []

    def place() -> Any:
        shown: list[str] = []

        def draw(html: str) -> None:
            if not shown:
                places.append(shown)
            shown.append(html)

        return draw

    monkeypatch.setattr(console, "in_notebook", lambda: True)
    monkeypatch.setattr(notebook, "display_in_place", place)
    return places


@pytest.mark.slow
def test_a_simulation_has_one_card_and_results_show_themselves(
    drawn: list[list[str]], tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("heterofed")
    attached, logger.propagate = list(logger.handlers), False
    try:
        for _ in range(2):
            host = TinyHost(tmp_path, psi_protocol="ecdh")
            done = simulate(host, [TinyCollaborator(tmp_path)], task_id="tiny", baselines=["local"])
    finally:
        logger.propagate = True
    assert logger.handlers == attached
    assert len(drawn) == 2
    for shown in drawn:
        assert shown[-1].count("[ROUND 2/2]") == 1
        assert "bob: task tiny done" in shown[-1]
    assert capsys.readouterr().err == ""
    result = done.results["alice"]
    assert isinstance(result, TaskResult)
    result.leaks.append(SAY)
    page = Page(done._repr_html_())
    assert not page.open
    assert not page.all("script")
    for said in ("alice: task tiny", "quality: accuracy", "bob: task tiny", "local", "report.html"):
        assert said in page.text, said


def test_bars_and_curves_take_any_number() -> None:
    assert 'width:100.0%"' not in markup.bar(None, "x")
    for points in (
        [(1.0, 0.5)],
        [(1.0, 0.5), (2.0, 0.5)],
        [(float(n), -1e300) for n in range(999)],
    ):
        assert Page(markup.curve("loss", points)).all("svg")
