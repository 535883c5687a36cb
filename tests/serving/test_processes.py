"""Two parties by command alone, over TCP with keys; each of them is killed and started anew."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.processes import Parties, PartyProcess
from tests.identity.offices import free_port, open_offices
from tests.tabular.people import loans, written

PLAN = ["max_rounds=1", "batch_size=64", "psi_protocol=ecdh", "shuffle=true"]
DEADLINE = 5.0

pytestmark = pytest.mark.long


class Served:
    """The processes of a bank and a shop, and a caller of the bank."""

    def __init__(self, parties: Parties, home: Path, folder: Path) -> None:
        self._parties, self._folder = parties, folder
        open_offices(home, ["shop"], task="loans", plan=PLAN)
        mine, theirs = loans(120)
        self.tables = dict(
            zip(("alice", "shop"), written(folder, alice=mine, shop=theirs), strict=True)
        )
        self.ids = sorted(set(mine["customer"]) & set(theirs["client"]))
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._train()

    def _train(self) -> None:
        common = ["--task", "loans", "--results", str(self._folder / "runs")]
        line = ["-m", "heterofed", "table", "train"]
        shop = [*line, str(self.tables["shop"]), *common, "--role", "collaborator"]
        bank = [*line, str(self.tables["alice"]), *common, "--party", "alice", "--id", "customer"]
        both = [
            self._parties.start(*shop, "--party", "shop", "--id", "client"),
            self._parties.start(
                *bank, "--label", "defaulted", "--rounds", "1", "--batch-size", "64"
            ),
        ]
        assert [each.wait() for each in both] == [0, 0], both[1].output + both[0].output

    def start(self, party: str) -> PartyProcess:
        """Serve at a party."""
        line = ["-m", "heterofed", "serve", "loans", str(self.tables[party]), "--party", party]
        line += ["--results", str(self._folder / "runs")]
        if party == "shop":
            return self._parties.start(*line, "--role", "collaborator", "--max-age", "0")
        return self._parties.start(*line, "--port", str(self._port), "--deadline", str(DEADLINE))

    def ask(self, *ids: str) -> httpx.Response:
        token = (self._folder / "runs/loans/alice/serving/token").read_text()
        headers = {"Authorization": f"Bearer {token}"}
        path = "/v1/models/loans:predict"
        return httpx.post(self._url + path, headers=headers, json={"ids": ids}, timeout=60)

    def wait(self, seconds: float = 90.0) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                if httpx.get(f"{self._url}/readyz", timeout=30).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError("never ready")

    def is_refused_in_time(self) -> dict[str, Any]:
        """An answer while the other party is gone, as the error that it is."""
        began = time.monotonic()
        answer = self.ask(self.ids[0])
        assert time.monotonic() - began < DEADLINE + 5  # the machine may be busy
        assert answer.status_code in (503, 504)
        error: dict[str, Any] = answer.json()["error"]
        return error


def test_kills_of_either_party(parties: Parties, home: Path, tmp_path: Path) -> None:
    served = Served(parties, home, tmp_path)
    shop, bank = served.start("shop"), served.start("alice")
    served.wait()
    before = served.ask(*served.ids)
    assert before.status_code == 200

    shop.kill()
    assert served.is_refused_in_time()["code"] in ("unavailable", "deadline")
    shop = served.start("shop")
    ends = time.monotonic() + 90  # until it is back, requests wait for the old link, or are refused
    while (again := served.ask(*served.ids)).status_code in (503, 504):
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert again.json() == before.json()

    bank.kill()
    with pytest.raises(httpx.TransportError):
        served.ask(served.ids[0])
    bank = served.start("alice")
    served.wait()
    assert served.ask(*served.ids).json() == before.json()

    bank.terminate()
    assert bank.wait() == 0
    shop.terminate()
    assert shop.wait() == 143
    assert not set(served.ids) & set((bank.output + shop.output).split())
