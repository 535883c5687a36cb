"""Whatever a party says in a real handshake and after it: nothing of it becomes markup on the page
or in the report, nothing that a terminal obeys reaches one, and trackers get none of it.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.identity.task_file import load_task, task_path
from heterofed.protocol import messages as m
from heterofed.report.render import FILES, write_report
from heterofed.reporting.log_lines import TextLines
from heterofed.reporting.terminal import Lines
from heterofed.reporting.trackers.prometheus import Prometheus
from heterofed.reporting.trackers.tensorboard import TensorBoard
from heterofed.reporting.wrapping import error_line
from heterofed.watch.app import Watch
from heterofed.watch.guard import Guard
from tests.adversarial.peers import TASK, LyingCollaborator, LyingHost, Victim, connected, hello
from tests.e2e.tiny import TinyCollaborator, TinyHost
from tests.report.test_report import Page
from tests.watch.test_app import BASE, TOKEN, Client

pytestmark = pytest.mark.usefixtures("home")

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"
NUMBER: Any = MARKUP
OBEYED = "\x9b\u202e\u2028"
SAY = f"{MARKUP}'\"&amp;{OBEYED}2J"


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What a terminal gets of the log, and a file."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    plain = logging.StreamHandler(text)
    plain.setFormatter(TextLines())
    logger, handlers = logging.getLogger("heterofed"), (Lines(console), plain)
    before = logger.level
    logger.setLevel(logging.INFO)
    for each in handlers:
        logger.addHandler(each)
    yield text
    for each in handlers:
        logger.removeHandler(each)
    logger.setLevel(before)


@pytest.fixture
def tracked() -> Prometheus:
    return Prometheus(port=None)


def check_harmless(
    results: Path, party: str, outcome: Any, said: io.StringIO, tracked: Prometheus
) -> str:
    """Look at everything that people or programs see of a run; return the text of its page."""
    from prometheus_client import generate_latest

    folder = results / TASK / party
    client = Client(Guard(Watch(results, leaving=lambda: True, every=0).app(), TOKEN))
    pages = [
        client.get(f"{BASE}/run/{TASK}/{party}").text,
        client.get(f"{BASE}/").text,
        client.get(f"{BASE}/compare?one={TASK}/{party}&other={TASK}/{party}").text,
    ]
    report = write_report(folder).read_text()
    for each in (*pages, report):
        page = Page(each)
        assert len(page.all("script")) == (each is not report)
        assert not page.all("img")
        assert not [key for _, found in page.elements for key in found if key.startswith("on")]
        assert not set(OBEYED) & set(page.text)
    for path in ("", f"/run/{TASK}/{party}"):
        assert "<img" not in client.get(f"{BASE}/events{path}").text
    for kind in ("md", "card"):
        assert "<img" not in write_report(folder, kind).read_text(), FILES[kind]
    assert not set(OBEYED) & set(said.getvalue())
    if isinstance(outcome, Exception):
        assert not set(OBEYED) & set(error_line("error", str(outcome), io.StringIO()))
    curves = [each.read_bytes() for each in (folder / "tensorboard").glob("*")]
    for raw in (generate_latest(tracked.registry), *curves):
        assert MARKUP.encode() not in raw
    return Page(pages[0]).text + Page(report).text


@pytest.mark.slow
def test_a_feature_key_of_markup_is_turned_away(
    tmp_path: Path, said: io.StringIO, tracked: Prometheus, open_links: list[Any]
) -> None:
    host = Victim(
        TinyHost(tmp_path, max_rounds=1, psi_protocol="ecdh", callbacks=[tracked, TensorBoard()])
    )
    eve = connected()
    open_links.append(eve)
    eve.say_anything(msgspec.structs.replace(hello("eve"), party=SAY))
    bob = Victim(TinyCollaborator(tmp_path))
    outcome = host.outcome()
    assert isinstance(outcome, TaskResult)
    assert isinstance(bob.outcome(), TaskResult)
    text = check_harmless(tmp_path, "alice", outcome, said, tracked)
    assert "alert" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "lie",
    [
        lambda link: link.say_anything(m.Abort(SAY, "train", "bob")),
        lambda link: link.say_anything(m.Abort("non_finite", "train", SAY)),
        lambda link: link.say_anything(m.Abort("non_finite", "train", "bob", numbers=(NUMBER,))),
        lambda link: link.say_anything(m.Abort("no_such_code", "no phase", "bob", 2**40)),
    ],
    ids=["code", "party", "number", "allowed"],
)
def test_what_a_collaborator_says_in_training_stays_text(
    lie: Callable[[Any], None],
    tmp_path: Path,
    said: io.StringIO,
    tracked: Prometheus,
    open_links: list[Any],
) -> None:
    host = Victim(TinyHost(tmp_path, callbacks=[tracked, TensorBoard()]))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    specs = (m.TensorSpec(SAY, "float32", (16, 4)),)
    sent = torch.zeros(16, 4).numpy().tobytes()
    bob.link.say(m.Features(1, 0, 16, "dict", specs, busy=2**40), [sent])
    bob.link.pump()
    lie(bob.link)
    outcome = host.outcome()
    assert isinstance(outcome, e.TaskFailed)
    assert "alert" not in check_harmless(tmp_path, "alice", outcome, said, tracked)


@pytest.mark.slow
def test_settings_of_a_host_stay_text(
    tmp_path: Path, said: io.StringIO, tracked: Prometheus
) -> None:
    bob = Victim(TinyCollaborator(tmp_path, callbacks=[tracked, TensorBoard()]))
    host = LyingHost(agreed=(("layer", SAY.replace("\x9b", "")),))
    host.welcome().to_train()
    host.link.say(m.Abort("hook", "train", "alice"))
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.TaskAborted)
    text = check_harmless(tmp_path, "bob", outcome, said, tracked)
    assert MARKUP in text


@pytest.mark.slow
def test_terms_of_a_host_stay_text(
    office: Path, tmp_path: Path, said: io.StringIO, tracked: Prometheus
) -> None:
    bob = Victim(TinyCollaborator(tmp_path, callbacks=[tracked, TensorBoard()]))
    host = LyingHost()
    host.met()
    terms = load_task(task_path(TASK, office)).terms()
    host.link.say(m.Terms(terms.replace(b'"train"', f'"{MARKUP}{OBEYED}"'.encode())))
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.OtherTermsError), repr(outcome)
    assert "alert" not in check_harmless(tmp_path, "bob", outcome, said, tracked)
