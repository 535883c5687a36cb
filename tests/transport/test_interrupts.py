"""Ctrl-C at any moment sends no frame twice and drops none."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from heterofed.runs.lifecycle import signals_as_exceptions
from heterofed.transport.interrupts import Uninterrupted
from tests.transport.rigs import Rig, pump


def test_an_interrupt_waits_for_the_end_of_the_outermost_block() -> None:
    block = Uninterrupted()
    done = []
    with pytest.raises(KeyboardInterrupt), block:
        with block:
            block.interrupt(KeyboardInterrupt())
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    with pytest.raises(SystemExit):
        block.interrupt(SystemExit(143))
    with block:
        pass  # nothing is left over


def test_blocks_of_other_threads_put_nothing_off() -> None:
    block, inside, leave = Uninterrupted(), threading.Event(), threading.Event()

    def hold() -> None:
        with block:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    with pytest.raises(KeyboardInterrupt):
        block.interrupt(KeyboardInterrupt())
    leave.set()
    thread.join()


@pytest.fixture
def interrupting() -> Iterator[Any]:
    """Gives a function that sends Ctrl-C to this process at its n-th step in the transport."""
    before = sys.gettrace()

    def at(number: int) -> None:
        left = [number]

        def step(frame: FrameType, event: str, _argument: object) -> Any:
            if "heterofed/transport/" not in frame.f_code.co_filename:
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    sys.settrace(before)
                    os.kill(os.getpid(), signal.SIGINT)
            return step

        sys.settrace(step)

    yield at
    sys.settrace(before)


@pytest.mark.slow
def test_a_sender_that_is_interrupted_at_any_step_sends_each_frame_once(
    plain: Rig, interrupting: Any
) -> None:
    listener, peer, channel = plain.pair()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sent = 0
    try:
        with signals_as_exceptions():
            for number in range(1, 80):
                try:
                    interrupting(number)
                    peer.channel.send([b"%d" % sent])
                    interrupting(0)
                except KeyboardInterrupt:
                    pass
                sys.settrace(None)
                sent += 1
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGINT, before)
    peer.channel.send([b"%d" % sent])
    pump([peer, listener], lambda: b"%d" % sent in listener.frames(channel))
    found = [int(each) for each in listener.frames(channel)[1:]]
    assert found == sorted(set(found))
    assert len(found) > sent // 2  # those that are missing were interrupted before they were queued
