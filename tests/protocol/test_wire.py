"""Messages survive the wire whole; nothing else gets through, and nothing else comes out."""

from __future__ import annotations

import math
import re
import struct
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from heterofed.errors import LocalProtocolError, RemoteProtocolError
from heterofed.protocol import codec
from heterofed.protocol.codec import Buffer, Decoder, encode, payload_size
from heterofed.protocol.limits import MAX_FRAME_BYTES, MAX_HEADER_BYTES
from heterofed.protocol.messages import (
    MESSAGE_TYPES,
    Abort,
    Bye,
    Features,
    Gradients,
    Message,
    PsiBlinded,
    TensorSpec,
    Waiting,
    Welcome,
)
from heterofed.protocol.states import Role, State

from .link import HONEST_RUN, PLAN, H, Line, Link, link_in, tensor, welcome

PREFIX = 16
ROOT = Path(__file__).parents[2]
pack = msgspec.msgpack.encode
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def admit_all(message: Message, size: int) -> None:
    """Admit whatever fits into 16 MiB."""
    if size > 1 << 24:
        raise RemoteProtocolError("too large for this test")


def raw(header: bytes, payload: int = 0, start: bytes = b"HF\x01\x00") -> bytes:
    """Prefix and header, unchecked."""
    return start + struct.pack("<IQ", len(header), payload) + header


def carry(frames: list[Buffer], decoder: Decoder | None = None) -> tuple[Message, bytes]:
    """Feed one message's frames; only the last one may complete it."""
    decoder = decoder or Decoder(admit_all)
    for frame in frames[:-1]:
        assert 0 < len(frame) <= MAX_FRAME_BYTES
        assert decoder.feed(bytes(frame)) is None
        assert decoder.moving
    done = decoder.feed(bytes(frames[-1]))
    assert done is not None
    assert not decoder.moving
    message, payload = done
    return message, bytes(payload)


# Any message that the structs allow, made from the structs themselves


def values_of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.IntType(ge=low, le=high):
            return st.integers(-(2**63) if low is None else low, 2**63 if high is None else high)
        case inspect.FloatType(ge=low, gt=above, le=high, lt=below):
            return st.floats(
                above if low is None else low,
                below if high is None else high,
                exclude_min=above is not None,
                exclude_max=below is not None,
            )
        case inspect.StrType(min_length=low, max_length=high, pattern=None):
            return st.text(min_size=low or 0, max_size=high)
        case inspect.StrType(pattern=str() as pattern, max_length=high):
            return st.from_regex(pattern).filter(lambda word: len(word) <= (high or 0))
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=high)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.UnionType(types=kinds):
            return st.one_of(*map(values_of, kinds))
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            items = st.lists(values_of(item), min_size=low or 0, max_size=min(high or 4, 4))
            return items.map(tuple)
        case inspect.TupleType(item_types=kinds):
            return st.tuples(*map(values_of, kinds))
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: values_of(field.type) for field in fields})
    raise NotImplementedError(kind)


def largest_of(kind: inspect.Type) -> Any:
    """The value that takes the most bytes on the wire."""
    match kind:
        case inspect.IntType(le=high):
            return 2**64 - 1 if high is None else high
        case inspect.FloatType(lt=float() | int() as below):
            return math.nextafter(below, -math.inf)
        case inspect.FloatType(le=high):
            return 1e300 if high is None else high
        case inspect.StrType(max_length=high, pattern=None):
            return "\U0001f600" * (high or 0)
        case inspect.StrType(max_length=high, pattern=str() as pattern):
            # A letter of four bytes where letters are not only those of ASCII.
            words = [letter * (high or 0) for letter in ("\U00010400", "a")]
            return next(word for word in words if re.search(pattern, word))
        case inspect.BytesType(max_length=high):
            return bytes(high or 0)
        case inspect.BoolType():
            return True
        case inspect.LiteralType(values=values):
            return max(values, key=lambda value: len(str(value)))
        case inspect.UnionType(types=kinds):
            return next(
                largest_of(each) for each in kinds if not isinstance(each, inspect.NoneType)
            )
        case inspect.VarTupleType(item_type=item, max_length=high):
            assert high is not None, "every array has a largest length"
            return (largest_of(item),) * high
        case inspect.TupleType(item_types=kinds):
            return tuple(map(largest_of, kinds))
        case inspect.StructType(cls=cls, fields=fields):
            return cls(**{field.name: largest_of(field.type) for field in fields})
    raise NotImplementedError(kind)


