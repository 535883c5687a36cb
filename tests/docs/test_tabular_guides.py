"""The guides of tables run as they stand, and print what they say."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from heterofed import simulate
from tests.docs.samples import executed, printed, readme_classes
from tests.e2e.processes import ROOT

GUIDES = ROOT / "docs/how-to"

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The README's classes, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return readme_classes()


@pytest.mark.parametrize("page", ["numbers.md", "scorecards.md", "partner-worth.md"])
def test_what_is_printed(page: str, names: Any, capsys: pytest.CaptureFixture[str]) -> None:
    done = executed(GUIDES / page, names)
    out = capsys.readouterr().out
    for text in printed(GUIDES / page):
        assert text in out, out
    if "bank" in done:
        assert set(done["bank"].shares) == {"bank", "shop"}
        assert all(share > 0.05 for share in done["bank"].shares.values())


def test_a_split_by_time(names: Any) -> None:
    done = executed(GUIDES / "splits.md", names)
    bank, month = done["bank"], done["month"]
    shop = done["Collaborator"]("shop")
    simulate(bank, [shop], task_id="later")
    latest = {part: max(month[i] for i in getattr(bank.parts, part)) for part in ("train", "test")}
    assert latest["train"] < min(month[i] for i in bank.parts.test)
    assert shop.train_ids == bank.parts.train


def test_searches(names: Any) -> None:
    done = executed(GUIDES / "search.md", names)
    assert len(done["found"].trials) == 3
    results: list[Any] = []
    follower = Thread(target=lambda: results.append(done["at_the_shop"]()))
    follower.start()
    found = done["at_the_host"]()
    follower.join(60)
    assert results[0].run == found.final.run
