"""Parties that lie: they speak the wire format over real sockets; no session holds them back."""

from __future__ import annotations

import secrets
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import msgspec
import torch

import psi
from heterofed.compute.alignment import default_split, keyed_digest
from heterofed.compute.tensors import pack
from heterofed.files import heterofed_home
from heterofed.identity.task_file import load_task, task_path
from heterofed.privacy.mask_keys import MaskKey
from heterofed.protocol import messages as m
from heterofed.protocol.codec import Decoder, encode
from heterofed.protocol.plan import Plan
from heterofed.rendezvous.agreement import task_digest
from heterofed.rendezvous.backend import LocalPlace, Place, TaskPlace
from heterofed.transport.base import Buffer, Channel, Endpoint, Lost, Opened, Received
from tests.e2e.tiny import IDS

TASK = "tiny"
M = TypeVar("M", bound=m.Message)


class Link:
    """One connection: says anything, hears what comes."""

    def __init__(self, endpoint: Endpoint, channel: Channel) -> None:
        self.endpoint, self.channel = endpoint, channel
        self._decoder = Decoder(lambda _message, _size: None)
        self._heard: list[tuple[m.Message, bytearray]] = []
        self.lost = False

    def say(self, message: m.Message, payload: Sequence[Buffer] = ()) -> None:
        self.channel.send(encode(message, payload))

    def say_anything(self, message: m.Message) -> None:
        """Say a message that an honest party's own checks would keep back."""
        header = msgspec.msgpack.encode(message)
        self.channel.send([struct.pack("<2sBBIQ", b"HF", 1, 0, len(header), 0) + header])

    def pump(self) -> None:
        for event in self.endpoint.poll(0.05):
            if isinstance(event, Received):
                complete = self._decoder.feed(event.frame)
                if complete is not None:
                    self._heard.append(complete)
            elif isinstance(event, Lost):
                self.lost = True

    def hear(self, kind: type[M], timeout: float = 20) -> tuple[M, bytes]:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            while self._heard:
                message, payload = self._heard.pop(0)
                if isinstance(message, kind):
                    return message, bytes(payload)
                if not isinstance(message, m.Waiting):
                    raise AssertionError(f"heard {message!r} and not {kind.__name__}")
            if self.lost:
                raise AssertionError(f"lost while waiting for {kind.__name__}")
            self.pump()
        raise AssertionError(f"never heard {kind.__name__}")

    def close(self) -> None:
        self.endpoint.close()


def place(party: str) -> Place:
    """Where a party goes for the task: TCP with keys where there is a task file."""
    home = heterofed_home()
    path = task_path(TASK, home)
    return TaskPlace(load_task(path), party, home) if path.exists() else LocalPlace(TASK, home)


def connected(party: str = "bob") -> Link:
    """A connection to the Host of the task as that party, made once there is one."""
    where = place(party)
    for _ in range(100):
        endpoint = where.connect()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            events = endpoint.poll(0.1)
            if any(isinstance(each, Opened) for each in events):
                return Link(endpoint, endpoint.channel)  # type: ignore[attr-defined]
            if events:
                break
        endpoint.close()
        time.sleep(0.05)
    raise AssertionError("no Host")


def hello(party: str = "bob", mask_key: bytes | None = None) -> m.Hello:
    nonce, terms = secrets.token_bytes(16), place(party).terms
    task = task_digest(TASK)
    return m.Hello((1,), "train", task, party, nonce, True, terms=terms, mask_key=mask_key)


def domain_of(host: str, collaborator: str) -> bytes:
    return psi.domain(TASK, f"{host}\0{collaborator}")


