"""Progress comes with every batch, so callbacks that show nothing of it are not called with it."""

from __future__ import annotations

from heterofed.events import Event, PhaseBegan, Progressed, without_progress
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Timeouts
from heterofed.protocol.states import Role
from heterofed.transport.memory import Hub


class Awkward:
    """A callback of which nothing can be asked."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.heard.append(event)

    def __getattr__(self, name: str) -> object:
        raise ValueError(name)


def test_progress_reaches_all_callbacks_but_those_that_do_without() -> None:
    heard: list[Event] = []
    spared: list[Event] = []
    awkward = Awkward()

    @without_progress
    def quiet(event: Event) -> None:
        spared.append(event)

    party = Party(
        "bank",
        Role.HOST,
        Hub().listen(),
        timeouts=Timeouts(),
        callbacks=[quiet, heard.append, awkward],
    )
    try:
        party.emit(PhaseBegan("train"))
        party.progress(1)
    finally:
        party.close(0)
    assert heard == awkward.heard == [PhaseBegan("train"), Progressed(1)]
    assert spared == [PhaseBegan("train")]


def test_a_callback_that_raises_is_not_called_again() -> None:
    called: list[Event] = []
    heard: list[Event] = []

    def fails(event: Event) -> None:
        called.append(event)
        raise ValueError("of a user")

    party = Party(
        "bank", Role.HOST, Hub().listen(), timeouts=Timeouts(), callbacks=[fails, heard.append]
    )
    try:
        party.progress(1)
        party.progress(2)
    finally:
        party.close(0)
    assert called == [Progressed(1)]
    assert heard == [Progressed(1), Progressed(2)]
