"""How fast `psi` is: two processes over loopback, against the hardware and against others.

    python -m benchmarks.psi --ids 70000 --protocol rsa --json
    python -m benchmarks.psi --ids 70000 --protocol ecdh --peers openmined,spu

The floor is what the necessary secret operations alone would take, by `openssl speed -multi`
right before and right after our run: rsa, one RSA private operation per id of both sides; ecdh,
4 multiplications per id pair, by X25519, which is the closest that openssl can be asked for. For
ecdh the CPU of both parties also stands beside that of the same operations of libsodium alone. For
rsa the signer's CPU per private operation stands beside openssl's, which is without hashing and
checking.
Peers are installed by whoever wants them, in an environment of their own if they do not fit
beside us: `--peer-python /path/to/python`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Queue
from threading import Thread
from typing import Any

from benchmarks.psi_floor import measured_floor
from benchmarks.psi_peers import run_peer
from psi.workers import usable_cores

IN_FLIGHT = 8  # chunks on their way at once
SPEED_SECONDS = 2
POLL_SECONDS = 0.02
DEADLINE = 3600.0  # seconds for our two parties


def ids_of(count: int, first: int) -> Iterator[str]:
    """`count` ids from `first` on, in an order that says nothing, without holding them."""
    step = 1_000_003
    while math.gcd(step, max(count, 1)) != 1:
        step += 2
    return (f"user-{first + number * step % count:012d}" for number in range(count))


class Link:
    """Length-prefixed frames over one socket; a thread reads, so that no side ever blocks."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._came, self.moved = sock, Queue[bytes | None](), 0
        self._file = sock.makefile("rb")
        Thread(target=self._read, daemon=True).start()

    def send(self, data: bytes) -> None:
        self._socket.sendall(len(data).to_bytes(4, "big") + data)
        self.moved += 4 + len(data)

    def receive(self) -> bytes:
        try:
            frame = self._came.get(timeout=DEADLINE)
        except Empty:
            frame = None
        if frame is None:
            raise SystemExit("the other party is gone, or has said nothing for too long")
        return frame

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._file:  # the socket is open as long as it is
            while len(head := self._file.read(4)) == 4:
                size = int.from_bytes(head, "big")
                if len(frame := self._file.read(size)) < size:
                    break
                self._came.put(frame)
        self._came.put(None)


def sign(link: Link, args: argparse.Namespace) -> dict[str, Any]:
    import psi

    run = psi.domain("benchmark", "1")
    settings = {"max_peer_ids": args.ids, "key_leaves": True} | common_settings(args)
    with psi.signer(args.protocol, ids_of(args.peer_ids, 0), domain=run, **settings) as signer:
        link.send(signer.count.to_bytes(8, "big"))
        link.send(signer.public_key())
        before = cpu_seconds()  # the key is there
        signer.precompute()
        signer.begin(int.from_bytes(link.receive(), "big"))
        while chunk := link.receive():
            link.send(signer.sign(chunk))
        for tags in signer.tags():
            link.send(tags)
        link.send(b"")
        while proofs := link.receive():
            signer.add_proofs(proofs)
        matched = signer.positions()
        used = cpu_seconds() - before
        return {"intersection": len(matched), "backend": signer.backend, "work_cpu_s": used}


def pipelined(
    link: Link, chunks: Iterator[bytes], take: Callable[[bytes], object], most: int = IN_FLIGHT
) -> None:
    """Send chunks with at most `most` under way, and take answers while the peer computes."""
    under_way = 0
    for chunk in chunks:
        link.send(chunk)
        under_way += 1
        if under_way == most:
            take(link.receive())
            under_way -= 1
    for _ in range(under_way):
        take(link.receive())
    link.send(b"")


