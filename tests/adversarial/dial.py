"""A process that dials an address again and again, whatever is said to it there, until it may end.

    python -m tests.adversarial.dial ADDRESS [HOST-KEY PUBLIC SECRET]

It ends well once a line comes through its standard input.
"""

from __future__ import annotations

import select
import sys

from heterofed.transport.base import Lost
from heterofed.transport.reliable.connector import ReliableConnector
from heterofed.transport.zeromq import connect
from heterofed.transport.zeromq.zap import ClientKeys


def main() -> None:
    address, *given = sys.argv[1:]
    keys = ClientKeys(given[1], given[2], given[0]) if given else None
    dialled = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        endpoint = ReliableConnector(lambda: connect(address, keys=keys))
        for _ in range(10):
            if any(isinstance(event, Lost) for event in endpoint.poll(0.02)):
                break
        endpoint.close()
        dialled += 1
    print("dialled", dialled, flush=True)


if __name__ == "__main__":
    main()
