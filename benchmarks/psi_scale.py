"""What an ECDH intersection of two sets costs at a size that nobody waits for; pure.

    python -m benchmarks.psi_scale --ids 100000000 --cores 32 --mbit 1000

The model is fitted to runs of `benchmarks.psi` (`RUNS`), and to the time that the coordinating
process of each party needs per id if an executor computes (`COORDINATION`). The page
docs/explanation/psi-at-scale.md is generated from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

BUCKET_IDS, MOST_BUCKETS = 1_000_000, 100
"""Ids that are in memory at once, and buckets on disk at most; see `psi.storage.spill`."""

POINT, TAG, POSITION = 32, 16, 8
"""The bytes of a blinded or evaluated value, of a tag or match proof, and of a position."""

ID_BYTES = 17
"""The bytes of an id in the measured sets."""

COORDINATION = 14.0
"""Microseconds per id of the one process that coordinates at each party: 2 to check and store the
id, 10 to split, check and store chunks, and 2 to match.
"""

PROGRAM, IN_MEMORY, ON_DISK, IN_BUCKET = 45_000_000, 480, 3 * POSITION + 2, 230
"""The bytes of memory of the program; per id of a set in memory; per id of a larger set, whose
place in the file, place in the order of sending and position in the result are in memory, with two
marks; and per id of the bucket that is matched.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A measured run of two sets with equally many ids, of which half were common.

    Attributes:
        ids: the number of ids of each party.
        requester_us: the CPU of the requester per id, in microseconds.
        signer_us: the CPU of the signer per id, in microseconds.
        memory: the peak memory of the party that needs more, in bytes.
    """

    ids: int
    requester_us: float
    signer_us: float
    memory: int


RUNS = (
    Run(100_000, 97.8, 96.3, 85_600_000),
    Run(1_000_000, 100.0, 98.6, 556_500_000),
    Run(10_000_000, 101.9, 98.8, 555_300_000),
)
"""The runs; the page says how they were measured."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an intersection takes.

    Attributes:
        computing: the seconds of the slower party, if the link takes no time.
        sending: the seconds of the busier direction, if computing takes no time.
        memory: the bytes of memory of a party.
        disk: the bytes of temporary files of a party.
    """

    computing: float
    sending: float
    memory: int
    disk: int

    @property
    def seconds(self) -> float:
        """The time in all: chunks are computed while others are on their way."""
        return max(self.computing, self.sending)


def cpu_us(runs: Sequence[Run] = RUNS) -> float:
    """Return the CPU per id of the slower party, with the least relative squared error."""
    return max(_fit([each.requester_us for each in runs]), _fit([each.signer_us for each in runs]))


def _fit(costs: Sequence[float]) -> float:
    return sum(1 / each for each in costs) / sum(1 / each**2 for each in costs)


def forecast(ids: int, cores: int, mbit: float) -> Forecast:
    """Return what two parties with equally many ids need, each with so many cores.

    The arithmetic is spread over the cores, and the coordination is not.

    Args:
        ids: the number of ids of each party.
        cores: the cores of each party.
        mbit: the speed of the link in each direction, in Mbit/s.
    """
    each = COORDINATION + (cpu_us() - COORDINATION) / cores
    sent = ids * (POINT + TAG)
    return Forecast(ids * each / 1e6, sent * 8 / (mbit * 1e6), memory_of(ids), disk_of(ids))


def memory_of(ids: int) -> int:
    """Return the bytes of memory of a party."""
    if ids <= BUCKET_IDS:
        return PROGRAM + ids * IN_MEMORY
    return PROGRAM + ids * ON_DISK + max(BUCKET_IDS, ids // MOST_BUCKETS) * IN_BUCKET


def disk_of(ids: int) -> int:
    """Return the bytes of temporary files of the requester, which needs more than the signer.

    Of each id there are the id, its record (tag, proof, position) and the peer's tag, and of half
    of them the match (position, proof).
    """
    record = 2 * TAG + POSITION
    return 0 if ids <= BUCKET_IDS else ids * (ID_BYTES + record + TAG + (POSITION + TAG) // 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.psi_scale", description=__doc__)
    parser.add_argument("--ids", type=int, default=100_000_000, help="of each party")
    parser.add_argument("--cores", type=int, default=32, help="of each party")
    parser.add_argument("--mbit", type=float, default=1000.0, help="of the link, per second")
    args = parser.parse_args()
    found = forecast(args.ids, args.cores, args.mbit)
    print(f"computing  {found.computing:,.0f} s\nsending    {found.sending:,.0f} s")
    print(f"memory     {found.memory / 1e9:.1f} GB\ndisk       {found.disk / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
