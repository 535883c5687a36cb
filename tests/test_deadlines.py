"""No call that waits for another party, process or thread may wait for ever.

The first test reads the code: every call that can block has a timeout, or stands in `ENDLESS` with
the reason why it ends. The last one stops a party with SIGSTOP, which hangs without dying.
"""

from __future__ import annotations

import ast
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Parties
from tests.trust.offices import open_offices

ROOT = Path(__file__).resolve().parents[1]

# Methods that block without an argument that says how long, and where that argument stands.
TIMED = {
    "accept": 0,
    "acquire": 1,
    "communicate": 1,
    "get": 1,
    "join": 0,
    "poll": 0,
    "result": 0,
    "select": 0,
    "wait": 0,
    "wait_for": 1,
}
# Of ZeroMQ: blocking unless a flag says otherwise.
FLAGGED = {"recv": 0, "recv_multipart": 0, "send_multipart": 1}
NO_WAIT = ("DONTWAIT", "NOBLOCK")

WORK = "waits for work of this process itself, which ends"
ENDLESS = {
    "heterofed/demo.py: child.poll()": "looks at a process and does not wait",
    "heterofed/demo.py: child.wait()": "a party ends by its own deadlines; killed after a while",
    "heterofed/demo.py: children[0].wait()": WORK,
    "heterofed/simulation.py: self._changed.wait_for(lambda: self._owner in (None, party))": WORK,
    "heterofed/simulation.py: self._network.listens.wait()": WORK,
    "heterofed/simulation.py: thread.join()": WORK,
    "heterofed/transport/local.py: self._lock.acquire()": "the lock was made with timeout=0",
    "heterofed/transport/local.py: self.acquire()": "the lock was made with timeout=0",
    "psi/backends/openssl.py: self._idle.get()": WORK,
    "psi/own_tags.py: self._changed.wait_for(lambda: self._stopping or not self._aside)": WORK,
    "psi/own_tags.py: thread.join()": WORK,
    "psi/parallel.py: other.result()": WORK,
    "psi/parallel.py: self._executor.submit(work, *args, **kwargs).result()": WORK,
    "psi/signing.py: self._own.wait()": WORK,
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


def may_block(name: str, call: ast.Call) -> bool:
    keywords = {each.arg for each in call.keywords}
    text = ast.unparse(call)
    if name in FLAGGED:
        # `recv(4096)` of a plain socket would be found too: there is none in the packages.
        return not any(flag in text for flag in NO_WAIT)
    if name not in TIMED or keywords & {"timeout", "blocking", "block"}:
        return False
    if name == "get" and call.args:
        return False  # of a mapping
    return len(call.args) <= TIMED[name]


def endless(folder: str) -> set[str]:
    return {
        f"{path.relative_to(ROOT).as_posix()}: {ast.unparse(call)}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, call in calls(path)
        if may_block(name, call)
    }


def test_every_call_that_blocks_has_a_deadline_or_a_reason() -> None:
    found = endless("heterofed") | endless("psi")
    assert found - set(ENDLESS) == set(), "give these a timeout, or say in ENDLESS why they end"
    assert set(ENDLESS) - found == set(), "these are gone: take them out of ENDLESS"


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("queue.get()", True),
        ("queue.get(timeout=3)", False),
        ("mapping.get('x')", False),
        ("thread.join()", True),
        ("thread.join(10)", False),
        ("', '.join(words)", False),
        ("lock.acquire()", True),
        ("lock.acquire(timeout=1)", False),
        ("lock.acquire(blocking=False)", False),
        ("changed.wait_for(ready)", True),
        ("changed.wait_for(ready, 10)", False),
        ("event.wait()", True),
        ("event.wait(1.0)", False),
        ("server.accept()", True),
        ("poller.poll()", True),
        ("poller.poll(1000)", False),
        ("future.result()", True),
        ("zsocket.recv_multipart()", True),
        ("zsocket.recv(zmq.DONTWAIT, copy=False)", False),
        ("zsocket.send_multipart(parts, zmq.NOBLOCK)", False),
    ],
)
def test_the_reading_finds_what_blocks(text: str, blocks: bool) -> None:
    (call,) = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    assert isinstance(call.func, ast.Attribute)
    assert may_block(call.func.attr, call) is blocks


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["host", "collaborator"])
def test_a_party_that_hangs_dead_is_lost(
    stopped: str, parties: Parties, home: Path, tmp_path: Path
) -> None:
    """Its heartbeats stop too; far sooner than `calculation_timeout` everybody else knows."""
    open_offices(home, plan=["max_rounds=100"])
    started = {
        role: parties.start("-m", "tests.e2e.tiny", role, "tiny", str(tmp_path), "slow")
        for role in ("host", "collaborator")
    }
    for party in started.values():
        party.wait_for("batch 1", 100)
    hung = started.pop(stopped)
    hung.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        (other,) = started.values()
        assert other.wait(60) == 1, other.output
        assert time.monotonic() - began < 15 + 10
        assert "PeerLostError" in other.output
        assert ("alice" if stopped == "host" else "bob") in other.output.split("PeerLostError")[-1]
    finally:
        hung.signal(signal.SIGCONT)
