"""Two parties by command alone, over TCP with keys; each of them is killed and started anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from heterofed import simulate
from heterofed.cli.table_tasks import GIVEN, Given
from heterofed.hetero_nn.serve.held_runs import HeldRuns
from heterofed.tabular import TabularCollaborator, TabularHost
from tests.e2e.processes import Parties, PartyProcess
from tests.identity.offices import free_port, open_offices
from tests.tabular.people import loans, written

PLAN = ["max_rounds=1", "batch_size=64", "psi_protocol=ecdh", "shuffle=true"]
DEADLINE = 5.0

pytestmark = pytest.mark.long


class Served:
    """The processes of a bank and a shop, and a caller of the bank, which `close` closes."""

    def __init__(
        self, parties: Parties, home: Path, folder: Path, runs: Sequence[str] = ("loans",)
    ) -> None:
        self._parties, self._folder = parties, folder
        self._tasks = list(dict.fromkeys(runs))
        for task in self._tasks:
            open_offices(home, ["shop"], task=task, plan=PLAN)
        mine, theirs = loans(120)
        self.tables = dict(
            zip(("alice", "shop"), written(folder, alice=mine, shop=theirs), strict=True)
        )
        self.ids = sorted(set(mine["customer"]) & set(theirs["client"]))
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._caller = httpx.Client(timeout=60)
        if runs == ("loans",):
            self._train("loans")
        for number, task in enumerate(runs if len(runs) > 1 else ()):
            self._simulate(task, number)

    def _train(self, task: str) -> None:
        common = ["--task", task, "--results", str(self._folder / "runs")]
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

    def _simulate(self, task: str, seed: int) -> None:
        """Train in this process, and leave what the command leaves."""
        common: dict[str, Any] = {"results_dir": self._folder / "runs", "seed": seed}
        learns: dict[str, Any] = {"label": "defaulted", "max_rounds": 1, "batch_size": 64}
        learns |= {"psi_protocol": "ecdh"}
        bank = TabularHost("alice", self.tables["alice"], ids="customer", **learns, **common)
        shop = TabularCollaborator("shop", self.tables["shop"], ids="client", **common)
        simulate(bank, [shop], task_id=task)
        for party, column in (("alice", "customer"), ("shop", "client")):
            kept = self._folder / "runs" / task / party / GIVEN
            kept.write_bytes(msgspec.json.encode(Given([column])))
            kept.chmod(0o600)

    def start(self, party: str) -> PartyProcess:
        """Serve at a party."""
        line = ["-m", "heterofed", "serve", "loans", str(self.tables[party]), "--party", party]
        line += ["--results", str(self._folder / "runs")]
        for task in self._tasks[1:]:
            line += ["--also", f"{task}={self.tables[party]}"]
        if party == "shop":
            return self._parties.start(*line, "--role", "collaborator", "--max-age", "0")
        return self._parties.start(*line, "--port", str(self._port), "--deadline", str(DEADLINE))

    def use(self, run: str) -> None:
        """Choose a version at the bank."""
        line = ["-m", "heterofed", "models", "use", "loans", run, "--party", "alice"]
        chosen = self._parties.start(*line, "--results", str(self._folder / "runs"))
        assert chosen.wait() == 0, chosen.output
        assert run in chosen.output

    def runs(self) -> list[str]:
        """The runs that the bank holds, the newest first."""
        return [each.run.hex() for each in HeldRuns(self._folder / "runs/loans/alice").all()]

    def close(self) -> None:
        self._caller.close()

    def ask(self, *ids: str, task: str = "loans") -> httpx.Response:
        token = (self._folder / f"runs/{task}/alice/serving/token").read_text()
        headers = {"Authorization": f"Bearer {token}"}
        path = f"/v1/models/{task}:predict"
        return self._caller.post(self._url + path, headers=headers, json={"ids": ids})

    def wait(self, seconds: float = 90.0) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                if self._caller.get(f"{self._url}/readyz").status_code == 200:
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


@pytest.fixture
def serve(parties: Parties, home: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Makes `Served` with some runs, by their tasks; by default with one."""
    with ExitStack() as stack:

        def make(*runs: str) -> Served:
            made = Served(parties, home, tmp_path, runs or ("loans",))
            return stack.enter_context(closing(made))

        yield make


@pytest.mark.timeout(600)
def test_versions_and_tasks_in_one_process(serve: Callable[..., Served]) -> None:
    served = serve("loans", "loans", "more")
    shop, bank = served.start("shop"), served.start("alice")
    served.wait()
    newest, older = served.runs()
    answers: list[httpx.Response] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(served.ask(*served.ids))

    right: dict[str, Any] = {}
    other = served.ask(*served.ids, task="more").json()
    callers = [threading.Thread(target=ask) for _ in range(2)]
    for each in callers:
        each.start()
    for run in (older, newest, older):
        served.use(run)
        body = served.ask(*served.ids).json()
        right.setdefault(body["version"], body)
        assert body == right[body["version"]]
    over.set()
    for each in callers:
        each.join(30)
    assert len(right) == 2
    assert {each.status_code for each in answers} == {200}
    assert all(each.json() == right[each.json()["version"]] for each in answers)
    assert served.ask(*served.ids, task="more").json() == other

    bank.terminate()
    assert bank.wait() == 0
    shop.terminate()
    assert shop.wait() == 143


def test_kills_of_either_party(serve: Callable[..., Served]) -> None:
    served = serve()
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
