"""Ledgers that are closed after the test that has opened them: see the fixture in conftest."""

from __future__ import annotations

from pathlib import Path

from heterofed.files import private_folder
from heterofed.privacy.ledger import ReleaseLedger

OPEN: list[ReleaseLedger] = []


def opened(folder: Path, party: str = "bob") -> ReleaseLedger:
    """The ledger of a party in a folder."""
    OPEN.append(ReleaseLedger(private_folder(folder, "releases"), "task", party))
    return OPEN[-1]
