from __future__ import annotations

import pytest

from heterofed.errors import ConfigError
from heterofed.transport.base import LostReason
from heterofed.transport.memory import Hub
from tests.transport.rigs import Party, connected, pump


def test_a_cut_is_a_loss_on_both_sides_after_what_had_arrived() -> None:
    hub = Hub()
    listener, peer = Party(hub.listen()), connected(hub.connect("b"))
    peer.channel.send([b"hello"])
    pump([listener, peer], lambda: bool(listener.frames()))
    channel = listener.channels[0]
    peer.channel.send([b"there"])
    channel.send([b"back"])
    hub.cut(peer.channel)
    pump([listener, peer], lambda: bool(listener.lost()) and bool(peer.lost()))
    assert listener.frames() == [b"hello", b"there"]
    assert peer.frames() == [b"back"]
    assert listener.lost() == peer.lost() == [LostReason.DISCONNECTED]


def test_one_listener_at_a_time() -> None:
    hub = Hub()
    first = hub.listen()
    with pytest.raises(ConfigError):
        hub.listen()
    first.close()
    hub.listen().close()
