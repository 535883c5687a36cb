"""Who keeps a party waiting, or seems to, and for how long that is borne."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.cli.task import accept_task
from heterofed.identity import task_terms as task_module
from heterofed.identity.task_file import load_task, task_path
from heterofed.messaging import peer as peers
from heterofed.messaging.deadlines import LEAST_RATE
from heterofed.messaging.notices import NOTICE_SECONDS
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Mail, Peer, Timeouts, holding_limit, waiting_limit
from heterofed.protocol import messages as m
from heterofed.protocol.codec import Decoder, encode
from heterofed.protocol.plan import Plan
from heterofed.protocol.states import Role
from heterofed.rendezvous import join
from heterofed.transport.base import Buffer, Channel, Endpoint, Event, Received
from tests.adversarial.peers import TASK, LyingHost, Victim, connected, hello
from tests.adversarial.test_floods import Now, Silent
from tests.e2e.tiny import TinyCollaborator, TinyHost
from tests.runs.test_resume import CrashError, crashing


def say_waiting(host: LyingHost) -> None:
    with contextlib.suppress(e.HeteroFedError):
        host.link.say(m.Waiting("carol"))
    host.link.pump()
    time.sleep(0.2)


@pytest.mark.long
def test_a_host_that_waits_for_ever(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "WAITING_SLACK", 1.0)
    bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost(calculation_timeout=2.0)
    host.welcome().to_train()
    host.link.hear(m.Features)
    outcome = bob.outcome(60, meanwhile=lambda: say_waiting(host))
    host.close()
    assert isinstance(outcome, e.PeerTimeoutError), repr(outcome)
    assert outcome.party == "alice"
    assert "said only that it waits for carol" in str(outcome)


@pytest.mark.slow
def test_a_host_that_waits_for_ever_in_the_join(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "JOIN_WAITING", 1.0)
    bob, host = Victim(TinyCollaborator(tmp_path, join_timeout=2)), LyingHost()
    monkeypatch.setattr(host, "run", None)
    deadline = time.monotonic() + 20
    while not hasattr(host, "link") and time.monotonic() < deadline:
        for event in host._endpoint.poll(0.1):
            from tests.adversarial.peers import Link

            host.link = Link(host._endpoint, event.channel)
    outcome = bob.outcome(60, meanwhile=lambda: say_waiting(host))
    host.close()
    assert isinstance(outcome, e.PeerTimeoutError), repr(outcome)
    assert "in phase join" in str(outcome)


def test_an_honest_host_may_wait_for_others_one_after_the_other() -> None:
    plan = Plan(host="h", collaborators=("a", "b", "c"), calculation_timeout=300)
    assert waiting_limit(plan) > 3 * 300
    forever = Plan(host="h", collaborators=("a",), calculation_timeout=0)
    assert waiting_limit(forever) == 0
    assert Timeouts().waiting == 0


# -- who reads slowly ---------------------------------------------------------------------------


class Reads(Channel):
    """A connection of a peer that takes so many bytes at once, so many seconds apart."""

    party = None

    pending = 0
    now: Now

    def __init__(self, take: int, every: float) -> None:
        self.said: list[tuple[float, m.Message]] = []
        self._take, self._every, self._taken_at = take, every, 0.0
        self._decoder = Decoder(lambda _message, _size: None)

    def send(self, frames: Iterable[Buffer]) -> None:
        for frame in frames:
            if (complete := self._decoder.feed(frame)) is not None:
                self.said.append((self.now(), complete[0]))
            if not self.pending:
                self._taken_at = self.now()
            self.pending += len(frame) if self._every else 0

    def pass_time(self) -> None:
        while self.pending and self._taken_at + self._every <= self.now():
            self._taken_at += self._every
            self.pending = max(0, self.pending - self._take)

    def close(self) -> None:
        """Nothing is open."""


class Slow(Endpoint):
    """What waits moves on with the clock, which each wait moves."""

    def __init__(self, now: Now, *channels: Reads) -> None:
        self._now, self._channels = now, channels
        for each in channels:
            each.now = now

    def poll(self, timeout: float) -> list[Event]:
        return []

    def flush(self, timeout: float) -> bool:
        self._now.seconds += timeout
        for each in self._channels:
            each.pass_time()
        return not any(each.pending for each in self._channels)

    def close(self, linger: float = 0.0) -> None:
        """Nothing is open."""


class Trickle(Slow):
    """Frames of one peer that come so many seconds apart."""

    def __init__(self, now: Now, channel: Channel, frames: list[Buffer], every: float) -> None:
        super().__init__(now)
        self._channel, self._frames, self._every = channel, frames, every
        self._next = now() + every

    def poll(self, timeout: float) -> list[Event]:
        self._now.seconds += timeout
        if self._now() < self._next or not self._frames:
            return []
        self._next += self._every
        return [Received(self._channel, self._frames.pop(0))]


class Holding:
    """A Host in training that has something for bob, while the others wait for it."""

    def __init__(
        self,
        bob: Reads,
        *others: str,
        megabytes: int = 48,
        calculation: float = 300,
        answered: bool = True,
    ) -> None:
        self.bob, self.others = bob, {name: Reads(0, 0) for name in others}
        channels = {"bob": bob, **self.others}
        self.now = Now()
        self.party = Party(
            "alice",
            Role.HOST,
            Slow(self.now, *channels.values()),
            timeouts=Timeouts(calculation, 30, 60),
            clock=self.now,
        )
        self.party.phase = "train"
        plan = Plan(
            host="alice",
            collaborators=tuple(channels),
            max_rounds=2,
            calculation_timeout=calculation,
        )
        self.limit = waiting_limit(plan)
        for name, channel in channels.items():
            peer = Peer(name, channel, Role.HOST, 0.0)
            self.party.admit(peer, name)
            to_train(peer, plan)
        self.size = megabytes << 20
        self.spec = m.TensorSpec("", "float32", (self.size // 4, 1))
        if answered:
            session = self.party.peers["bob"].session
            session.receive(m.Features(1, 0, self.size // 4, "tensor", (self.spec,)), self.size)

    def answer(self) -> None:
        bob = self.party.peers["bob"]
        gradients = m.Gradients(1, 0, (self.spec,), done=True)
        self.party.post(bob, gradients, [bytearray(self.size)], patient=False)
        self.party.let_drain(bob)

    def told(self, name: str) -> list[float]:
        """When another one heard that the Host waits for bob."""
        return [now for now, said in self.others[name].said if said == m.Waiting("bob")]


def to_train(peer: Peer, plan: Plan) -> None:
    session = peer.session
    session.receive(m.Hello((1,), "train", bytes(32), peer.name, bytes(16), True))
    session.send(m.Welcome(1, bytes(16), bytes(32), plan))
    session.receive(m.PsiKey(1), 5)
    session.send(m.PsiBegin(1))
    session.send(m.PsiBlinded(1), 256)
    session.receive(m.PsiSigned(1), 256)
    session.send(m.PsiUnblinded())
    session.receive(m.PsiTags(1), 16)
    session.send(m.PsiMatched(0, last=True))
    session.send(m.SplitPlan(bytes(32), bytes(32), 1, 1))
    session.receive(m.SplitAccepted())
    session.send(m.BeginTrain(1))


def test_others_hear_of_one_that_reads_slowly() -> None:
    host = Holding(Reads(1 << 20, 9), "carol")
    host.answer()
    told = host.told("carol")
    assert host.now.seconds > 48 * 9 - 9
    assert told[0] == pytest.approx(NOTICE_SECONDS, abs=1)
    gaps = [after - before for before, after in itertools.pairwise(told)]
    assert max(gaps) < NOTICE_SECONDS + 1


def test_one_that_reads_too_slowly_is_named_before_the_others_give_up_the_host() -> None:
    host = Holding(Reads(1 << 20, 40), "carol")
    with pytest.raises(e.PeerTimeoutError, match="bob has been behind in reading") as caught:
        host.answer()
    assert caught.value.party == "bob"
    assert host.now.seconds == pytest.approx(holding_limit(3, 300), abs=1)
    assert host.now.seconds < host.limit - 10


def test_what_the_others_bore_before_counts() -> None:
    host = Holding(Reads(1 << 20, 40), "carol")
    host.now.seconds = 500.0
    with pytest.raises(e.PeerTimeoutError, match="behind in reading"):
        host.answer()
    assert host.now.seconds == pytest.approx(holding_limit(3, 300), abs=1)


def test_one_that_reads_slowly_has_a_partys_share_of_time_whatever_was_before() -> None:
    host = Holding(Reads(1 << 20, 40), "carol")
    host.now.seconds = 800.0
    with pytest.raises(e.PeerTimeoutError, match="behind in reading"):
        host.answer()
    assert host.now.seconds == pytest.approx(1100, abs=1)


def test_only_a_word_of_its_own_gives_the_others_patience() -> None:
    host = Holding(Reads(1 << 20, 40), "carol")
    carol, bob = (host.party.peers[name] for name in ("carol", "bob"))
    host.now.seconds = 200.0
    host.party.notice_waiting(["bob"], 200.0)
    assert carol.told == 0.0
    host.party.post(bob, m.BatchDone(1, 0, stepped=False), patient=False)
    assert bob.told == 200.0


def test_a_slow_line_is_no_reason_to_end() -> None:
    five_megabits = Reads(5_000_000 // 8, 1)
    host = Holding(five_megabits, "carol", megabytes=190)
    host.answer()
    assert 300 < host.now.seconds < 330


# -- who sends slowly ---------------------------------------------------------------------------


def sends(every: float, *others: str, megabytes: int = 48) -> Holding:
    """A Host that gets the features of bob, a frame at a time."""
    host = Holding(Reads(0, 0), *others, answered=False)
    size = megabytes << 20
    spec = m.TensorSpec("", "float32", (size // 4, 1))
    features = m.Features(1, 0, size // 4, "tensor", (spec,))
    frames = encode(features, [bytearray(size)])
    host.party._endpoint = Trickle(host.now, host.bob, frames, every)
    return host


def test_a_message_may_take_its_time() -> None:
    host = sends(8, "carol")
    bob = host.party.peers["bob"]
    assert host.party.take(bob, m.Features).of(m.Features).batch == 0
    assert host.now() == pytest.approx(49 * 8, abs=1)


@pytest.mark.parametrize("others", [(), ("carol",)], ids=["alone", "beside another"])
def test_a_message_that_goes_on_and_on_is_its_senders_fault(others: tuple[str, ...]) -> None:
    host = sends(50, *others)
    with pytest.raises(e.PeerTimeoutError, match="bob has been sending one message") as caught:
        host.party.take(host.party.peers["bob"], m.Features)
    assert caught.value.party == "bob"
    most = holding_limit(3, 300) if others else 50 + 300 + (48 << 20) / LEAST_RATE
    assert host.now() == pytest.approx(most, abs=1)
    assert host.now() < host.limit - 10 or not others


def test_where_nobody_else_waits_only_the_least_rate_counts() -> None:
    host = Holding(Reads(1 << 20, 299))
    with pytest.raises(e.PeerTimeoutError, match="behind in reading"):
        host.answer()
    assert host.now.seconds == pytest.approx(300 + (48 << 20) / LEAST_RATE, abs=1)


def test_one_that_takes_nothing_is_given_up_sooner() -> None:
    host = Holding(Reads(0, 1e9), "carol")
    with pytest.raises(e.PeerTimeoutError, match="bob has taken nothing for 300 s"):
        host.answer()


def test_without_a_limit_a_slow_reader_is_borne() -> None:
    host = Holding(Reads(1 << 20, 1000), "carol", megabytes=4, calculation=0)
    host.answer()
    assert host.now.seconds > 3000
    assert holding_limit(3, 0) == host.limit == 0


def accepts_and_closes(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def answers_http(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            link, _ = server.accept()
            with contextlib.suppress(OSError):
                link.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                link.close()


@contextlib.contextmanager
def in_place_of_the_host(
    office: Path, answer: Callable[[socket.socket], None] = accepts_and_closes
) -> Iterator[None]:
    """Something else at the Host's address, until the end of the block."""
    server = socket.create_server(("127.0.0.1", port_of(office)))
    threading.Thread(target=answer, args=(server,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def port_of(home: Path) -> int:
    return int(load_task(task_path(TASK, home)).address.rpartition(":")[2])


@pytest.mark.slow
def test_something_that_accepts_before_the_host_is_up(
    office: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with in_place_of_the_host(office):
        with caplog.at_level(logging.WARNING, "heterofed"):
            bob = Victim(TinyCollaborator(tmp_path))
            time.sleep(4)
            assert bob._thread.is_alive()
        assert caplog.text.count("trying again: ") == 1
    host = Victim(TinyHost(tmp_path))
    for each in (host, bob):
        assert isinstance(each.outcome(60), TaskResult), each.outcome()


@pytest.mark.slow
def test_a_proxy_whose_host_never_comes(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A party that was never connected waits as long as it was told to, and says what it met."""
    monkeypatch.setattr(join, "HANDSHAKE_SECONDS", 0.5)
    with in_place_of_the_host(office):
        outcome = Victim(TinyCollaborator(tmp_path, join_timeout=5)).outcome(60)
    assert isinstance(outcome, e.JoinTimeoutError), repr(outcome)
    assert "accepts connections and says nothing of its own" in str(outcome)


@pytest.mark.slow
def test_handshakes_that_go_on_failing(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server answers, so nobody has to wait for the Host to come."""
    monkeypatch.setattr(join, "HANDSHAKE_SECONDS", 1.0)
    with in_place_of_the_host(office, answers_http):
        began = time.monotonic()
        outcome = Victim(TinyCollaborator(tmp_path)).outcome(60)
    assert isinstance(outcome, e.HandshakeError), repr(outcome)
    assert time.monotonic() - began > 1.0


@pytest.mark.slow
def test_a_proxy_in_front_of_a_host_that_starts_again(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A party that was connected waits as long as the plan says, whatever answers meanwhile."""
    monkeypatch.setattr(join, "HANDSHAKE_SECONDS", 1.0)
    bob = Victim(TinyCollaborator(tmp_path))
    first = Victim(crashing(TinyHost(tmp_path, wait_for_peers=60), "train_a_batch", 3))
    assert isinstance(first.outcome(60), CrashError)
    with in_place_of_the_host(office):
        time.sleep(6)
        assert bob._thread.is_alive()
    again = Victim(TinyHost(tmp_path, wait_for_peers=60))
    for each in (again, bob):
        assert isinstance(each.outcome(60), TaskResult), each.outcome()


@pytest.mark.slow
def test_one_process_is_there_once_with_its_newest_connection(
    offices: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"]))
    first, again, other = (connected("bob") for _ in range(3))
    open_links.extend((first, again, other))
    greeting = hello("bob")
    first.say(greeting)
    time.sleep(1)
    again.say(greeting)
    deadline = time.monotonic() + 20
    while not first.lost:
        assert time.monotonic() < deadline
        first.pump()
    other.say(hello("bob"))  # of another process
    assert other.hear(m.Abort)[0].code == "duplicate_party"
    carol = connected("carol")
    open_links.append(carol)
    carol.say(hello("carol"))
    again.hear(m.Welcome)
    carol.hear(m.Welcome)
    again.say(m.Abort("internal", "psi", "bob"))
    assert isinstance(host.outcome(), e.TaskFailed)


def test_a_key_that_expires_while_the_host_waits(
    office: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_links: list[Any]
) -> None:
    path = task_path(TASK, office)
    head, _, bob = path.read_text().partition("[[collaborators]]\n")
    path.write_text(f"{head}[[collaborators]]\nexpires = 2199-01-01\n{bob}")
    accept_task(TASK, "bob", lambda _terms, _party: True)
    host = Victim(TinyHost(tmp_path))
    link = connected("bob")
    open_links.append(link)
    greeting = hello("bob")

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2199, 1, 2, tzinfo=tz)

    monkeypatch.setattr(task_module, "datetime", Later)
    link.say(greeting)
    outcome = host.outcome(60, meanwhile=link.pump)
    assert isinstance(outcome, e.ConfigError), repr(outcome)
    assert "the key of bob expired on 2199-01-01" in str(outcome)


def test_lines_about_other_terms_are_short_and_few(
    office: Path, tmp_path: Path, open_links: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    host = Victim(TinyHost(tmp_path, join_timeout=0))
    good = hello("bob")
    with caplog.at_level(logging.WARNING, "heterofed"):
        for number in range(5):
            link = connected("bob")
            open_links.append(link)
            lie = good.terms.replace(b'"tiny"', b'"' + b"x " * 20_000 + b"%d" % number + b'"')
            fields = {name: getattr(good, name) for name in m.Hello.__struct_fields__}
            link.say(m.Hello(**{**fields, "terms": lie}))
            link.hear(m.Terms)
    lines = [each.getMessage() for each in caplog.records if "differs" in each.getMessage()]
    assert len(lines) == 1
    assert len(lines[0]) < 3000
    last = Victim(TinyCollaborator(tmp_path))
    for each in (host, last):
        assert isinstance(each.outcome(60), TaskResult), each.outcome()


def test_mail_that_nobody_takes_is_bounded() -> None:
    peer = Peer("a visitor", Silent(), Role.HOST, 0.0)
    greeting = m.Hello((1,), "train", bytes(32), "bob", bytes(16), True)
    held = peer.session.most_waiting - 1000
    peer.put(Mail(m.Bye(), bytearray(held - 512)))
    assert peer.decoder.feed(b"".join(map(bytes, encode(greeting)))) is not None
    peer.put(Mail(m.Bye(), bytearray(0)))
    with pytest.raises(e.RemoteProtocolError, match="more messages than may wait"):
        peer.decoder.feed(b"".join(map(bytes, encode(greeting))))
    peer.pop()
    peer.decoder = Peer("a visitor", Silent(), Role.HOST, 0.0).decoder
    assert peer.decoder.feed(b"".join(map(bytes, encode(greeting)))) is not None