class LyingCollaborator:
    """Honest up to the phase that a test wants."""

    def __init__(self, party: str = "bob") -> None:
        self.name, self.link = party, connected(party)
        self.link.say(hello(party, MaskKey().public))
        self.welcome, _ = self.link.hear(m.Welcome)

    def intersect(self, bits: int = 2048, ids: Sequence[str] = IDS[:9:-1]) -> None:
        link = self.link
        with psi.RSASigner(ids, domain=domain_of("alice", self.name), bits=bits) as signer:
            link.say(m.PsiKey(len(ids)), [signer.public_key()])
            begin, _ = link.hear(m.PsiBegin)
            signer.begin(begin.count)
            signed = 0
            while signed < begin.count:
                asked, values = link.hear(m.PsiBlinded)
                link.say(m.PsiSigned(asked.values), [signer.sign(values)])
                signed += asked.values
            link.hear(m.PsiUnblinded)
            for tags in signer.tags():
                link.say(m.PsiTags(len(tags) // 16), [tags])
            matched = None
            while matched is None:
                message, proofs = link.hear(m.PsiMatched)
                matched = signer.matched(proofs, last=message.last)

    def to_train(self) -> LyingCollaborator:
        self.intersect()
        self.link.hear(m.SplitPlan)
        self.link.say(m.SplitAccepted())
        self.link.hear(m.BeginTrain)
        return self

    def send(self, batch: int = 0, layout: Any = "tensor", **tensors: torch.Tensor) -> None:
        given = tensors or {"": torch.zeros(16, 4)}
        specs, payload = pack(given)
        self.link.say(m.Features(1, batch, specs[0].shape[0], layout, specs), payload)


class LyingHost:
    """Honest up to the phase that a test wants."""

    def __init__(self, name: str = "alice", **plan: Any) -> None:
        self._stack = ExitStack()
        self._endpoint = self._stack.enter_context(place(name).listen())
        self._name, self._plan = name, plan
        self.run, self.secret = secrets.token_bytes(16), secrets.token_bytes(32)
        self.link: Link

    def met(self) -> m.Hello:
        """What the first party says that comes."""
        deadline = time.monotonic() + 20
        first: Received | None = None
        while first is None and time.monotonic() < deadline:
            for event in self._endpoint.poll(0.1):
                if isinstance(event, Opened):
                    self.link = Link(self._endpoint, event.channel)
                elif isinstance(event, Received):
                    first = event
        assert first is not None
        said = Decoder(lambda _message, _size: None).feed(first.frame)
        assert said is not None
        assert isinstance(said[0], m.Hello)
        return said[0]

    def plan_for(self, said: m.Hello) -> Plan:
        """The plan with that party."""
        told = {"host": self._name, "collaborators": (said.party,), "max_rounds": 2}
        return Plan(**{**told, **self._plan})

    def welcome(self) -> LyingHost:
        said = self.met()
        plan = self.plan_for(said)
        keys = {name: MaskKey().public for name in plan.collaborators}
        keys[said.party] = said.mask_key or b""
        relayed = tuple(keys.values()) if plan.fusion == "masked_sum" else ()
        self.link.say(m.Welcome(1, self.run, self.secret, plan, relayed))
        return self

    def intersect(self, ids: Sequence[str] = tuple(IDS[:50]), claim: bool = True) -> list[str]:
        link = self.link
        key, blob = link.hear(m.PsiKey)
        if key.kept:
            link.say(m.PsiRenew())
            key, blob = link.hear(m.PsiKey)
        with psi.RSARequester(ids, blob, key.count, domain=domain_of(self._name, "bob")) as asking:
            link.say(m.PsiBegin(len(ids)))
            for chunk in asking.blinded():
                link.say(m.PsiBlinded(len(chunk) // asking.value_bytes), [chunk])
                asking.unblind(link.hear(m.PsiSigned)[1])
            link.say(m.PsiUnblinded())
            came = 0
            while came < key.count:
                tags, raw = link.hear(m.PsiTags)
                asking.add_tags(raw)
                came += tags.values
            common = asking.intersection()
            if claim:
                for proofs in asking.proofs(common):
                    link.say(m.PsiMatched(len(proofs) // 16, last=False), [proofs])
                link.say(m.PsiMatched(0, last=True))
        return common

    def to_train(self, staleness: int = 0) -> LyingHost:
        train, test = map(sorted, default_split(self.intersect()))
        digests = [keyed_digest(self.secret, *pair) for pair in (("train", train), ("test", test))]
        self.link.say(m.SplitPlan(digests[0], digests[1], len(train), len(test)))
        self.link.hear(m.SplitAccepted)
        self.link.say(m.BeginTrain(1, staleness))
        return self

    def close(self) -> None:
        self._endpoint.close()
        self._stack.close()


class Victim:
    """An honest party in a thread; `outcome` is its result, or what ended it."""

    def __init__(self, scheduler: Any) -> None:
        self._outcome: Any = None
        self._thread = threading.Thread(target=self._run, args=(scheduler,), daemon=True)
        self._thread.start()

    def _run(self, scheduler: Any) -> None:
        try:
            self._outcome = scheduler.launch_task(TASK)
        except BaseException as error:  # handed to the test
            self._outcome = error

    def outcome(self, timeout: float = 30, meanwhile: Callable[[], None] | None = None) -> Any:
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < deadline:
            if meanwhile is not None:
                meanwhile()
            self._thread.join(0.05)
        assert not self._thread.is_alive(), "still running"
        return self._outcome
