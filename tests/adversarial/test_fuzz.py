"""The fuzzer's inputs from hypothesis: short runs of it in every check."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from heterofed.errors import RemoteProtocolError
from heterofed.protocol.messages import MESSAGE_TYPES, Message
from heterofed.protocol.states import ENDED, TABLE
from tests.adversarial.hostile_bytes import MAKERS, SAMPLES, SESSIONS, Reader, clone, say
from tests.protocol.link import view
from tests.protocol.test_wire import PATIENT, values_of

EXAMPLES = 100
SIZES = st.sampled_from([0, 0, 1, 16, 24, 64, 256, 1 << 14, 1 << 20, (1 << 20) + 1, 1 << 40])


@pytest.mark.slow
@settings(PATIENT, max_examples=1000)
@given(st.binary(max_size=1024))
def test_any_bytes(data: bytes) -> None:
    say(data)


@pytest.mark.slow
def test_many_random_bytes_get_somewhere() -> None:
    """Seeded, so that every branch below is taken in every check."""
    draw = random.Random(5)
    let_in = sum(say(draw.randbytes(draw.randint(0, 400))) for _ in range(20_000))
    assert let_in > 500


@pytest.mark.parametrize("maker", MAKERS)
def test_makers_bear_any_bytes(maker: object) -> None:
    for data in (b"", b"\xff" * 500, bytes(500), *SAMPLES):
        assert isinstance(maker(Reader(data)), bytes)  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MESSAGE_TYPES)
def test_every_message_in_every_state_to_every_role(kind: type[Message]) -> None:
    """Each (role, state, message) with 100 messages drawn from all that the struct allows."""
    tried = 0

    @settings(PATIENT, max_examples=EXAMPLES, database=None, derandomize=True)
    @given(values_of(inspect.type_info(kind)), SIZES)
    def hear(message: Message, size: int) -> None:
        nonlocal tried
        tried += 1
        for (role, state), kept in SESSIONS.items():
            before = view(kept)
            try:
                kept.admit(message, size)
            except RemoteProtocolError:
                assert view(kept) == before
                continue
            assert state in ENDED or (role.other, kind) in TABLE[state]
            hearing = clone(kept)
            assert hearing.receive(message, size) == (state not in ENDED)
            assert view(kept) == before

    hear()
    assert tried >= EXAMPLES or set(kind.__annotations__.values()) <= {"bool"}


def test_there_are_as_many_places_as_there_should_be() -> None:
    assert len(SESSIONS) == len(list(itertools.product(range(2), set(TABLE))))
