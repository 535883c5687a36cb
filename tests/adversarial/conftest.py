"""The task of these tests, with keys and a task file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.identity.offices import open_offices


@pytest.fixture
def office(home: Path) -> Path:
    """alice and bob, over TCP with keys; gives HETEROFED_HOME."""
    open_offices(home, plan=["max_rounds=2"])
    return home


@pytest.fixture
def offices(home: Path) -> Path:
    """alice, bob and carol, over TCP with keys; gives HETEROFED_HOME."""
    open_offices(home, ["bob", "carol"], plan=["max_rounds=2"])
    return home


@pytest.fixture
def open_links() -> Iterator[list[Any]]:
    """Whatever is put in is closed at the end."""
    links: list[Any] = []
    yield links
    for each in links:
        each.close()
