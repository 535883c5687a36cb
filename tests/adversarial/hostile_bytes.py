"""What a fuzzer's bytes are made into: frames of a hostile peer, in any state, to either role.

Only `RemoteProtocolError` may come of it (and `ValueError` from terms that are none), nothing may
hang, and a message that was let in must be one that the table lists there, within its limits.
"""

from __future__ import annotations

import copy
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from heterofed.errors import RemoteProtocolError
from heterofed.identity.task_terms import shown_terms
from heterofed.protocol import codec, counts, messages, session
from heterofed.protocol.limits import MAX_FRAME_BYTES
from heterofed.protocol.states import ENDED, TABLE, Role, State
from tests.protocol.link import HONEST_RUN, link_in

SESSIONS = {(role, state): link_in(state).ends[role] for role in Role for state in State}
PLACES = list(SESSIONS)
SAMPLES = [b"".join(map(bytes, codec.encode(line.message))) for line in HONEST_RUN]
LEGAL = {
    (role, state): [
        line
        for line in HONEST_RUN
        if line.speaker is role.other and (role.other, type(line.message)) in TABLE[state]
    ]
    for role, state in PLACES
}
NAMES = [kind.__name__.encode() for kind in messages.MESSAGE_TYPES]
INTERESTING = [0, 1, 2, 7, 127, 128, 255, 256, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1]


def clone(kept: session.Session) -> session.Session:
    """A session that goes on by itself from where this one stands."""

    def own(value: Any) -> Any:
        if type(value).__module__ in (session.__name__, counts.__name__):
            value = copy.copy(value)
            vars(value).update({name: own(each) for name, each in vars(value).items()})
        return copy.copy(value) if isinstance(value, deque | dict) else value

    copied: session.Session = own(kept)
    return copied


class Reader:
    """Bytes that are used up from the front; zeros afterwards."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._data))


def raw(read: Reader) -> bytes:
    """A frame as it comes."""
    return read.take(read.byte() * 4)


def headed(read: Reader) -> bytes:
    """A good prefix and any header, with a payload that may be another size than it says."""
    header = read.take(read.byte())
    payload = read.take(read.byte())
    claimed = len(payload) if read.byte() % 4 else INTERESTING[read.byte() % len(INTERESTING)]
    return b"HF\x01\x00" + struct.pack("<IQ", len(header), claimed) + header + payload


def mutated(read: Reader) -> bytes:
    """What an honest party said, with some bytes changed, and some payload."""
    frame = bytearray(SAMPLES[read.byte() % len(SAMPLES)])
    for _ in range(read.byte() % 4):
        frame[(read.byte() << 8 | read.byte()) % len(frame)] ^= read.byte()
    payload = bytes(INTERESTING[read.byte() % 8])
    if read.byte() % 4:
        frame[8:16] = struct.pack("<Q", len(payload))
    return bytes(frame) + payload


def shaped(read: Reader) -> bytes:
    """An array that starts with a message's name and goes on with anything."""
    fields = [packed(read, 0) for _ in range(read.byte() % 8)]
    name = NAMES[read.byte() % len(NAMES)]
    header = bytes([0x90 | (1 + len(fields))]) + bytes([0xA0 | len(name)]) + name + b"".join(fields)
    payload = bytes(INTERESTING[read.byte() % 8])
    return b"HF\x01\x00" + struct.pack("<IQ", len(header), len(payload)) + header + payload


def packed(read: Reader, depth: int) -> bytes:
    """One MessagePack value."""
    kind = read.byte() % 8
    if kind == 0:
        return bytes([read.byte()])  # any one-byte marker
    if kind == 1:
        return b"\xcf" + struct.pack(">Q", INTERESTING[read.byte() % len(INTERESTING)])
    if kind == 2:
        return b"\xd3" + struct.pack(">q", -INTERESTING[read.byte() % len(INTERESTING)])
    if kind == 3:
        text = read.take(read.byte() % 32)
        return bytes([0xA0 | len(text)]) + text
    if kind == 4:
        blob = read.take(read.byte() % 64) or bytes(32)
        return b"\xc4" + bytes([len(blob)]) + blob
    if kind == 5 and depth < 4:
        items = [packed(read, depth + 1) for _ in range(read.byte() % 5)]
        return bytes([0x90 | len(items)]) + b"".join(items)
    if kind == 6:
        return b"\xcb" + read.take(8).ljust(8, b"\0")
    return b"\xa7float32\x92\x02\x01" if read.byte() % 2 else b"\xc2"


MAKERS: list[Callable[[Reader], bytes]] = [raw, headed, mutated, shaped]


def lawful(read: Reader, hearing: session.Session) -> bytes:
    """What may be said there, as an honest party once said it, with at most one byte changed."""
    lines = LEGAL[hearing.role, hearing.state]
    if not lines:
        return mutated(read)
    line = lines[read.byte() % len(lines)]
    frame = bytearray(b"".join(map(bytes, codec.encode(line.message, [bytes(line.size)]))))
    if read.byte() % 2:
        frame[(read.byte() << 8 | read.byte()) % len(frame)] ^= read.byte()
    return bytes(frame)


def frames(read: Reader, hearing: session.Session) -> Iterator[bytes]:
    for _ in range(8):
        if not read:
            return
        choice = read.byte() % (2 * len(MAKERS))
        yield MAKERS[choice](read) if choice < len(MAKERS) else lawful(read, hearing)


def say(data: bytes) -> int:
    """Say to a party in some state what the bytes make; gives how many messages were let in.

    Raises:
        AssertionError: something was let in that should not be.
        Exception: anything else that came of it is a bug.
    """
    read = Reader(data)
    if read.byte() % 16 == 0:
        try:
            shown_terms(read.rest())
        except ValueError:
            return 0
    place = PLACES[read.byte() % len(PLACES)]
    hearing = clone(SESSIONS[place])
    let_in = 0
    decoder = codec.Decoder(hearing.admit, lambda: hearing.limits.header)
    for frame in frames(read, hearing):
        try:
            complete = decoder.feed(frame)
            if complete is None:
                continue
            message, payload = complete
            before = hearing.state
            allowed = hearing.receive(message, len(payload))
        except RemoteProtocolError:
            break  # the connection would be closed
        if before in ENDED:
            assert not allowed
        else:
            assert (hearing.role.other, type(message)) in TABLE[before]
            assert len(payload) <= max(hearing.limits.payload, MAX_FRAME_BYTES, 1 << 14)
            let_in += 1
    return let_in
