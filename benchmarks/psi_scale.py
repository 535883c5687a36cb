"""What an ECDH intersection of two sets costs at a size that nobody waits for; pure.

    python -m benchmarks.psi_scale --ids 100000000 --cores 32 --mbit 1000

The model is fitted to runs of `benchmarks.psi` (`RUNS`), and to the time that the coordinating
process of each party needs per id if an executor computes (`COORDINATION`). The page
docs/explanation/psi-at-scale.md is generated from it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

BUCKET_IDS = 1_000_000
"""Ids that are in memory at once; more are on disk in buckets of about this size."""

MOST_BUCKETS = 100

POINT, TAG = 32, 16
"""The bytes of a blinded or evaluated value, and of a tag or of a match proof."""

ID_BYTES = 17
"""The bytes of an id in the measured sets."""


@dataclass(frozen=True, slots=True)
class Run:
    """A measured run of two sets with equally many ids, of which half were common.

    Attributes:
        ids: the number of ids of each party.
        requester_us: the CPU of the requester per id, in microseconds.
        signer_us: the CPU of the signer per id, in microseconds.
        whole: whether the run was measured to its end.
    """

    ids: int
    requester_us: float
    signer_us: float
    whole: bool = True


RUNS = (
    Run(100_000, 0.0, 0.0),
    Run(1_000_000, 0.0, 0.0),
    Run(10_000_000, 117.3, 114.6, whole=False),
)
"""The runs, by `python -m benchmarks.psi --protocol ecdh --ids N`, on the machine of the page."""

COORDINATION = 14.0
"""Microseconds per id of the one process that coordinates at each party: 2 to check and store the
id, 8 to 10 to split, check and store chunks, and 2 to match.
"""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one id costs.

    Attributes:
        requester: microseconds of a core at the requester.
        signer: microseconds of a core at the signer.
    """

    requester: float
    signer: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an intersection takes.

    Attributes:
        computing: the seconds of the slower party, if the link takes no time.
        sending: the seconds of the busier direction, if computing takes no time.
        memory: the bytes of memory of a party.
        disk: the bytes of temporary files of a party.
        sent: the bytes that the busier direction carries.
    """

    computing: float
    sending: float
    memory: int
    disk: int
    sent: int

    @property
    def seconds(self) -> float:
        """The time in all: chunks are computed while others are on their way."""
        return max(self.computing, self.sending)


def fitted(runs: tuple[Run, ...] = RUNS) -> Costs:
    """Return the costs that have the least relative squared error over the runs."""

    def fit(costs: list[float]) -> float:
        return sum(1 / each for each in costs) / sum(1 / each**2 for each in costs)

    return Costs(fit([each.requester_us for each in runs]), fit([each.signer_us for each in runs]))


def forecast(ids: int, cores: int, mbit: float, costs: Costs | None = None) -> Forecast:
    """Return what two parties with equally many ids need, each with so many cores.

    The arithmetic is spread over the cores, and the coordination is not.

    Args:
        ids: the number of ids of each party.
        cores: the cores of each party.
        mbit: the speed of the link in each direction, in Mbit/s.
        costs: what an id costs; what was fitted without it.
    """
    each = costs or fitted()
    slower = max(each.requester, each.signer)
    spread = (slower - COORDINATION) / cores if cores > 1 else slower - COORDINATION
    sent = ids * (POINT + TAG)
    return Forecast(
        computing=ids * (COORDINATION + spread) / 1e6,
        sending=sent * 8 / (mbit * 1e6),
        memory=memory_of(ids),
        disk=disk_of(ids),
        sent=sent,
    )


def memory_of(ids: int) -> int:
    """Return the bytes of memory of the requester, which needs more than the signer.

    Of each id the file position, the place in the order of sending and the position of the result
    are in memory (8 bytes each), and marks (2). Beside that there is one bucket of records, as
    objects of Python, and the program.
    """
    program, per_record = 60 << 20, 230
    bucket = min(ids, max(BUCKET_IDS, ids // MOST_BUCKETS))
    held = bucket * ID_BYTES * 4 if ids <= BUCKET_IDS else ids * (3 * 8 + 2)
    return program + held + bucket * per_record


def disk_of(ids: int) -> int:
    """Return the bytes of temporary files of the requester.

    The id, its record (tag, proof and position), the peer's tag, and half of the ids with position
    and proof again as matches.
    """
    return 0 if ids <= BUCKET_IDS else ids * (ID_BYTES + 40 + TAG + (8 + TAG) // 2)


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
