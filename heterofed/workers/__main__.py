"""Runs one further process of a party: `python -m heterofed.workers RANK RANKS STORE`."""

from __future__ import annotations

import sys

from heterofed.errors import RankLostError
from heterofed.workers.children import connect
from heterofed.workers.exchange import Exchange
from heterofed.workers.worker import work


def main() -> None:
    """Compute what rank 0 asks for, until it is done or gone."""
    connect(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    try:
        work(Exchange(lambda: 0.0))
    except RankLostError:
        sys.exit(1)  # rank 0 says why


if __name__ == "__main__":
    main()
