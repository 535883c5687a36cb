"""A listed party that sends what no honest one would: it is named, and nothing of it is used."""

from __future__ import annotations

import contextlib
import pickle
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import zmq

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.compute.tensors import pack
from heterofed.hetero_nn.train.training import CollaboratorTraining
from heterofed.identity.keys import load_key
from heterofed.identity.task_file import load_task, task_path
from heterofed.protocol import messages as m
from heterofed.protocol.codec import encode
from tests.adversarial.peers import TASK, LyingCollaborator, Victim, connected, hello
from tests.e2e.tiny import TinyCollaborator, TinyHost, training_by

pytestmark = pytest.mark.slow

pack_header = msgspec.msgpack.encode


def raw(header: bytes, payload: bytes = b"", claimed: int | None = None) -> bytes:
    size = len(payload) if claimed is None else claimed
    return b"HF\x01\x00" + struct.pack("<IQ", len(header), size) + header + payload


def features(*fields: Any) -> bytes:
    return pack_header(["Features", *fields])


SPEC = ["", "float32", [16, 4]]
TENSOR = bytes(256)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (open, (str(self._path), "w"))


# -- before the task begins: the Host waits on for the honest ones ---------------------------------


@contextmanager
def dealer(home: Path) -> Iterator[zmq.Socket[bytes]]:
    """bob's key on a socket that does as it likes."""
    bob, alice = load_key("bob", home), load_key("alice", home)
    with zmq.Context() as context, context.socket(zmq.DEALER) as found:
        found.setsockopt(zmq.LINGER, 0)
        found.setsockopt(zmq.CURVE_SERVERKEY, alice.public.encode())
        found.setsockopt(zmq.CURVE_PUBLICKEY, bob.public.encode())
        found.setsockopt(zmq.CURVE_SECRETKEY, bob.secret.encode())
        found.setsockopt(zmq.RECONNECT_IVL, -1)
        found.connect(load_task(task_path(TASK, home)).address)
        yield found


def nested(depth: int) -> bytes:
    return b"\x91" * depth


def hello_frame() -> bytes:
    return b"".join(map(bytes, encode(hello("bob"))))


FIRST_WORDS: dict[str, Callable[[], list[list[bytes]]]] = {
    "empty": lambda: [[b""]],
    "one byte": lambda: [[b"x"]],
    "two parts": lambda: [[b"a", b"b"]],
    "transport's own": lambda: [[b"", b"c"]],
    "an acknowledgement": lambda: [[b"", bytes(8)]],
    "a thousand parts": lambda: [[b"x"] * 1000],
    "truncated Hello": lambda: [[hello_frame()[:-1]]],
    "prefix alone": lambda: [[hello_frame()[:16]]],
    "Hello and more": lambda: [[hello_frame() + b"x"]],
    "Hello twice": lambda: [[hello_frame()], [hello_frame()]],
    "other magic": lambda: [[b"XX" + hello_frame()[2:]]],
    "other version": lambda: [[b"HF\x02" + hello_frame()[3:]]],
    "a pickle": lambda: [[pickle.dumps({"party": "bob"})]],
    "a pickle as header": lambda: [[raw(pickle.dumps({"party": "bob"}))]],
    "header longer than its frame": lambda: [[b"HF\x01\x00" + struct.pack("<IQ", 2**31, 0)]],
    "header of 200 KiB": lambda: [[raw(bytes(200 << 10))]],
    "nested arrays": lambda: [[raw(nested(100_000))]],
    "array of 2^32-1": lambda: [[raw(b"\xdd\xff\xff\xff\xff")]],
    "string of 2^32-1": lambda: [[raw(b"\xdb\xff\xff\xff\xff")]],
    "Hello with a payload": lambda: [[hello_frame()[:8] + struct.pack("<Q", 1 << 40)
                                      + hello_frame()[16:]]],
    "Features at once": lambda: [[raw(features(1, 0, 16, "tensor", [SPEC]), TENSOR)]],
    "Bye at once": lambda: [[raw(pack_header(["Bye"]))]],
    "an Abort": lambda: [[raw(pack_header(["Abort", "hook", "train", "bob"]))]],
    "a Host's message": lambda: [[raw(pack_header(["Finish", 0]))]],
    "no such message": lambda: [[raw(pack_header(["Exec", "import os"]))]],
    "a map": lambda: [[raw(pack_header({"type": "Hello"}))]],
}  # fmt: skip


def test_bad_first_words_keep_nobody_else_out(offices: Path, tmp_path: Path) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"]))
    connected("bob").close()
    for frames in FIRST_WORDS.values():
        with dealer(offices) as peer:
            for parts in frames():
                peer.send_multipart(parts)
            peer.poll(150)
    guests = [Victim(TinyCollaborator(tmp_path, name)) for name in ("bob", "carol")]
    for each in (host, *guests):
        assert isinstance(each.outcome(), TaskResult), each.outcome()


# -- in training: the task ends, and the liar is named --------------------------------------------


def say(bob: LyingCollaborator, *frames: bytes) -> None:
    bob.link.channel.send(frames)


def twice(bob: LyingCollaborator) -> None:
    bob.send()
    bob.send()


