"""What a scoring holds in memory does not grow with the rows, but for an index of their ids.

Of each row both parties hold the id in a packed form (10 bytes here, and 4), an index of the ids
of the table (12) and the place of the row in the file of prepared rows (4). The Host holds an index
of the ids that may be asked (12) and the place of the row at the partner (4), too. A list or a dict
of ids takes from 65 to 170 bytes of each row, at each party.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from heterofed import simulate
from heterofed.hetero_nn.serve.collaborator import serve_rows
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from heterofed.tabular import TabularCollaborator, TabularHost
from heterofed.tabular.scoring.stream import score
from heterofed.tabular.sources import Source
from tests.hetero_nn.served import Serves
from tests.identity.offices import open_offices
from tests.tabular.people import written

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.long]

FIRST, FEW, MANY, AT_ONCE, READ_AT_ONCE = 300, 2100, 4500, 250, 2048
HELD = 140
"""The most bytes of a row, at both parties together."""


class Site:
    """Tables of any number of rows, and a model that was trained on a few."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        learns: dict[str, Any] = {"label": "y", "max_rounds": 1, "psi_protocol": "ecdh"}
        bank, shop = self.parties(200, **learns)
        simulate(bank, [shop], task_id="t")

    def parties(self, rows: int, **more: Any) -> tuple[TabularHost, TabularCollaborator]:
        cells = np.random.default_rng(0).standard_normal((rows, 4)).astype("f4")
        frame = pd.DataFrame(cells, columns=list("abcd"))
        frame.insert(0, "id", [f"id-{row:07}" for row in range(rows)])
        frame["y"] = (cells.sum(axis=1) > 0).astype(int)
        mine, theirs = frame[["id", "a", "b", "y"]], frame[["id", "c", "d"]]
        bank, shop = written(self.folder, bank=mine, shop=theirs)
        given: dict[str, Any] = {"ids": "id", "results_dir": self.folder / "runs"}
        host = TabularHost("alice", bank, **given, **({"label": None, "join_timeout": 0} | more))
        return host, TabularCollaborator("shop", shop, **given, join_timeout=60)

    def held(self, rows: int) -> list[int]:
        """The traced bytes after each part of a scoring, beyond those before it."""
        host, shop = self.parties(rows)
        stop, found = threading.Event(), list[int]()
        gc.collect()
        tracemalloc.start()
        try:
            limits = ServeLimits(max_rows_per_day=100_000)
            serves = Serves(serve_rows, shop, "t", limits, stop=stop)

            def note(_done: int, _all: int) -> None:
                gc.collect()
                found.append(tracemalloc.get_traced_memory()[0])

            out = self.folder / f"out{rows}.csv"
            scored = score(host, "t", out, rows_at_once=AT_ONCE, progress=note)
            assert scored == (rows, rows)
        finally:
            tracemalloc.stop()
            stop.set()
        serves.join()
        return found


@pytest.fixture
def site(home: Path, tmp_path: Path) -> Site:
    open_offices(home, ["shop"], task="t", plan=["psi_protocol=ecdh"])
    return Site(tmp_path)


def test_a_scoring_holds_little_of_each_row(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofed.tabular.sources.source.SMALL_CELLS", 0)
    monkeypatch.setattr(Source.chunks, "__defaults__", (READ_AT_ONCE, None))
    site.held(FIRST)  # what is loaded once is loaded
    few, many = site.held(FEW), site.held(MANY)
    assert (max(many) - max(few)) / (MANY - FEW) < HELD
    grown = many[-1] - many[2]
    assert grown / MANY < HELD / 10, "a scoring holds more with each part"
