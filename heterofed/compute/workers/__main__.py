"""Runs one further process of a party: `python -m heterofed.compute.workers RANK RANKS STORE`."""

from __future__ import annotations

import sys
from pathlib import Path

from heterofed.compute.workers.children import connect
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.seal import secret_in
from heterofed.compute.workers.worker import work
from heterofed.errors import RankLostError


def main() -> None:
    """Compute what rank 0 asks for, until it is done or gone."""
    connect(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    try:
        work(Exchange(lambda: 0.0, secret_in(Path(sys.argv[3]).parent)))
    except RankLostError:
        sys.exit(1)  # rank 0 says why


if __name__ == "__main__":
    main()
