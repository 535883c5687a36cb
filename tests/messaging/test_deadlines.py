"""No call that waits for another party, process or thread may wait for ever.

The first test reads the code: every call and every `with` that can block has a timeout, or stands
in `ENDLESS` with the reason why it ends. The last one stops a party with SIGSTOP, which hangs
without dying.
"""

from __future__ import annotations

import ast
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Parties
from tests.identity.offices import open_offices

ROOT = Path(__file__).resolve().parents[2]

# Methods that block without an argument that says how long, and where that argument stands.
TIMED = {
    "accept": 0,
    "acquire": 1,
    "communicate": 1,
    "get": 1,
    "join": 0,
    "as_completed": 1,
    "check_call": 99,
    "check_output": 99,
    "create_connection": 1,
    "poll": 0,
    "put": 2,
    "result": 0,
    "run": 99,
    "select": 0,
    "urlopen": 2,
    "wait": 0,
    "wait_for": 1,
}
# Of ZeroMQ: blocking unless a flag says otherwise.
FLAGGED = {"recv": 0, "recv_multipart": 0, "send_multipart": 1}
NO_WAIT = ("DONTWAIT", "NOBLOCK")
FILE_LOCKS = {"flock", "lockf"}
# What a `with` waits for, where it enters or leaves it, by how it is called here.
ENTERED = re.compile(r"(?i)lock$|condition$|changed$|mutex$|semaphore$|executor$|pool$|process$")

WORK = "waits for work of this process itself, which ends"
TURN = "held within this process for one turn, which has a deadline"
ONCE = "tries once, and raises where it is taken"
AT_ONCE = "no queue that is ever full: it takes what comes, or raises, at once"
ENDLESS = {
    "heterofed/tabular/scoring/stream.py: "
    "self._queue.put(Request(ids, ends, caller=future, partial=True))": AT_ONCE,
    "heterofed/cli/serve_tasks.py: ends.get()": "a server runs until a signal comes",
    "heterofed/cli/serve_tasks.py: ends.put(SystemExit(SIGTERM_EXIT))": AT_ONCE,
    "heterofed/cli/serve_tasks.py: ends.put(error)": AT_ONCE,
    "heterofed/cli/serve_tasks.py: ends.put(None)": AT_ONCE,
    "heterofed/simulation/network.py: _speaker.get()": "a context variable",
    "heterofed/data/signature.py: _reading.get()": "a context variable",
    "psi/own_tags.py: self._changed.wait_for(lambda: not self._running)": WORK,
    "heterofed/transport/zeromq/routes.py: router.recv_multipart()": WORK,
    "heterofed/transport/zeromq/answers.py: link.recv(_WHOLE_BYTES - len(said))": (
        "the socket has what is left of a timeout"
    ),
    "heterofed/cli/demo.py: child.poll()": "looks at a process and does not wait",
    "heterofed/cli/demo.py: "
    "child.wait()": "a party ends by its own deadlines; killed after a while",
    "heterofed/cli/demo.py: children[0].wait()": WORK,
    "heterofed/simulation/network.py: "
    "self._changed.wait_for(lambda: self._owner in (None, party))": WORK,
    "heterofed/messaging/party.py: peer.put(Mail(message, payload, moving))": AT_ONCE,
    "heterofed/reporting/log_lines.py: _place.get()": "a context variable",
    "heterofed/files/scratch.py: with file_lock(Path(name, SCRATCH_LOCK))": ONCE,
    "heterofed/files/scratch.py: with file_lock(lock)": ONCE,
    "heterofed/watch/beside.py: server.wait()": "the process was killed",
    "heterofed/rendezvous/backend.py: "
    "with HostLock(place.task_id, place.lock, place.socket, doing=self.purpose)": ONCE,
    "heterofed/rendezvous/backend.py: "
    "with HostLock(self.task.task, lock, doing=self.purpose)": ONCE,
    "heterofed/privacy/noise.py: _source.get()": "a context variable",
    "heterofed/simulation/network.py: with self._changed": TURN,
    "heterofed/transport/zeromq/limiter.py: connection.shutdown(socket.SHUT_RDWR)": "at once",
    "heterofed/transport/zeromq/limiter.py: with self._lock": TURN,
    "psi/storage/budget.py: lock.acquire()": "the lock was made with a timeout",
    "heterofed/simulation/network.py: with self._network.hub.changed": TURN,
    "heterofed/simulation/network.py: self._network.listens.wait()": WORK,
    "heterofed/simulation/simulate.py: thread.join()": WORK,
    "heterofed/rendezvous/local.py: self._lock.acquire()": "the lock was made with timeout=0",
    "heterofed/rendezvous/local.py: self.acquire()": "the lock was made with timeout=0",
    "heterofed/transport/reliable/endpoint.py: self.link.put(frames)": AT_ONCE,
    "heterofed/transport/reliable/endpoint.py: with self._endpoint.lock": TURN,
    "heterofed/transport/reliable/endpoint.py: with self.lock": TURN,
    "heterofed/transport/memory.py: self.outbox.put(frames)": AT_ONCE,
    "heterofed/transport/memory.py: with self._changed": TURN,
    "heterofed/transport/memory.py: with self.changed": TURN,
    "heterofed/transport/memory.py: with self.hub.changed": TURN,
    "heterofed/transport/reliable/link.py: self._queue.put(frames)": AT_ONCE,
    "heterofed/transport/zeromq/endpoint.py: self.outbox.put(frames)": AT_ONCE,
    "psi/rsa/backends/openssl.py: self._idle.get()": WORK,
    "psi/rsa/backends/openssl.py: self._idle.put(None)": AT_ONCE,
    "psi/rsa/backends/openssl.py: self._idle.put(_Key(library, der))": AT_ONCE,
    "psi/rsa/backends/openssl.py: self._idle.put(key)": AT_ONCE,
    "heterofed/compute/streams.py: _GENERATORS.acquire()": "another party of this process computes",
    "psi/own_tags.py: with self._changed": "held for a look at a few numbers",
    "psi/own_tags.py: self._changed.wait_for(lambda: self._stopping or not self._aside)": WORK,
    "psi/workers.py: other.result()": WORK,
    "psi/signing.py: self._kept.put(records)": AT_ONCE,
    "psi/signing.py: self._own.wait()": WORK,
    "heterofed/cli/measures.py: aside.submit(timed_steps, work).result()": WORK,
    "heterofed/cli/measures.py: with ThreadPoolExecutor(1)": WORK,
    "heterofed/compute/workers/children.py: process.wait()": "the process was killed",
    "heterofed/hetero_nn/serve/answers.py: "
    "self._store.put(rows, self._guard.outgoing(batch, self._released, testing=True))": AT_ONCE,
    "heterofed/hetero_nn/serve/request_queue.py: with self._changed": TURN,
    "heterofed/hetero_nn/serve/scoring.py: self._store.put(missing, batch)": AT_ONCE,
    "heterofed/rendezvous/ways.py: _ways.get()": "a context variable",
    "heterofed/serving/api.py: "
    "model.queue.put(Request(asked.ids, ends, asked.columns, future))": AT_ONCE,
    "heterofed/intersection/host.py: with opened_executor(run)": "opened with deadlines of its own",
    "heterofed/intersection/collaborator.py: "
    "with opened_executor(run)": "opened with deadlines of its own",
    "psi/executors/ray.py: self._ray.shutdown()": "leaves the cluster, and waits for no work there",
    "psi/unequal/store.py: "
    "with file_lock(folder / 'set.lock', _LOCK_SECONDS)": "the lock has a timeout",
}