def ask(link: Link, args: argparse.Namespace) -> dict[str, Any]:
    import psi

    run, own = (
        psi.domain("benchmark", "1"),
        psi.OwnIds(ids_of(args.ids, args.peer_ids // 2), bucket_ids=args.bucket_ids),
    )
    count, key = int.from_bytes(link.receive(), "big"), link.receive()
    settings = {"max_peer_ids": args.peer_ids} | common_settings(args)
    with psi.requester(args.protocol, own, key, count, domain=run, **settings) as asking:
        link.send(asking.count.to_bytes(8, "big"))
        pipelined(link, asking.blinded(), asking.unblind)
        while tags := link.receive():
            asking.add_tags(tags)
        found = asking.positions()  # as tasks do, which never hold the common ids
        for proofs in asking.proofs_at(found):
            link.send(proofs)
        link.send(b"")
        return {"intersection": len(found)}


def common_settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "workers": args.workers,
        "bucket_ids": args.bucket_ids,
        "executor": args.executor,
    }


def cpu_seconds() -> float:
    """CPU that this process and those it started and waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def party(args: argparse.Namespace) -> None:
    """One of the two processes: runs, and prints what it used as one line."""
    link = Link(socket.create_connection(("127.0.0.1", args.port)))
    begun = time.perf_counter()
    report = sign(link, args) if args.party == "signer" else ask(link, args)
    wall = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report |= {
        "wall_s": wall,
        "cpu_s": cpu_seconds(),
        "peak_mb": peak / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        "bytes_sent": link.moved,
    }
    print(json.dumps(report))


def run_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Both parties as processes; what travels between them passes one socket."""
    same = [f"--ids={args.ids}", f"--peer-ids={args.peer_ids}", f"--protocol={args.protocol}"]
    same += [f"--bucket-ids={args.bucket_ids}"]
    same += [] if args.workers is None else [f"--workers={args.workers}"]
    executor = getattr(args, "executor", None)  # callers may know nothing of it
    same += [] if executor is None else [f"--executor={executor}"]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(POLL_SECONDS)
        port = server.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.psi", *same, f"--port={port}", "--party"]
        started: list[subprocess.Popen[str]] = []
        for role in ("signer", "requester"):
            child = subprocess.Popen([*command, role], stdout=subprocess.PIPE, text=True)
            stack.callback(end, child)
            started.append(child)
        ended, ends = time.monotonic() + DEADLINE, list[socket.socket]()
        while len(ends) < len(started):
            check(started, ended)
            with contextlib.suppress(TimeoutError):
                ends.append(stack.enter_context(server.accept()[0]))
        for pair in (ends, ends[::-1]):
            Thread(target=pump, args=pair, daemon=True).start()
        while any(child.poll() is None for child in started):
            check(started, ended)
            time.sleep(POLL_SECONDS)
        check(started, ended)
        signer, requester = (json.loads(child.communicate()[0]) for child in started)
    if signer["intersection"] != requester["intersection"]:
        raise SystemExit("the parties found different intersections")
    return {"signer": signer, "requester": requester}


def check(started: list[subprocess.Popen[str]], ended: float) -> None:
    """Give up where a party has failed, or both take too long."""
    if any(child.poll() for child in started):
        raise SystemExit("a party failed; its error is above")
    if time.monotonic() > ended:
        raise SystemExit(f"the parties have not ended within {DEADLINE:.0f} s")


def end(child: subprocess.Popen[str]) -> None:
    """Leave no party behind."""
    child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # a party that has died
        while data := source.recv(1 << 18):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def operations_per_second(what: str) -> float | None:
    """Secret operations per second on all cores by openssl; None without an openssl."""
    # -elapsed: by the wall clock, as we are measured, so that a busy machine slows both.
    printed = openssl_speed(1, "-elapsed", "-multi", str(usable_cores()), what)
    wanted = "sign/s" if what.startswith("rsa") else "op/s"
    return mean([read_speed(each, wanted) for each in printed])


def cpu_us_per_sign() -> float | None:
    """A core's time for an RSA private operation by openssl, while all cores do the same."""
    printed = openssl_speed(usable_cores(), "rsa2048")  # with -multi it would take the wall clock
    return mean([1e6 / read_speed(each, "sign/s") for each in printed])


def openssl_speed(processes: int, *arguments: str) -> list[str]:
    """What so many at once print; nothing without an openssl."""
    if shutil.which("openssl") is None:
        return []
    command = ["openssl", "speed", "-seconds", str(SPEED_SECONDS), *arguments]
    with ThreadPoolExecutor(processes) as pool:

        def run(_: int) -> str:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            return done.stdout

        return list(pool.map(run, range(processes)))


def read_speed(printed: str, wanted: str) -> float:
    """The number under the head `wanted`; heads count from the right, as rows begin with a name."""
    lines = [line.split() for line in printed.splitlines()]
    head = next(words for words in reversed(lines) if wanted in words)
    row = next(words for words in reversed(lines) if "bits" in words and words[-1][0].isdigit())
    return float(row[head.index(wanted) - len(head)])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    kind = "rsa2048" if args.protocol == "rsa" else "ecdhx25519"
    operations = args.ids + args.peer_ids
    if args.protocol == "ecdh":
        operations += 2 * args.ids
    rsa = args.protocol == "rsa"
    speeds, cpu_us = [operations_per_second(kind)], [cpu_us_per_sign() if rsa else None]
    own_floors = [] if rsa else [measured_floor()]
    ours = run_ours(args)
    own_floors += [] if rsa else [measured_floor()]
    cpu_us.append(cpu_us_per_sign() if rsa else None)
    found = ours["requester"]["intersection"]
    peers = {name: run_peer(name, args) for name in args.peers.split(",") if name}
    for name, each in peers.items():
        if each.get("intersection", found) != found:  # then its time says nothing
            error = f"it found {each['intersection']} ids in common, and we {found}"
            peers[name] = {"error": error}
    speeds.append(operations_per_second(kind))
    wall = max(each["wall_s"] for each in ours.values())
    speed = mean(speeds)
    floor = operations / speed if speed else None
    cpu = sum(each["cpu_s"] for each in ours.values())
    cpu_floor = mean([each.seconds(args.ids, args.peer_ids) for each in own_floors])
    return {
        "protocol": args.protocol,
        "backend": ours["signer"]["backend"],
        "ids": [args.ids, args.peer_ids],
        "wall_s": wall,
        "cpu_s": cpu,
        "cpu_floor_s": cpu_floor,
        "cpu_floor_ratio": cpu / cpu_floor if cpu_floor else None,
        "bytes_per_id": sum(each["bytes_sent"] for each in ours.values())
        / max(1, args.ids + args.peer_ids),
        "peak_mb": max(each["peak_mb"] for each in ours.values()),
        "signer_cpu_us_per_op": 1e6 * ours["signer"]["work_cpu_s"] / operations if rsa else None,
        "openssl_cpu_us_per_op": mean(cpu_us),
        "intersection": found,
        "floor_s": floor,
        "floor_ratio": wall / floor if floor else None,
        "floor_of": f"{operations} x {kind}",
        "peers": {name: each.get("wall_s") for name, each in peers.items()},
        "peer_errors": {name: each["error"] for name, each in peers.items() if "error" in each},
        "parties": ours,
        "load_before": os.getloadavg()[0],
    }


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that there are."""
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None


def show(result: dict[str, Any]) -> None:
    print(f"{result['protocol']}, {result['ids'][0]} x {result['ids'][1]} ids")
    print(f"  wall           {result['wall_s']:.2f} s   cpu of both {result['cpu_s']:.2f} s")
    print(f"  bytes per id   {result['bytes_per_id']:.0f}")
    print(f"  peak memory    {result['peak_mb']:.0f} MB")
    print(f"  intersection   {result['intersection']}")
    if result["floor_s"] is None:
        print("  floor          not measured: there is no openssl on this machine")
    else:
        print(f"  floor          {result['floor_s']:.2f} s for {result['floor_of']}")
        print(f"  ratio          {result['floor_ratio']:.2f}")
    if result["cpu_floor_s"] is not None:
        line = f"{result['cpu_floor_s']:.2f} s of libsodium alone"
        print(f"  cpu floor      {line}, ratio {result['cpu_floor_ratio']:.2f}")
    if result["signer_cpu_us_per_op"] is not None:
        line = f"  cpu per op     {result['signer_cpu_us_per_op']:.0f} us of the signer"
        if result["openssl_cpu_us_per_op"] is not None:
            line += f", {result['openssl_cpu_us_per_op']:.0f} us of openssl"
        print(line)
    for name, wall in result["peers"].items():
        print(f"  {name:<14} {result['peer_errors'][name] if wall is None else f'{wall:.2f} s'}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.psi", description=__doc__)
    parser.add_argument("--ids", type=int, default=20_000, help="of the requester")
    parser.add_argument("--peer-ids", type=int, help="of the signer; as many without it")
    parser.add_argument("--protocol", choices=("rsa", "ecdh"), default="rsa")
    parser.add_argument("--workers", type=int, help="threads of each party; one per core")
    parser.add_argument("--executor", help="of each party, such as processes:2; threads without it")
    parser.add_argument("--bucket-ids", type=int, default=1_000_000)
    parser.add_argument("--peers", default="", help="openmined, spu, spu-rr22, with commas between")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--party", choices=("signer", "requester"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.peer_ids = args.ids if args.peer_ids is None else args.peer_ids
    if args.party:
        party(args)
        return
    result = measure(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
