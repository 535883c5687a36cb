"""The messages of a probe: each in its turn, with numbers that can be true."""

from __future__ import annotations

import math

import pytest
from msgspec import structs

from heterofed.errors import LocalProtocolError
from heterofed.protocol.codec import encode
from heterofed.protocol.messages import (
    MAX_PINGS,
    MAX_PROBE_BYTES,
    Message,
    ProbeBegin,
    ProbeFacts,
    ProbePing,
    ProbePong,
    ProbeResult,
    PsiKey,
)
from heterofed.protocol.states import State
from tests.protocol.link import (
    FACTS,
    LINK,
    PINGED,
    PROBE_BEGUN,
    PROBE_READY,
    PROBE_RUN,
    WORK,
    C,
    H,
    Line,
    Link,
    finish,
    hello,
    welcome,
)


def test_an_honest_probe() -> None:
    assert Link(*PROBE_RUN).state is State.CLOSED


@pytest.mark.parametrize(
    ("before", "line", "why"),
    [
        ((hello(),), Line(H, ProbeBegin(WORK)), "no probe was asked for"),
        (PROBE_BEGUN[:1], welcome(), "only a probe was asked for"),
        (
            PROBE_BEGUN[:1],
            Line(H, ProbeBegin(structs.replace(WORK, common=101))),
            "more common",
        ),
        *(
            (PROBE_BEGUN[:1], Line(H, ProbeBegin(structs.replace(WORK, **huge))), "too large")
            for huge in (
                {"width": 1 << 16},
                {"columns": 1 << 16, "width": 100},
                {"batch_size": 1 << 20, "columns": 100},
            )
        ),
        (PROBE_BEGUN[:1], Line(H, ProbeBegin(WORK), 1), "payload"),
        (PROBE_BEGUN, Line(C, ProbePing(0)), "out of turn"),
        (PROBE_READY, Line(C, ProbePing(1)), "next"),
        (PROBE_READY, Line(C, ProbePing(0), MAX_PROBE_BYTES + 1), "more bytes"),
        (PROBE_READY, Line(C, PsiKey(3)), "out of turn"),
        (PROBE_READY, finish(0), "out of turn"),
        (PINGED, Line(C, ProbePing(1)), "out of turn"),
        (PINGED, Line(H, ProbePong(1, 1.0), 7), "not the ping"),
        (PINGED, Line(H, ProbePong(0, 1.0), 6), "not as many bytes"),
    ],
)
def test_what_is_refused(before: tuple[Line, ...], line: Line, why: str) -> None:
    assert why in Link(*before).refuses(line)


def test_what_is_not_trained_is_not_measured() -> None:
    huge = structs.replace(WORK, rounds=0, width=1 << 16, columns=1 << 16, batch_size=1 << 20)
    Link(*PROBE_BEGUN[:1], Line(H, ProbeBegin(huge)))


def test_pings_come_to_an_end() -> None:
    link = Link(*PROBE_READY)
    for number in range(MAX_PINGS):
        link.say(Line(C, ProbePing(number)), Line(H, ProbePong(number, 1.0)))
    assert "next" in link.refuses(Line(C, ProbePing(MAX_PINGS)))


@pytest.mark.parametrize(
    "message",
    [
        ProbeBegin(structs.replace(WORK, batch_size=0)),
        ProbeBegin(structs.replace(WORK, rounds=10**7)),
        ProbeFacts(structs.replace(FACTS, version="1.0 <script>")),
        ProbeFacts(structs.replace(FACTS, cores=0)),
        ProbeFacts(structs.replace(FACTS, memory=-1)),
        ProbeFacts(structs.replace(FACTS, ask=math.inf)),
        ProbePong(0, -1.0),
        ProbePong(0, math.nan),
        ProbeFacts(structs.replace(FACTS, step=math.nan)),
        ProbeResult(FACTS, structs.replace(LINK, ahead=math.nan)),
        ProbeResult(FACTS, structs.replace(LINK, up=0.0)),
        ProbeResult(FACTS, structs.replace(LINK, down=5e-324)),
    ],
)
def test_numbers_that_cannot_be_true_are_not_read(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent: Expected"):
        encode(message)  # which decodes it as the peer does