def waits(tree: ast.AST) -> Iterator[str]:
    """What may block in this code, for ever."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and may_block(_name(node.func), node):
            yield ast.unparse(node)
        elif isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                if blocks_entering(item.context_expr):
                    yield f"with {ast.unparse(item.context_expr)}"


def _name(called: ast.expr) -> str:
    match called:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def blocks_entering(entered: ast.expr) -> bool:
    if isinstance(entered, ast.Call):
        timed = any(each.arg == "timeout" for each in entered.keywords)
        return not timed and bool(ENTERED.search(_name(entered.func)))
    return bool(ENTERED.search(_name(entered)))


def may_block(name: str, call: ast.Call) -> bool:
    keywords = {each.arg for each in call.keywords}
    text = ast.unparse(call)
    if name in FILE_LOCKS:
        return "LOCK_NB" not in text and "LOCK_UN" not in text
    if name == "shutdown":
        return isinstance(call.func, ast.Attribute) and "wait=False" not in text
    if name in {"get", "run", "put", "join", "wait"} and isinstance(call.func, ast.Name):
        return False  # a function of ours: what it calls is looked at by itself
    if name == "run" and not text.startswith("subprocess."):
        return False
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
        f"{path.relative_to(ROOT).as_posix()}: {each}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for each in waits(ast.parse(path.read_text()))
    }


@pytest.mark.slow
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
        ("queue.put(item)", True),
        ("queue.put(item, timeout=3)", False),
        ("queue.put_nowait(item)", False),
        ("executor.shutdown()", True),
        ("executor.shutdown(wait=False)", False),
        ("subprocess.run(command)", True),
        ("subprocess.run(command, timeout=3)", False),
        ("socket.create_connection(address)", True),
        ("urlopen(url)", True),
        ("urlopen(url, timeout=3)", False),
        ("fcntl.flock(file, fcntl.LOCK_EX)", True),
        ("fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", False),
        ("with FileLock(path): pass", True),
        ("with FileLock(path, timeout=3): pass", False),
        ("with self._lock: pass", True),
        ("with self._changed: pass", True),
        ("with ThreadPoolExecutor(2) as pool: pass", True),
        ("with path.open() as file: pass", False),
    ],
)
def test_the_reading_finds_what_blocks(text: str, blocks: bool) -> None:
    assert bool(list(waits(ast.parse(text)))) is blocks


@pytest.mark.long
def test_a_party_that_hangs_dead_is_lost(parties: Parties, home: Path, tmp_path: Path) -> None:
    """Its heartbeats stop too; far sooner than `calculation_timeout` everybody else knows.

    Two tasks side by side, since nothing else can be done while the heartbeats are missed: the
    Host of one hangs, and the Collaborator of the other.
    """
    open_offices(home, task="first", plan=["max_rounds=100"])
    open_offices(home, task="second", plan=["max_rounds=100"])
    started = {
        (task, role): parties.start("-m", "tests.e2e.tiny", role, task, str(tmp_path), "slow")
        for task in ("first", "second")
        for role in ("host", "collaborator")
    }
    for party in started.values():
        party.wait_for("batch 1", 100)
    hung = [started["first", "host"], started["second", "collaborator"]]
    try:
        for each in hung:
            each.signal(signal.SIGSTOP)
        began = time.monotonic()
        for who, lost in (("first", "collaborator"), "alice"), (("second", "host"), "bob"):
            other = started[who]
            assert other.wait(60) == 1, other.output
            assert time.monotonic() - began < 15 + 10
            assert "PeerLostError" in other.output
            assert lost in other.output.split("PeerLostError")[-1]
    finally:
        for each in hung:
            each.signal(signal.SIGCONT)