def cut(payload: bytes, places: list[int]) -> list[Buffer]:
    """The payload as buffers of every kind, some of them empty."""
    kinds = (bytes, bytearray, memoryview)
    bounds = [0, *sorted(place % (len(payload) + 1) for place in places), len(payload)]
    parts = enumerate(pairwise(bounds))
    return [kinds[i % 3](payload[low:high]) for i, (low, high) in parts]


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
@settings(PATIENT, max_examples=20)
@given(data=st.data())
def test_every_message_survives_with_its_payload(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(values_of(inspect.type_info(kind)))
    payload = data.draw(st.binary(max_size=300))
    parts = cut(payload, data.draw(st.lists(st.integers(0, 300), max_size=4)))
    assert payload_size(parts) == len(payload)
    came, with_it = carry(encode(message, parts))
    assert (type(came), with_it) == (kind, payload)
    assert pack(came) == pack(message)  # of the values, NaN does not equal itself


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
def test_the_largest_message_has_room_for_its_header(kind: type[Message]) -> None:
    message = largest_of(inspect.type_info(kind))
    header = len(pack(message))
    assert header <= MAX_HEADER_BYTES
    frames = encode(message)
    assert carry(frames) == (message, b"")
    assert len(frames) == 1
    assert len(frames[0]) == PREFIX + header


def test_bulk_lies_in_payloads_and_not_in_structs() -> None:
    for kind in MESSAGE_TYPES:
        assert "payload" not in get_type_hints(kind)


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_frames_are_full_but_the_last(count: int, extra: int, parts: int) -> None:
    message = PsiBlinded(5)
    room = count * MAX_FRAME_BYTES + extra - PREFIX - len(pack(message))
    payload = Random(count).randbytes(room)
    frames = encode(message, cut(payload, [room * i // parts for i in range(1, parts)]))
    lengths = [len(frame) for frame in frames]
    assert sum(lengths) == count * MAX_FRAME_BYTES + extra
    assert all(length == MAX_FRAME_BYTES for length in lengths[:-1])
    assert len(lengths) == count + (extra > 0)
    assert carry(frames) == (message, payload)


def test_frames_within_one_buffer_are_not_copied() -> None:
    payload = bytearray(3 * MAX_FRAME_BYTES)
    _, *rest = encode(Bye(), [payload])
    assert len(rest) == 3
    assert all(isinstance(frame, memoryview) and frame.obj is payload for frame in rest)


def test_messages_follow_one_another_through_one_decoder() -> None:
    decoder = Decoder(admit_all)
    for size in (0, 5, MAX_FRAME_BYTES, 2 * MAX_FRAME_BYTES + 1, 0):
        assert carry(encode(PsiBlinded(size), [bytes(size)]), decoder) == (
            PsiBlinded(size),
            bytes(size),
        )


def test_payloads_of_other_item_types_are_bytes() -> None:
    numbers: Any = memoryview(struct.pack("<6f", *range(6))).cast("f", (2, 3))
    assert payload_size([numbers]) == 24
    assert carry(encode(Bye(), [numbers]))[1] == numbers.tobytes()


def test_admit_sees_header_and_size_before_the_payload_comes() -> None:
    seen = []
    decoder = Decoder(lambda message, size: seen.append((message, size)))
    frames = encode(PsiBlinded(3), [bytes(MAX_FRAME_BYTES)])
    assert decoder.feed(frames[0]) is None
    assert seen == [(PsiBlinded(3), MAX_FRAME_BYTES)]
    assert decoder.feed(frames[1]) == (PsiBlinded(3), bytearray(MAX_FRAME_BYTES))
    assert len(seen) == 1


def test_a_refused_message_leaves_the_decoder_as_it_was() -> None:
    decoder = Decoder(Link().ends[H].admit)
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        decoder.feed(encode(Bye())[0])
    assert not decoder.moving
    carry(encode(HONEST_RUN[0].message), decoder)


# What does not get through

PLAIN = bytes(encode(PsiBlinded(3))[0])
BEGIN = pack(["PsiBlinded", 3])
PLAN_FIELDS = msgspec.to_builtins(PLAN)
HELLO = ["Hello", [1], "train", bytes(32), "shop", bytes(16), True]
SPEC = ["x", "float32", [2, 3]]
FEATURES = ["Features", 1, 0, 2, "tensor", [SPEC]]


def changed(fields: list[Any], place: int, value: object) -> bytes:
    return raw(pack([*fields[:place], value, *fields[place + 1 :]]))


def planned(**fields: object) -> bytes:
    return raw(pack(["Welcome", 1, bytes(16), bytes(32), {**PLAN_FIELDS, **fields}]))


def test_the_samples_below_are_one_change_away_from_what_is_allowed() -> None:
    for good in (PLAIN, raw(BEGIN), raw(pack(HELLO)), raw(pack(FEATURES)), planned()):
        carry([good])
    assert raw(BEGIN) == PLAIN


FRAMES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "a frame of a length"),
    "oversized": (PLAIN + bytes(MAX_FRAME_BYTES), "a frame of a length"),
    "one byte": (PLAIN[:1], "too short"),
    "a byte short of a prefix": (PLAIN[:15], "too short"),
    "magic": (raw(BEGIN, start=b"HG\x01\x00"), "not a message of this format"),
    "version": (raw(BEGIN, start=b"HF\x02\x00"), "not a message of this format"),
    "version 0": (raw(BEGIN, start=b"HF\x00\x00"), "not a message of this format"),
    "reserved": (raw(BEGIN, start=b"HF\x01\x01"), "not a message of this format"),
    "header above its limit": (raw(bytes(MAX_HEADER_BYTES + 1)), "a header of a length"),
    "header beyond its frame": (PLAIN[:-1], "a header of a length"),
    "endless header": (PLAIN[:4] + b"\xff" * 4 + PLAIN[8:], "a header of a length"),
    "payload too large": (raw(BEGIN, 2**64 - 1), "too large for this test"),
    "more payload than declared": (raw(BEGIN, 3) + bytes(4), "a payload of another length"),
    "payload not declared": (raw(BEGIN) + b"\x00", "a payload of another length"),
    "less payload than declared": (raw(BEGIN, 3) + bytes(2), "a payload of another length"),
    "no payload where declared": (raw(BEGIN, 3), "a payload of another length"),
}

NO_NAMES = (
    " ", ".", "-", "..", "../shop", "shop/", "a/b", "a\\b", " shop", "shop ", ".shop", "shop.",
    "-shop", "shop-", "shop\n", "\nshop", "a\nb", "a\tb", "a\0b", "a\u00a0b", "a\u2028b",
    "a\u202eb", "a\x1b[2Jb", "a:b", "a*b", "<shop>", "\U0001f600",
)  # fmt: skip

HEADERS: dict[str, bytes] = {
    "nothing": raw(b""),
    "no MessagePack": raw(b"\xc1"),
    "text": raw(b"GET / HTTP/1.1"),
    "cut short": raw(BEGIN[:-1]),
    "bytes after it": raw(BEGIN + b"\x00"),
    "null": raw(pack(None)),
    "map": raw(pack({"type": "PsiBlinded", "count": 3})),
    "empty array": raw(pack([])),
    "no tag": raw(pack([3])),
    "unknown tag": raw(pack(["PsiBegun", 3])),
    "base class": raw(pack(["Message"])),
    "not a message": raw(pack(["TensorSpec", "x", "float32", [1]])),
    "tag of wrong type": raw(pack([b"PsiBlinded", 3])),
    "field missing": raw(pack(["PsiBlinded"])),
    "field too many": raw(pack(["PsiBlinded", 3, 4])),
    "field too many in a tensor": changed(FEATURES, 5, [[*SPEC, 1]]),
    "field unknown in a plan": planned(device="cuda"),
    "field missing in a plan": raw(pack(["Welcome", 1, bytes(16), bytes(32), {"host": "bank"}])),
    "number as text": raw(pack(["PsiBlinded", "3"])),
    "number as float": raw(pack(["PsiBlinded", 3.0])),
    "number as bool": raw(pack(["PsiBlinded", True])),
    "number as array": raw(pack(["PsiBlinded", [3]])),
    "null for a number": raw(pack(["PsiBlinded", None])),
    "negative number": raw(pack(["PsiBlinded", -1])),
    "number out of range": raw(pack(["PsiBlinded", 2**40 + 1])),
    "largest number": raw(pack(["PsiBlinded", 2**64 - 1])),
    "timestamp": raw(pack(["PsiBlinded", msgspec.msgpack.Ext(-1, bytes(4))])),
    "round 0": raw(pack(["BeginTrain", 0])),
    "round out of range": raw(pack(["BeginTrain", 10**9 + 1])),
    "negative batch": changed(FEATURES, 2, -1),
    "negative rows": changed(FEATURES, 3, -1),
    "unknown layout": changed(FEATURES, 4, "list"),
    "too many tensors": changed(FEATURES, 5, [SPEC] * 257),
    "unknown dtype": changed(FEATURES, 5, [["x", "complex64", [2]]]),
    "pickled dtype": changed(FEATURES, 5, [["x", "object", [2]]]),
    "long tensor name": changed(FEATURES, 5, [["x" * 129, "float32", [2]]]),
    "no dimension": changed(FEATURES, 5, [["x", "float32", []]]),
    "too many dimensions": changed(FEATURES, 5, [["x", "float32", [1] * 17]]),
    "negative dimension": changed(FEATURES, 5, [["x", "float32", [-1, -1]]]),
    "dimension out of range": changed(FEATURES, 5, [["x", "float32", [2**40 + 1]]]),
    "no protocol version": changed(HELLO, 1, [0]),
    "too many versions": changed(HELLO, 1, [1] * 17),
    "unknown purpose": changed(HELLO, 2, "spy"),
    "short digest": changed(HELLO, 3, bytes(31)),
    "long digest": changed(HELLO, 3, bytes(33)),
    "digest as text": changed(HELLO, 3, "0" * 32),
    "nameless party": changed(HELLO, 4, ""),
    "long party": changed(HELLO, 4, "x" * 129),
    **{f"party {name!r}": changed(HELLO, 4, name) for name in NO_NAMES},
    "host outside the pattern": planned(host="../bank"),
    "collaborator outside the pattern": planned(collaborators=["shop", "a/b"]),
    "waiting for a party outside the pattern": raw(pack(["Waiting", "shop\n"])),
    "abort of a party outside the pattern": raw(pack(["Abort", "internal", "train", "a/b"])),
    "long nonce": changed(HELLO, 5, bytes(17)),
    "bool as number": changed(HELLO, 6, 1),
    "credit 0": planned(credit=0),
    "endless credit": planned(credit=65),
    "no collaborator": planned(collaborators=[]),
    "too many collaborators": planned(collaborators=["x"] * 65),
    "timeout not a number": planned(calculation_timeout=math.nan),
    "infinite timeout": planned(schedule_timeout=math.inf),
    "negative timeout": planned(schedule_timeout=-1.0),
    "weak keys": planned(psi_bits=1024),
    "endless ids": planned(max_peer_ids=2**33),
    "endless batches": planned(max_batch_bytes=2**37),
    "loud abort": raw(pack(["Abort", "INTERNAL", "train", "shop"])),
    "long abort": raw(pack(["Abort", "a" * 65, "train", "shop"])),
    "abort in two lines": raw(pack(["Abort", "internal\n", "train", "shop"])),
    "chatty abort": raw(pack(["Abort", "a", "b", "shop", 0, None, [1, 2, 3]])),
    "abort with text": raw(pack(["Abort", "a", "b", "shop", 0, None, ["no"]])),
    "invalid UTF-8": raw(b"\x92\xa7Waiting\xa2\xff\xfe"),
    "invalid UTF-8 in the tag": raw(b"\x92\xa8\xff\xffiBegin\x03"),
    "surrogate": raw(b"\x92\xa7Waiting\xa3\xed\xa0\x80"),
    "nested arrays": raw(b"\x91" * 60_000),
    "nested arrays in a field": raw(b"\x92\xa8PsiBlinded" + b"\x91" * 60_000),
    "nested maps in a plan": raw(
        b"\x95\xa7Welcome\x01\xc4\x10" + bytes(16) + b"\xc4\x20" + bytes(32) + b"\x81\xa1x" * 20_000
    ),
    "huge array": raw(b"\xdd\xff\xff\xff\xff"),
    "huge array after its tag": raw(b"\xdd\xff\xff\xff\xff\xa5Hello"),
    "huge array in a field": raw(b"\x97\xa5Hello\xdd\xff\xff\xff\xff"),
    "huge map in a plan": raw(
        b"\x95\xa7Welcome\x01\xc4\x10"
        + bytes(16)
        + b"\xc4\x20"
        + bytes(32)
        + b"\xdf\xff\xff\xff\xff"
    ),
    "huge text": raw(b"\x92\xa7Waiting\xdb\xff\xff\xff\xff"),
    "huge bytes": raw(b"\x97\xa5Hello\x91\x01\xa5train\xc6\xff\xff\xff\xff"),
}


@pytest.mark.parametrize(("frame", "why"), FRAMES.values(), ids=FRAMES.keys())
def test_frame_is_refused(frame: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        Decoder(admit_all).feed(frame)


@pytest.mark.parametrize("frame", HEADERS.values(), ids=HEADERS.keys())
def test_header_is_refused_without_quoting_it(frame: bytes) -> None:
    decoder = Decoder(admit_all)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError) as refused:
            decoder.feed(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(refused.value) == "a header that is not a message of this protocol"
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    assert not decoder.moving
    assert peak < 1 << 20


def test_a_header_of_the_largest_size_is_read() -> None:
    with pytest.raises(RemoteProtocolError, match="not a message of this protocol"):
        Decoder(admit_all).feed(raw(bytes(MAX_HEADER_BYTES)))


@pytest.mark.parametrize("length", [1, 15, MAX_FRAME_BYTES - 1])
def test_a_short_frame_in_the_middle_is_refused(length: int) -> None:
    first, middle, _ = encode(Bye(), [bytes(2 * MAX_FRAME_BYTES + 9)])
    decoder = Decoder(admit_all)
    decoder.feed(first)
    with pytest.raises(RemoteProtocolError, match="a payload of another length"):
        decoder.feed(middle[:length])


def test_a_last_frame_that_is_too_long_is_refused() -> None:
    first, last = encode(Bye(), [bytes(MAX_FRAME_BYTES)])
    for frame in (bytes(last) + b"\x00", bytes(MAX_FRAME_BYTES)):
        decoder = Decoder(admit_all)
        decoder.feed(first)
        with pytest.raises(RemoteProtocolError, match="a payload of another length"):
            decoder.feed(frame)


@pytest.mark.parametrize(
    "name", ["a", "1", "_", "shop_1", "my shop", "a.b-c_d  e", "Z\u00fcrich", "\u5e97", "x" * 128]
)
def test_a_party_may_have_this_name(name: str) -> None:
    carry([changed(HELLO, 4, name)])
    carry([planned(host=name, collaborators=[name])])
    for message in (Waiting(name), Abort("internal", "train", name)):
        assert carry(encode(message)) == (message, b"")


def test_an_empty_frame_in_the_middle_is_refused() -> None:
    decoder = Decoder(admit_all)
    decoder.feed(encode(Bye(), [bytes(MAX_FRAME_BYTES)])[0])
    with pytest.raises(RemoteProtocolError, match="a frame of a length"):
        decoder.feed(b"")


def test_a_new_message_may_not_start_within_another() -> None:
    decoder = Decoder(admit_all)
    decoder.feed(encode(Bye(), [bytes(MAX_FRAME_BYTES)])[0])
    with pytest.raises(RemoteProtocolError, match="a payload of another length"):
        decoder.feed(PLAIN)


HUGE = TensorSpec("", "uint8", (1, 2**40))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("size", [2**30, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize(
    "message",
    [Features(1, 0, 1, "tensor", (HUGE,)), Gradients(1, 0, (HUGE,)), PsiBlinded(1), Bye()],
)
def test_a_huge_payload_gets_no_room(state: State, size: int, message: Message) -> None:
    for role in Role:
        decoder = Decoder(link_in(state).ends[role].admit)
        frame = raw(pack(message), size)
        tracemalloc.start()
        try:
            with pytest.raises(RemoteProtocolError):
                decoder.feed(frame)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 16
        assert not decoder.moving


@pytest.mark.parametrize(
    "message",
    [
        PsiBlinded(-1),
        PsiBlinded(2**70),
        Waiting(""),
        Waiting("\ud800"),
        Waiting("../shop"),
        Waiting("shop\n"),
        welcome(msgspec.structs.replace(PLAN, host="a/b")).message,
        Abort("Not a word!", "train", "shop"),
        Abort("internal\n", "train", "shop"),
        Abort("internal", "train", "shop", numbers=(1, 2, 3)),
        Features(1, 0, 2, "tensor", (tensor(2, dtype="complex64"),)),
        Features(1, 0, 2, "tensor", (tensor(2),) * 257),
        Welcome(1, b"", b"", PLAN),
        welcome(msgspec.structs.replace(PLAN, credit=65)).message,
        Message(),
    ],
    ids=str,
)
def test_what_the_peer_would_refuse_is_not_encoded(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match=f"^{type(message).__name__} cannot be sent: "):
        encode(message)


# Noise


@settings(PATIENT, max_examples=500)
@given(frames=st.lists(st.binary(max_size=200), min_size=1, max_size=3))
@example(frames=[PLAIN, PLAIN])
def test_noise_is_refused_and_nothing_else(frames: list[bytes]) -> None:
    feed_noise(frames)


@settings(PATIENT, max_examples=500)
@given(header=st.binary(max_size=100), size=st.integers(0, 2**64 - 1), rest=st.binary(max_size=9))
def test_noise_behind_a_good_prefix(header: bytes, size: int, rest: bytes) -> None:
    feed_noise([raw(header, size) + rest])


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.slow
@settings(PATIENT, max_examples=150)
@given(
    tag=st.sampled_from([kind.__name__ for kind in MESSAGE_TYPES]),
    fields=st.lists(nested, max_size=8),
)
def test_noise_in_the_fields(tag: str, fields: list[Any]) -> None:
    feed_noise([raw(pack([tag, *fields]))])


def feed_noise(frames: list[bytes]) -> Message | None:
    decoder = Decoder(admit_all)
    for frame in frames:
        try:
            done = decoder.feed(frame)
        except RemoteProtocolError:
            return None
        if done is not None:
            message, payload = done
            assert carry(encode(message, [payload])) == (message, bytes(payload))
            return message
    return None


def mutate(random: Random, frame: bytes) -> bytes:
    work = bytearray(frame)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(work)) if work else 0
        match random.randrange(5):
            case 0 if work:
                work[place] ^= 1 << random.randrange(8)
            case 1 if work:
                work[place] = random.randrange(256)
            case 2:
                del work[place : place + random.randint(1, 8)]
            case 3:
                work[place:place] = random.randbytes(random.randint(1, 8))
            case _:
                work += work[place : place + random.randint(1, 8)]
    return bytes(work)


@pytest.mark.parametrize("line", {type(line.message): line for line in HONEST_RUN}.values())
def test_mutated_messages_are_messages_or_refused(line: Line) -> None:
    random = Random(line.size)
    frame = bytes(encode(line.message, [bytes(min(line.size, 40))])[0])
    kept = sum(feed_noise([mutate(random, frame)]) is not None for _ in range(500))
    assert kept < 500


@pytest.mark.slow
def test_mutated_mail_never_breaks_a_session() -> None:
    """Whole path: bytes of a hostile peer into decoder and session, in every state."""
    random = Random(5)
    frames = [bytes(encode(line.message, [bytes(line.size)])[0]) for line in HONEST_RUN]
    for state in State:
        for role in Role:
            for frame in frames:
                session = link_in(state).ends[role]
                decoder = Decoder(session.admit)
                try:
                    done = decoder.feed(mutate(random, frame))
                    if done is not None:
                        message, payload = done
                        session.receive(message, len(payload))
                except RemoteProtocolError:
                    assert session.state is state


@pytest.mark.parametrize("module", ["heterofed.protocol.session", "heterofed.protocol.codec"])
def test_loads_neither_torch_nor_zmq(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'zmq', 'numpy'}} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"


def test_the_format_is_the_one_that_the_module_draws() -> None:
    assert codec.__doc__ is not None
    frame = bytes(encode(PsiBlinded(2), [b"abcd"])[0])
    header = bytes.fromhex("92 aa 5073 6942 6c69 6e64 6564 02")
    assert frame == b"HF\x01\x00" + b"\x0d\0\0\0" + b"\x04\0\0\0\0\0\0\0" + header + b"abcd"
