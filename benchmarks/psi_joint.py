"""What it costs that nobody learns a pairwise intersection: all parties in one process.

    python -m benchmarks.psi_joint --parties 3 --ids 100000 --json
    python -m benchmarks.psi_joint --parties 8 --ids 10000

`joint_s` is the intersection of all parties by `psi.multiparty`, and `pairwise_s` the same result
by one ECDH intersection of the requester with each signer, right before it on the same machine.
Half of the ids are common to all. The parties compute one after another, each on all cores, so the
times are the sums of their work.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import psi
from benchmarks.psi import ids_of
from psi.multiparty.here import make_signers
from psi.multiparty.requester import JointRequester, common_positions

RUN = "benchmark"
Tally = dict[str, int]


def sets_of(parties: int, count: int) -> list[list[str]]:
    """The ids of each party, of which half are common to all and half are its own."""
    shared = list(ids_of(count // 2, 0))
    return [
        shared + list(ids_of(count - len(shared), (number + 1) * count))
        for number in range(parties)
    ]


def pairwise(sets: Sequence[list[str]], sent: Tally) -> int:
    """Every pair of requester and signer by itself, as with two parties."""
    common = set(range(len(sets[0])))
    for number, ids in enumerate(sets[1:]):
        run = psi.domain(RUN, str(number))
        with ExitStack() as stack:
            signer = stack.enter_context(psi.ECDHSigner(ids, domain=run))
            asking = stack.enter_context(
                psi.ECDHRequester(sets[0], signer.public_key(), signer.count, domain=run)
            )
            exchange(signer, asking, sent)
            common &= set(asking.positions())
    return len(common)


def joint(sets: Sequence[list[str]], sent: Tally) -> int:
    with ExitStack() as stack:
        requesters = []
        for number, signer in enumerate(make_signers(RUN, sets[1:])):
            stack.enter_context(signer)
            asking = stack.enter_context(
                JointRequester(
                    sets[0],
                    signer.public_key(),
                    signer.count,
                    domain=psi.domain(RUN, str(number)),
                )
            )
            exchange(signer, asking, sent)
            requesters.append(asking)
        return len(common_positions(requesters))


def exchange(signer: psi.ECDHSigner, asking: psi.ECDHRequester, sent: Tally) -> None:
    signer.begin(asking.count)
    for chunk in asking.blinded():
        asking.unblind(signer.sign(chunk))
        sent["bytes"] = sent.get("bytes", 0) + 2 * len(chunk)
    for chunk in signer.tags():
        asking.add_tags(chunk)
        sent["bytes"] = sent.get("bytes", 0) + len(chunk)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    sets, load = sets_of(args.parties, args.ids), os.getloadavg()[0]
    result: dict[str, Any] = {"parties": args.parties, "ids": args.ids, "load_before": load}
    found = set()
    for name, run in (("pairwise", pairwise), ("joint", joint)):
        sent: Tally = {}
        wall, used = time.perf_counter(), time.process_time()
        found.add(run(sets, sent))
        result[f"{name}_s"] = time.perf_counter() - wall
        result[f"{name}_cpu_s"] = time.process_time() - used
        result[f"{name}_bytes"] = sent["bytes"]
    if found != {args.ids // 2}:
        raise SystemExit("the two ways found different intersections")
    result["cpu_ratio"] = result["joint_cpu_s"] / result["pairwise_cpu_s"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.psi_joint", description=__doc__)
    parser.add_argument("--parties", type=int, default=3, help="with the requester")
    parser.add_argument("--ids", type=int, default=100_000, help="of each party")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.parties < 3:
        parser.error("a joint intersection has at least three parties")
    result = measure(args)
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for name, value in result.items():
        print(f"{name:<16} {value:.2f}" if isinstance(value, float) else f"{name:<16} {value}")


if __name__ == "__main__":
    main()
