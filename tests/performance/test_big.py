"""Batches of 100 MB: they stream, and no party holds more than two of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heterofed.transport.base import MAX_FRAME_BYTES
from heterofed.transport.flow_control import WINDOW
from tests.e2e.processes import Parties
from tests.performance.big_parties import BATCH_MB

ON_THE_WAY_MB = 2 * WINDOW * MAX_FRAME_BYTES / 1e6
"""What the transport may hold beside them: a window of frames in each direction. A third copy of a
batch does not fit in."""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["frozen", "trainable"])
def test_big_batches_are_held_twice_at_most(kind: str, parties: Parties, tmp_path: Path) -> None:
    started = [
        parties.start(
            "-m",
            "tests.performance.big_parties",
            role,
            f"big-{kind}",
            str(tmp_path),
            kind,
            cold=True,
        )
        for role in ("collaborator", "host")
    ]
    for party in started:
        assert party.wait() == 0, party.output
        grown = [int(each) for each in re.findall(r"grew (-?\d+) MB", party.output)]
        assert len(grown) == 2  # a round and its test
        assert max(grown) < 2 * BATCH_MB + ON_THE_WAY_MB, party.output
