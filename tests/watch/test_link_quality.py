"""The round trip of a link over TCP reaches the journal, the summary, the page and the report."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from heterofed.report.render import write_report
from heterofed.watch.app import Watch
from heterofed.watch.guard import Guard
from tests.e2e.tiny import TinyCollaborator, TinyHost, slow_batches
from tests.identity.offices import open_offices
from tests.report.test_report import Page
from tests.watch.test_app import BASE, TOKEN, Client

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_it_is_measured_and_shown(home: Path, tmp_path: Path) -> None:
    open_offices(home, plan=["max_rounds=3", "psi_protocol=ecdh"])
    bob = TinyCollaborator(tmp_path)
    slow_batches(bob, 0.6)  # so the run lasts longer than two heartbeats
    thread = threading.Thread(target=bob.launch_task, args=("tiny",))
    thread.start()
    host = TinyHost(tmp_path, max_rounds=3, psi_protocol="ecdh").launch_task("tiny")
    thread.join()
    client = Client(Guard(Watch(tmp_path, leaving=lambda: True, every=0).app(), TOKEN))
    for party, other in (("alice", "bob"), ("bob", "alice")):
        folder = host.folder.parent / party
        link = json.loads((folder / "summary.json").read_text())["links"][other]
        assert 0 < link["round_trip"] < 60
        assert '"round_trip":' in (folder / "events.jsonl").read_text()
        page = Page(client.get(f"{BASE}/run/tiny/{party}").text)
        report = Page(write_report(folder).read_text())
        for text in (page.text, report.text.partition("Round trip, at best")[2]):
            assert re.search(r"\d (ms|s)", text)
