"""Other libraries for private set intersection, on the same ids as `benchmarks.psi`.

Each is a program for a Python of its own, since they may not fit beside us. It gets both numbers of
ids and its name, and prints a line of JSON: `wall_s` and `intersection`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from typing import Any

DEADLINE = 3600.0  # seconds for each


def run_peer(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Another library on the same ids, in the same minute; its failure is its result."""
    code = PEERS.get(name)
    if code is None:
        return {"error": f"unknown; known: {', '.join(PEERS)}"}
    given = [str(args.ids), str(args.peer_ids), name]
    shared = "import sys, time, math\n" + IDS_CODE
    command = [args.peer_python, "-c", shared + code, *given]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=DEADLINE
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {DEADLINE:.0f} s"}
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
