"""The page's server: who may ask it, what it says, and that nothing of a run becomes markup."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from heterofed.errors import ConfigError
from heterofed.reporting import journal_records as records
from heterofed.watch.app import Watch, events
from heterofed.watch.guard import HEADERS, Guard, host_name, new_token
from heterofed.watch.listed import List, key_of
from heterofed.watch.runs import runs_in
from tests.report.folders import finished
from tests.report.test_report import VOID, Page

TOKEN = "a-token"
BASE = f"/{TOKEN}"
VOID |= {"link", "input"}


class Client:
    """Asks an app, each time over a connection of its own."""

    def __init__(self, app: Any, base_url: str = "http://localhost") -> None:
        self._app, self._base = app, base_url

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url=self._base) as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)


def journal(folder: Path, *some: records.Record) -> None:
    with (folder / records.FILE).open("ab") as file:
        file.writelines(msgspec.json.encode(each) + b"\n" for each in some)


def written(folder: Path, say: str = "", **status: Any) -> Path:
    """A run that goes on, in this process; `say` stands wherever somebody chooses a text."""
    finished(folder, say=say)
    (folder / "summary.json").unlink()
    now = json.loads((folder / "status.json").read_text())
    now |= {"state": "running", "phase": "train", "process": os.getpid(), "done": 3, **status}
    (folder / "status.json").write_text(json.dumps(now))
    host, others = f"bank{say}", [f"shop{say}", f"phone{say}"]
    costs = {each: records.Costs(sent=900, received=100, wait=0.5) for each in others}
    span = records.Span("wait", others[0], 0.5, 0.5)
    journal(
        folder,
        records.Began(at=1, task=f"t{say}", party=host, host=host, collaborators=others),
        records.Phase(at=2, phase="train", unit=f"batches{say}", round=1),
        records.Done(at=3, phase=f"train{say}", seconds=1, units=10, parties=costs),
        records.Batch(at=3, round=1, seconds=1, spans=[span]),
        records.Link(at=3, party=others[0], bytes=10**6, seconds=0.5, round_trip=0.083),
        records.Round(at=4, round=1, rounds=9, seconds=1, loss=0.5, metrics={f"auc{say}": 0.75}),
        records.Lost(at=5, party=others[0], seconds=60),
        records.Phase(at=6, phase=f"join{say}"),
    )
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("runs")
    written(results / "loans" / "bank")
    finished(results / "cards" / "bank")
    return results


@pytest.fixture(scope="module")
def client(results: Path) -> Client:
    guard = Guard(Watch(results, leaving=lambda: True, every=0).app(), TOKEN)
    return Client(guard, "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 403),
        ("/a-tokem/", 403),
        ("/a-token%20/", 403),
        ("/%FF/", 403),
        ("/assets/page.css", 403),
        (f"{BASE}/", 200),
        (f"{BASE}/run/loans/bank", 200),
        (f"{BASE}/run/loans/..", 404),
        (f"{BASE}/run/..%2Floans/bank", 404),
        (f"{BASE}/run/loans/nobody", 404),
        (f"{BASE}/compare", 404),
        (f"{BASE}/compare?one=loans/bank&other=cards/bank", 200),
        (f"{BASE}/events/run/loans/nobody", 404),
        (f"{BASE}/assets/page.js", 200),
        (f"{BASE}/assets/..%2Fguard.py", 404),
        (f"{BASE}/assets/run.html.j2", 404),
    ],
)
def test_who_knows_the_token_sees_runs_and_nothing_else(
    client: Client, path: str, status: int
) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert TOKEN not in answer.text or status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.168.1.7", 421),
        ("", 421),
    ],
)
def test_other_names_for_this_machine_are_refused(client: Client, host: str, status: int) -> None:
    assert client.get(f"{BASE}/", headers={"host": host}).status_code == status


def test_a_server_for_other_machines_knows_its_own_name_and_numbers(results: Path) -> None:
    guard = Guard(Watch(results).app(), TOKEN, names=["office"], numbers=True)
    client = Client(guard)
    for host, status in (("Office:80", 200), ("192.168.1.7", 200), ("evil.example", 421)):
        assert client.get(f"{BASE}/", headers={"host": host}).status_code == status
    assert host_name("[FE80::1]:80") == "fe80::1"


def test_it_only_reads(client: Client) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, f"{BASE}/").status_code == 405


def test_tokens_are_long_and_differ() -> None:
    tokens = {new_token() for _ in range(50)}
    assert len(tokens) == 50
    assert min(map(len, tokens)) >= 32


def test_the_page_says_all_of_it_and_can_be_used_without_eyes(client: Client) -> None:
    text = client.get(f"{BASE}/run/loans/bank").text
    page = Page(text)
    for said in (
        "shop is lost",
        "1 of 9",
        "0.75",
        "83 ms, 2.0 MB/s",
        "bank waits for shop",
        "can guess some of",
    ):
        assert said in page.text, said
    assert not page.open
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))
    assert {"top", "now", "parties", "learning", "leaks", "costs", "batch", "said"} <= set(ids)
    assert len(page.all("caption")) == len(page.all("table")) >= 4
    assert all(each.get("scope") for each in page.all("th"))
    assert all(each.get("aria-labelledby") in ids for each in page.all("section"))
    headings = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert headings.count(1) == 1
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == 1


@pytest.mark.parametrize(
    "path", ["/", "/run/loans/bank", "/compare?one=loans/bank&other=cards/bank"]
)
def test_pages_load_only_from_the_server_and_have_no_inline_code(client: Client, path: str) -> None:
    page = Page(client.get(BASE + path).text)
    loaded = [each.get("src") or each.get("href") for each in page.all("script") + page.all("link")]
    assert all(str(each).startswith(f"{BASE}/assets/") for each in loaded)
    attributes = {key for _, found in page.elements for key in found}
    assert not [each for each in attributes if each.startswith("on") or each == "style"]
    assert not page.all("style")


def test_assets_are_small_and_load_nothing(client: Client) -> None:
    sizes = {}
    for name in ("page.css", "page.js", "icon.svg"):
        answer = client.get(f"{BASE}/assets/{name}")
        sizes[name] = len(answer.content)
        assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "url(" not in answer.text
        assert "@import" not in answer.text
    assert sum(sizes.values()) < 24_000, sizes
    script = client.get(f"{BASE}/assets/page.js").text
    assert "eval" not in script
    assert "Function" not in script


def test_a_viewer_gets_everything_at_first_and_then_what_changes(results: Path) -> None:
    parts = {"now": "<p>1</p>", "costs": "<p>same</p>"}
    looks, said = iter([False, False, True]), ""

    async def seen() -> list[str]:
        found = []
        async for each in events(lambda: (dict(parts), said), lambda: next(looks), 0):
            found.append(each)
            if "same" in each:
                parts["now"] = "<p>2\n3</p>"
        return found

    got = asyncio.run(seen())
    assert got[0] == "retry: 1000\n\n"
    assert got[1] == "id: 1\nevent: part\ndata: now\ndata: <p>1</p>\n\n"
    assert got[2].startswith("id: 2\nevent: part\ndata: costs\n")
    assert got[3] == "id: 3\nevent: part\ndata: now\ndata: <p>2\ndata: 3</p>\n\n"
    assert got[-1].endswith("event: over\ndata: \n\n")
    assert sum("data: costs" in each for each in got) == 1


def test_events_of_a_run_are_its_parts(client: Client) -> None:
    answer = client.get(f"{BASE}/events/run/loans/bank")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = re.findall(r"event: part\ndata: (\w+)\n", answer.text)
    assert told == ["top", "now", "parties", "learning", "leaks", "costs", "batch"]
    assert re.findall(r"event: part\ndata: (\w+)\n", client.get(f"{BASE}/events").text) == [
        "runs",
        "choose",
    ]


def test_the_head_of_events_ends(client: Client) -> None:
    answer = client.request("HEAD", f"{BASE}/events")
    assert answer.status_code == 200
    assert answer.text == ""


SAY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u202e"


def test_what_others_choose_never_becomes_markup(tmp_path: Path) -> None:
    written(tmp_path / "one" / "bank", SAY)
    written(
        tmp_path / "two" / "<b>bank",
        SAY,
        state="failed",
        error={"type": f"Error{SAY}", "message": f"{SAY}; do {SAY}", "hook": None},
        waiting_for=[SAY],
    )
    client = Client(Guard(Watch(tmp_path, leaving=lambda: True, every=0).app(), TOKEN))
    one, other = sorted(map(key_of, runs_in(tmp_path)))
    paths = ["/", f"/run/{one}", f"/run/{other}"]
    for path in [*paths, f"/compare?one={quote(one)}&other={quote(other)}"]:
        page = Page(client.get(BASE + path).text)
        assert not page.open
        assert len(page.all("script")) == 1
        assert not page.all("img")
        assert not [key for _, found in page.elements for key in found if key.startswith("on")]
        assert "\u202e" not in page.text
    assert "<script>alert(1)" in Page(client.get(f"{BASE}/run/{other}").text).text
    for path in paths:
        told = client.get(f"{BASE}/events{path.removesuffix('/')}").text
        assert "<script" not in told
        assert "<img" not in told


@pytest.mark.parametrize(
    "damage",
    [
        ("status.json", "{"),
        ("status.json", '{"state":"running","process":-5,"plan":{"max_rounds":"many"}}'),
        ("status.json", '{"state":"failed","error":{"type":"X"},"settings":{"max_epsilon":"y"}}'),
        ("events.jsonl", '{"kind":"round","at":1,"round":1,"metrics":{"a":1e300,"b":-1e300}}\n'),
        ("leakage.csv", "round,party\n1"),
        ("privacy.csv", "round,eps_labels\n1,nan\n"),
        ("leakage.csv", "round,party,attack,measure,value,samples\n1,a,norm,auc,inf,1\n"),
    ],
    ids=str,
)
def test_damaged_files_leave_the_page_as_it_is(tmp_path: Path, damage: tuple[str, str]) -> None:
    folder = written(tmp_path / "loans" / "bank")
    (folder / damage[0]).write_text(damage[1])
    client = Client(Guard(Watch(tmp_path).app(), TOKEN), base_url="http://localhost")
    for path in ("/", "/run/loans/bank", "/compare?one=loans/bank&other=loans/bank"):
        assert client.get(BASE + path).status_code == 200


def test_a_process_that_is_not_there_any_more_shows(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie at first
    written(tmp_path / "loans" / "bank", process=child.pid)
    client = Client(Guard(Watch(tmp_path).app(), TOKEN), base_url="http://localhost")
    assert "Stopped without a word" in client.get(f"{BASE}/run/loans/bank").text
    child.wait()
    text = client.get(f"{BASE}/run/loans/bank").text
    assert "No process of this run is on this machine any more" in text
    assert "Start all parties again" in text


def test_only_tasks_that_were_asked_for_and_no_links_are_shown(tmp_path: Path) -> None:
    written(tmp_path / "loans" / "bank")
    finished(tmp_path / "cards" / "bank")
    (tmp_path / "planted").symlink_to(tmp_path / "loans")
    (tmp_path / "file").touch()
    assert {each.task for each in runs_in(tmp_path)} == {"loans", "cards"}
    assert {each.task for each in runs_in(tmp_path, ("cards",))} == {"cards"}
    assert runs_in(tmp_path / "nothing") == []


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    from heterofed.watch.serve import serve

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"heterofed\[watch\]"):
        serve(tmp_path, say=print)


def test_an_address_that_cannot_be_listened_at_is_an_error(tmp_path: Path) -> None:
    from heterofed.watch.serve import serve

    with pytest.raises(ConfigError, match="--port"):
        serve(tmp_path, host="192.0.2.1", say=print)


# -- which runs, and where the page opens ------------------------------------------------------


def test_the_page_of_one_task_with_one_run_opens_at_that_run(results: Path) -> None:
    opened = Client(Guard(Watch(results, ("loans",)).app(), TOKEN)).get(f"{BASE}/")
    assert (opened.status_code, opened.headers["location"]) == (302, f"{BASE}/run/loans/bank")
    assert Client(Guard(Watch(results).app(), TOKEN)).get(f"{BASE}/").status_code == 200
    nothing = Client(Guard(Watch(results, ("none yet",)).app(), TOKEN)).get(f"{BASE}/")
    assert "No run yet" in nothing.text


def test_counts_and_older_runs_are_named_as_what_they_are(tmp_path: Path) -> None:
    """A newer run renames the folder of an older one, and takes its status away."""
    older = finished(tmp_path / "loans" / "bank.1")
    (older / "status.json").unlink()
    count = finished(tmp_path / "loans" / "bank")
    now = json.loads((count / "status.json").read_text())
    now |= {"state": "finished", "round": 0, "plan": {"max_rounds": 0}}
    (count / "status.json").write_text(json.dumps(now))
    lines = {each.party: each for each in List().lines(runs_in(tmp_path), 0.0)}
    assert (lines["bank.1"].life, lines["bank"].life) == ("Finished", "Finished")
    rounds = json.loads((older / "summary.json").read_text())["rounds"]
    assert (lines["bank.1"].rounds, lines["bank"].rounds) == (f"{rounds}", "no training")
    page = Client(Guard(Watch(tmp_path).app(), TOKEN)).get(f"{BASE}/run/loans/bank.1")
    assert "Not known" not in page.text
