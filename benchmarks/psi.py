"""How fast `psi` is: two processes over loopback, against the hardware and against others.

    python -m benchmarks.psi --ids 70000 --protocol rsa --json
    python -m benchmarks.psi --ids 70000 --protocol ecdh --peers openmined,spu

The floor is what the necessary secret operations alone would take, by `openssl speed -multi`
right before and right after our run: rsa, one RSA private operation per id of both sides; ecdh,
4 multiplications per id pair, by X25519, which is the closest that openssl can be asked for.
Peers are installed by whoever wants them, in an environment of their own if they do not fit
beside us: `--peer-python /path/to/python`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from queue import Queue
from threading import Thread
from typing import Any

IN_FLIGHT = 8  # chunks on their way at once
SPEED_SECONDS = 2


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
        self._socket, self._came, self.moved = sock, Queue[bytes](), 0
        self._file = sock.makefile("rb")
        Thread(target=self._read, daemon=True).start()

    def send(self, data: bytes) -> None:
        self._socket.sendall(len(data).to_bytes(4, "big") + data)
        self.moved += 4 + len(data)

    def receive(self) -> bytes:
        return self._came.get()

    def _read(self) -> None:
        while len(head := self._file.read(4)) == 4:
            self._came.put(self._file.read(int.from_bytes(head, "big")))


def sign(link: Link, args: argparse.Namespace) -> dict[str, Any]:
    import psi

    run = psi.domain("benchmark", "1")
    settings = {"max_peer_ids": args.ids} | common_settings(args)
    with psi.signer(args.protocol, ids_of(args.peer_ids, 0), domain=run, **settings) as signer:
        link.send(signer.count.to_bytes(8, "big"))
        link.send(signer.public_key())
        signer.precompute()
        signer.begin(int.from_bytes(link.receive(), "big"))
        while chunk := link.receive():
            link.send(signer.sign(chunk))
        for tags in signer.tags():
            link.send(tags)
        link.send(b"")
        while proofs := link.receive():
            signer.matched(proofs, last=False)
        matched = signer.matched(b"", last=True) or []
        return {"intersection": len(matched), "backend": signer.backend}


def ask(link: Link, args: argparse.Namespace) -> dict[str, Any]:
    import psi

    run, own = psi.domain("benchmark", "1"), ids_of(args.ids, args.peer_ids // 2)
    count, key = int.from_bytes(link.receive(), "big"), link.receive()
    settings = {"max_peer_ids": args.peer_ids} | common_settings(args)
    with psi.requester(args.protocol, own, key, count, domain=run, **settings) as asking:
        link.send(asking.count.to_bytes(8, "big"))
        waiting = 0
        for chunk in asking.blinded():
            link.send(chunk)
            waiting += 1
            if waiting == IN_FLIGHT:
                asking.unblind(link.receive())
                waiting -= 1
        for _ in range(waiting):
            asking.unblind(link.receive())
        link.send(b"")
        while tags := link.receive():
            asking.add_tags(tags)
        found = asking.intersection()
        for proofs in asking.proofs(found):
            link.send(proofs)
        link.send(b"")
        return {"intersection": len(found)}


def common_settings(args: argparse.Namespace) -> dict[str, Any]:
    return {"workers": args.workers, "bucket_ids": args.bucket_ids}


def party(args: argparse.Namespace) -> None:
    """One of the two processes: runs, and prints what it used as one line."""
    link = Link(socket.create_connection(("127.0.0.1", args.port)))
    begun = time.perf_counter()
    report = sign(link, args) if args.party == "signer" else ask(link, args)
    wall = time.perf_counter() - begun
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    report |= {
        "wall_s": wall,
        "cpu_s": sum(each.ru_utime + each.ru_stime for each in used),
        "peak_mb": used[0].ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        "bytes_sent": link.moved,
    }
    print(json.dumps(report))


def run_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Both parties as processes; what travels between them passes one socket."""
    same = [f"--ids={args.ids}", f"--peer-ids={args.peer_ids}", f"--protocol={args.protocol}"]
    same += [f"--bucket-ids={args.bucket_ids}"]
    same += [] if args.workers is None else [f"--workers={args.workers}"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.psi", *same, f"--port={port}", "--party"]
        started = [
            subprocess.Popen([*command, role], stdout=subprocess.PIPE, text=True)
            for role in ("signer", "requester")
        ]
        (first, _), (second, _) = server.accept(), server.accept()
        pumps = [Thread(target=pump, args=pair) for pair in ((first, second), (second, first))]
        for thread in pumps:
            thread.start()
        printed = [process.communicate()[0] for process in started]
        for thread in pumps:
            thread.join()
        first.close()
        second.close()
    if any(process.returncode for process in started):
        raise SystemExit("a party failed; its error is above")
    signer, requester = map(json.loads, printed)
    if signer["intersection"] != requester["intersection"]:
        raise SystemExit("the parties found different intersections")
    return {"signer": signer, "requester": requester}


def pump(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(1 << 18):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def operations_per_second(what: str) -> float | None:
    """Secret operations per second on all cores by openssl; None without an openssl."""
    if shutil.which("openssl") is None:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # -elapsed: by the wall clock, as we are measured, so that a busy machine slows both.
    command = ["openssl", "speed", "-elapsed", "-seconds", str(SPEED_SECONDS)]
    command += ["-multi", str(cores), what]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return read_speed(printed, "sign/s" if what.startswith("rsa") else "op/s")


def read_speed(printed: str, wanted: str) -> float:
    """The number under the head `wanted`; heads count from the right, as rows begin with a name."""
    lines = [line.split() for line in printed.splitlines()]
    head = next(words for words in reversed(lines) if wanted in words)
    row = next(words for words in reversed(lines) if "bits" in words and words[-1][0].isdigit())
    return float(row[head.index(wanted) - len(head)])


def run_peer(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Another library on the same ids, in the same minute; its failure is its result."""
    code = PEERS.get(name)
    if code is None:
        return {"error": f"unknown; known: {', '.join(PEERS)}"}
    given = [str(args.ids), str(args.peer_ids), name]
    shared = "import sys, time, math\n" + IDS_CODE
    command = [args.peer_python, "-c", shared + code, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["failed"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


IDS_CODE = """
def ids_of(count, first):
    step = 1_000_003
    while math.gcd(step, max(count, 1)) != 1:
        step += 2
    return [f"user-{first + n * step % count:012d}" for n in range(count)]
N, M = map(int, sys.argv[1:3])
"""

PEERS = {
    # Both parties in one process and thread, as its own benchmarks do; no socket between them.
    "openmined": """
import json
import private_set_intersection.python as psi
mine, theirs = ids_of(N, M // 2), ids_of(M, 0)
begun = time.perf_counter()
client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
setup = server.CreateSetupMessage(0.0, N, theirs, psi.DataStructure.RAW)
answer = server.ProcessRequest(client.CreateRequest(mine))
found = client.GetIntersection(setup, answer)
wall = time.perf_counter() - begun
print(json.dumps({"wall_s": wall, "intersection": len(found)}))
""",
    # Two processes over loopback, ids in CSV files, as it wants them; ECDH over Curve25519.
    "spu": """
import csv, json, multiprocessing, pathlib, socket, tempfile
def party(rank, ports, folder, protocol):
    import spu.libspu.link as link
    from spu import psi
    desc = link.Desc()
    for i, port in enumerate(ports):
        desc.add_party(f"p{i}", f"127.0.0.1:{port}")
    lctx = link.create_brpc(desc, rank)
    config = psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(
            protocol=protocol,
            receiver_rank=0,
            broadcast_result=True,
            ecdh_params=psi.EcdhParams(curve=psi.EllipticCurveType.CURVE_25519),
        ),
        input_params=psi.InputParams(
            path=f"{folder}/in{rank}.csv", selected_keys=["id"], keys_unique=True
        ),
        output_params=psi.OutputParams(path=f"{folder}/out{rank}.csv"),
    )
    report = psi.psi_execute(config, lctx)
    if rank == 0:
        pathlib.Path(folder, "count").write_text(str(report.intersection_count))
if __name__ == "__main__":
    from spu import psi
    with tempfile.TemporaryDirectory() as folder:
        for rank, ids in enumerate((ids_of(N, M // 2), ids_of(M, 0))):
            pathlib.Path(folder, f"in{rank}.csv").write_text("id\\n" + "\\n".join(ids) + "\\n")
        socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [each.getsockname()[1] for each in socks]
        [each.close() for each in socks]
        protocol = psi.PsiProtocol.PROTOCOL_ECDH
        if sys.argv[3] == "spu-rr22":
            protocol = psi.PsiProtocol.PROTOCOL_RR22
        fork = multiprocessing.get_context("fork")
        begun = time.perf_counter()
        both = [
            fork.Process(target=party, args=(rank, ports, folder, protocol)) for rank in range(2)
        ]
        [each.start() for each in both]
        [each.join() for each in both]
        wall = time.perf_counter() - begun
        found = int(pathlib.Path(folder, "count").read_text())
    print(json.dumps({"wall_s": wall, "intersection": found}))
""",
}

PEERS["spu-rr22"] = PEERS["spu"]  # the same with RR22, told apart by name


def measure(args: argparse.Namespace) -> dict[str, Any]:
    kind = "rsa2048" if args.protocol == "rsa" else "ecdhx25519"
    operations = args.ids + args.peer_ids
    if args.protocol == "ecdh":
        operations += 2 * args.ids
    speeds = [operations_per_second(kind)]
    ours = run_ours(args)
    peers = {name: run_peer(name, args) for name in args.peers.split(",") if name}
    speeds.append(operations_per_second(kind))
    wall = max(each["wall_s"] for each in ours.values())
    known = [each for each in speeds if each is not None]
    floor = operations / (sum(known) / len(known)) if known else None
    return {
        "protocol": args.protocol,
        "backend": ours["signer"]["backend"],
        "ids": [args.ids, args.peer_ids],
        "wall_s": wall,
        "cpu_s": sum(each["cpu_s"] for each in ours.values()),
        "bytes_per_id": sum(each["bytes_sent"] for each in ours.values())
        / max(1, args.ids + args.peer_ids),
        "peak_mb": max(each["peak_mb"] for each in ours.values()),
        "intersection": ours["requester"]["intersection"],
        "floor_s": floor,
        "floor_ratio": wall / floor if floor else None,
        "floor_of": f"{operations} x {kind}",
        "peers": {name: found.get("wall_s") for name, found in peers.items()},
        "peer_errors": {name: each["error"] for name, each in peers.items() if "error" in each},
        "parties": ours,
        "load_before": os.getloadavg()[0],
    }


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
    for name, wall in result["peers"].items():
        print(f"  {name:<14} {result['peer_errors'][name] if wall is None else f'{wall:.2f} s'}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.psi", description=__doc__)
    parser.add_argument("--ids", type=int, default=20_000, help="of the requester")
    parser.add_argument("--peer-ids", type=int, help="of the signer; as many without it")
    parser.add_argument("--protocol", choices=("rsa", "ecdh"), default="rsa")
    parser.add_argument("--workers", type=int, help="threads of each party; one per core")
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
