"""What tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.privacy.ledgers import OPEN


@pytest.fixture(autouse=True)
def _ledgers_are_closed() -> Iterator[None]:
    """From Python 3.13 on, a connection to SQLite that is left open is a warning."""
    yield
    while OPEN:
        OPEN.pop().close()
