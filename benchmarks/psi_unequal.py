"""How fast a small set is intersected with a stored one: two processes over loopback.

    python -m benchmarks.psi_unequal --json
    python -m benchmarks.psi_unequal --small 10000 --large 1000000 --folder build/registry
    python -m benchmarks.psi_unequal --small 3000 --large 300000 --link

The owner of the large set computes its outputs once (`setup_s`) and ships its filter once
(`ship_s`); a request (`online_s`) is all from the asker's first message to its result. Half of the
small set is common. With `--folder` the stored set and the filter stay there, and a later call with
the same number of ids measures a request alone. `bytes` has what travels: the filter once, and a
request in both directions.

With `--link` two organisations with keys and a task file do the same by `heterofed psi-set` and
`heterofed psi --stored`, over an encrypted connection. `link_online_s` is the phase `psi` of the
first request, which fetches the filter, and `link_again_s` that of the second one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.psi import Link, end, ids_of, pipelined
from benchmarks.psi_unequal_link import measure_link, rows_of

DOMAIN = b"benchmark"
IN_FLIGHT = 4  # chunks on their way at once
DEADLINE = 6 * 3600.0  # seconds until the owner has to be ready


def own(args: argparse.Namespace) -> None:
    """The owner's process: makes or opens the stored set, ships the filter, answers a request."""
    import psi

    folder, begun, made = Path(args.folder) / "stored", time.perf_counter(), True
    with contextlib.suppress(psi.StoreError):
        made = psi.StoredSet(folder).count != args.large
    if made:
        psi.StoredSet.create(folder, ids_of(args.large, 0), domain=DOMAIN, workers=args.workers)
    stored, setup = psi.StoredSet(folder), time.perf_counter() - begun
    peer = f"asker {os.getpid()}"  # each measurement has a budget of its own
    stored.allow(peer, args.small)
    with socket.create_connection(("127.0.0.1", args.port)) as sock:
        link = Link(sock)
        link.send(json.dumps({"setup_s": setup if made else None, "name": stored.name}).encode())
        if link.receive() == b"ship":
            for chunk in stored.filter_chunks():
                link.send(chunk)
            link.send(b"")
        shipped = link.moved
        with psi.SetAnswerer(stored, peer=peer, workers=args.workers) as answering:
            answering.begin(link.receive())
            while chunk := link.receive():
                link.send(answering.evaluate(chunk))
            while proofs := link.receive():
                link.send(answering.confirm(proofs))
            found = len(answering.matched())
        used = {"peak_mb": peak_mb(), "bytes": link.moved - shipped}
        link.send(json.dumps({"intersection": found} | used).encode())
        link.receive()


def ship(link: Link, path: Path, most: int) -> None:
    import psi

    link.send(b"ship")
    with psi.FilterReceiver(path, domain=DOMAIN, max_peer_ids=most) as receiver:
        while chunk := link.receive():
            receiver.add(chunk)
        receiver.finish().close()


def ask(link: Link, asking: Any) -> list[str]:
    """A request with a few chunks under way; the answers are checked while the owner computes."""
    link.send(asking.hello())
    pipelined(link, asking.blinded(), asking.finalize, IN_FLIGHT)
    waiting = deque(map(link.send, asking.proofs()))
    for _ in waiting:
        asking.confirm(link.receive())
    link.send(b"")
    found: list[str] = asking.intersection()
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import psi

    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        if args.folder is None:
            args.folder = stack.enter_context(tempfile.TemporaryDirectory())
        link, child = meet(stack, args)
        hello = json.loads(link.receive())
        path, begun = Path(args.folder) / f"{hello['name']}.filter", time.perf_counter()
        shipped = path.exists()
        if shipped:
            link.send(b"keep")
        else:
            ship(link, path, args.large)
        ship_s = None if shipped else time.perf_counter() - begun
        peer_filter, sent_before = psi.Filter(path), link.moved
        begun = time.perf_counter()
        small = ids_of(args.small, args.large - args.small // 2)
        asking = psi.SetAsker(small, peer_filter, domain=DOMAIN, workers=args.workers)
        found = ask(link, asking)
        online, asker_bytes = time.perf_counter() - begun, link.moved - sent_before
        owner, size = json.loads(link.receive()), path.stat().st_size
        link.send(b"")
        child.wait(timeout=60)
    if owner["intersection"] != len(found):
        raise SystemExit("the parties found different intersections")
    return {
        "small": args.small,
        "large": args.large,
        "setup_s": hello["setup_s"],
        "ship_s": ship_s,
        "online_s": online,
        "bytes": {
            "filter": size,
            "asker": asker_bytes,
            "owner": owner["bytes"],
        },
        "false_positive_rate": peer_filter.rate,
        "intersection": len(found),
        "peak_mb": {"asker": peak_mb(), "owner": owner["peak_mb"]},
        "load_before": load,
    }


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def meet(
    stack: contextlib.ExitStack, args: argparse.Namespace
) -> tuple[Link, subprocess.Popen[str]]:
    """Start the owner's process and wait until it has its set."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    server.settimeout(1)
    same = [f"--small={args.small}", f"--large={args.large}", f"--folder={args.folder}"]
    same += [] if args.workers is None else [f"--workers={args.workers}"]
    port = f"--port={server.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.psi_unequal", *same, port]
    child = subprocess.Popen(command, text=True)
    stack.callback(end, child)
    ends = time.monotonic() + DEADLINE
    while time.monotonic() < ends and child.poll() is None:
        with contextlib.suppress(TimeoutError):
            return Link(stack.enter_context(server.accept()[0])), child
    raise SystemExit("the owner failed; its error is above")


def show(result: dict[str, Any]) -> None:
    print(f"{result['small']} ids against {result['large']} stored ones")
    for name in ("setup_s", "ship_s", "online_s"):
        seconds = result[name]
        print(f"  {name:<12} {'done before' if seconds is None else f'{seconds:.2f} s'}")
    sizes = result["bytes"]
    print(f"  filter       {sizes['filter'] / 1e6:.1f} MB, {result['false_positive_rate']:.1e}")
    print(f"  request      {sizes['asker']} bytes, answered by {sizes['owner']}")
    print(f"  intersection {result['intersection']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.psi_unequal", description=__doc__)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=10_000_000)
    parser.add_argument("--folder", help="where the stored set and the filter stay")
    parser.add_argument("--workers", type=int, help="threads of each party; one per core")
    parser.add_argument("--link", action="store_true", help="by the commands, over TCP with keys")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.port:
        own(args)
        return
    if args.link and args.workers is not None:
        parser.error("--workers: leave it out with --link; the commands use every core")
    result = measure_link(args) if args.link else measure(args)
    if args.json:
        print(json.dumps(result, indent=1))
    elif args.link:
        print("\n".join(rows_of(result)))
    else:
        show(result)


if __name__ == "__main__":
    main()