LIES: dict[str, Callable[[LyingCollaborator], None]] = {
    "a batch twice": twice,
    "the second batch first": lambda bob: bob.send(batch=1),
    "a negative batch": lambda bob: say(
        bob, raw(features(1, -1, 16, "tensor", [SPEC]), TENSOR)),
    "a negative round": lambda bob: say(
        bob, raw(features(-1, 0, 16, "tensor", [SPEC]), TENSOR)),
    "another round": lambda bob: say(
        bob, raw(features(2, 0, 16, "tensor", [SPEC]), TENSOR)),
    "a batch of 2^63": lambda bob: say(
        bob, raw(features(1, 2**63, 16, "tensor", [SPEC]), TENSOR)),
    "a dtype that there is not": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [["", "object", [16, 4]]]), TENSOR)),
    "a smaller dtype": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [["", "float16", [16, 4]]]), TENSOR)),
    "a larger shape": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [["", "float32", [16, 5]]]), TENSOR)),
    "a negative dimension": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [["", "float32", [16, -4]]]), TENSOR)),
    "seventeen dimensions": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [["", "float32", [16, 4, *[1] * 15]]]), TENSOR)),
    "no dimension": lambda bob: say(
        bob, raw(features(1, 0, 1, "tensor", [["", "float32", []]]), bytes(4))),
    "dimensions that overflow": lambda bob: say(
        bob, raw(features(1, 0, 2**40, "tensor", [["", "int8", [2**40] * 8]]), TENSOR)),
    "a thousand tensors": lambda bob: say(
        bob, raw(features(1, 0, 16, "dict", [SPEC] * 1000), TENSOR)),
    "a tensor's name twice": lambda bob: say(
        bob, raw(features(1, 0, 16, "dict", [SPEC, SPEC]), TENSOR + TENSOR)),
    "rows that are not the tensor's": lambda bob: say(
        bob, raw(features(1, 0, 15, "tensor", [SPEC]), TENSOR)),
    "a terabyte announced": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [["", "float32", [16, 2**34]]]), claimed=1 << 40)),
    "a payload that is too short": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [SPEC]), TENSOR[:-1], claimed=256)),
    "a payload that is too long": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [SPEC]), TENSOR + b"x", claimed=256)),
    "a pickle instead": lambda bob: say(
        bob, raw(features(1, 0, 16, "tensor", [SPEC]), pickle.dumps(torch.zeros(2)), claimed=256)),
    "an unknown layout": lambda bob: say(
        bob, raw(features(1, 0, 16, "list", [SPEC]), TENSOR)),
    "nested arrays": lambda bob: say(bob, raw(nested(200_000))),
    "more batches than there were": lambda bob: bob.link.say(m.EndOfFeatures(1, 3)),
    "a key again": lambda bob: bob.link.say(m.PsiKey(3), [b"x" * 300]),
    "a goodbye": lambda bob: bob.link.say(m.Bye()),
    "gradients": lambda bob: bob.link.say(m.Gradients(1, 0, pack({"": torch.zeros(16, 4)})[0])),
    "an end of the round": lambda bob: bob.link.say(m.RoundEnd(1, best=True, last=False)),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lies_in_training_over_tcp(
    lie: str, office: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(TinyHost(tmp_path))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    LIES[lie](bob)
    outcome = host.outcome(meanwhile=bob.link.pump)
    assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
    assert not isinstance(outcome, e.TaskAborted)
    assert outcome.party == "bob"
    assert "phase train" in str(outcome)


def test_a_pickle_of_the_right_size_is_numbers(
    office: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    trap = tmp_path / "trapped"
    code = pickle.dumps(Trap(trap)).ljust(256, b"\0")
    assert len(code) == 256
    pickle.loads(code).close()
    assert trap.exists()  # the trap works
    trap.unlink()
    host = Victim(TinyHost(tmp_path))
    bob = LyingCollaborator().to_train()
    say(bob, raw(features(1, 0, 16, "tensor", [SPEC]), code))
    with contextlib.suppress(AssertionError):  # they may not have been finite
        bob.link.hear(m.Gradients, 3)
    bob.link.close()
    assert isinstance(host.outcome(), e.TaskFailed)
    assert not trap.exists()


def test_words_after_the_end_change_nothing(
    office: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    def finish(task: Any, run: Any, host: Any, told: Any) -> None:
        CollaboratorTraining._finish(task, run, host, told)
        for late in (m.Bye(), m.PsiKey(3), m.Abort("hook", "train", "bob")):
            try:
                host.channel.send(encode(late))
            except e.HeteroFedError:
                return

    last = training_by(TinyCollaborator(tmp_path), _finish=finish)
    host, bob = Victim(TinyHost(tmp_path)), Victim(last)
    for each in (host, bob):
        assert isinstance(each.outcome(), TaskResult), each.outcome()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf")], ids=["nan", "inf", "-inf"]
)
def test_values_that_are_not_finite_name_party_and_batch(
    value: float, office: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(TinyHost(tmp_path))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    bob.send()
    bob.link.hear(m.Gradients)
    bad = torch.zeros(16, 4)
    bad[7, 2] = value
    bob.send(batch=1, **{"": bad})
    outcome = host.outcome(meanwhile=bob.link.pump)
    assert isinstance(outcome, e.NonFiniteError)
    assert outcome.party == "bob"
    assert any("batch 1" in note for note in outcome.__notes__)


@pytest.mark.parametrize("change", ["dtype", "dimensions", "layout", "width", "empty"])
def test_forms_that_change_between_batches(
    change: str, office: Path, tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(TinyHost(tmp_path))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    bob.send()
    bob.link.hear(m.Gradients)
    match change:
        case "dtype":
            bob.send(batch=1, **{"": torch.zeros(16, 4, dtype=torch.float64)})
        case "dimensions":
            bob.send(batch=1, **{"": torch.zeros(16, 4, 1)})
        case "width":
            bob.send(batch=1, **{"": torch.zeros(16, 5)})
        case "empty":
            bob.send(batch=1, **{"": torch.zeros(16, 0)})
        case _:
            bob.send(batch=1, layout="dict", a=torch.zeros(16, 4))
    outcome = host.outcome(meanwhile=bob.link.pump)
    assert isinstance(outcome, e.RemoteProtocolError)
    assert outcome.party == "bob"
    assert "other tensors than in earlier batches" in str(outcome)
