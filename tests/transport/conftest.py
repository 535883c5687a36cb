from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.rigs import KINDS, RELIABLE_KINDS, Keyring, Rig


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return Keyring()


@pytest.fixture(params=KINDS + RELIABLE_KINDS)
def rig(request: pytest.FixtureRequest, keyring: Keyring) -> Iterator[Rig]:
    """Every transport in turn."""
    rig = Rig(request.param, keyring)
    yield rig
    rig.close()


@pytest.fixture(params=KINDS[1:])
def wire(request: pytest.FixtureRequest, keyring: Keyring) -> Iterator[Rig]:
    """Every transport that has real sockets."""
    rig = Rig(request.param, keyring)
    yield rig
    rig.close()


@pytest.fixture(params=["ipc", "tcp"])
def plain(request: pytest.FixtureRequest, keyring: Keyring) -> Iterator[Rig]:
    """Real sockets without keys, where a raw peer can misbehave."""
    rig = Rig(request.param, keyring)
    yield rig
    rig.close()
